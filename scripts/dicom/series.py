"""Grouping DICOM files into series by what their headers say, wherever the files lie."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydicom.dataset import Dataset

from .headers import header_number, header_values, read_header

INDEX_TAGS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Rows"]


@dataclass(frozen=True, eq=False)
class Series:
    """Image files that share Study and Series Instance UID.

    Attributes:
        files: paths, sorted by name; the order says nothing about positions.
        uid: Series Instance UID, "" when the files have none or cannot be read.
        study_uid: Study Instance UID, likewise.
        note: what a reader of the results should know about the files, "" for nothing.
    """

    files: tuple[Path, ...]
    uid: str = ""
    study_uid: str = ""
    note: str = ""

    @property
    def folder(self) -> Path:
        """The folder all files lie below."""
        return Path(os.path.commonpath([file.parent for file in self.files]))

    @cached_property
    def header(self) -> Dataset:
        """Header of the first file, empty when it cannot be read."""
        try:
            return read_header(self.files[0])
        except Exception:  # noqa: BLE001 - the reader says later what is wrong with the file
            return Dataset()

    @property
    def frames(self) -> int:
        """Number of images: of files, or of the frames of a multi-frame file."""
        return len(self.files) if len(self.files) > 1 else header_number(self.header, "NumberOfFrames") or 1

    @property
    def number(self) -> int | None:
        """Series number, where there is one."""
        return header_number(self.header, "SeriesNumber")

    @property
    def description(self) -> str:
        """Series description, else protocol name, on one line."""
        names = header_values(self.header, "SeriesDescription") or header_values(self.header, "ProtocolName")
        return " ".join(" ".join(map(str, names)).split())


def find_series(files: Iterable[Path]) -> list[Series]:
    """Group DICOM files into series.

    Objects without pixels (reports, presentation states) are passed over. Files that cannot be read make a series of
    their own when nothing else lies in their folder; beside readable ones they become a note. A series whose files are
    spread over folders is one series; a second copy of the same files in another folder is another.

    Args:
        files: paths that `is_dicom_file` accepts.

    Returns:
        Series sorted by their first file's path.
    """
    groups: dict[tuple[str, str, str], dict[Path, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    repeated: dict[Path, int] = defaultdict(int)
    unreadable: dict[Path, list[Path]] = defaultdict(list)
    readable: set[Path] = set()
    for path in sorted(files):
        try:
            header = read_header(path, INDEX_TAGS)
            uids = [str(next(iter(header_values(header, name)), "")) for name in INDEX_TAGS[:3]]
            has_pixels = "Rows" in header
        except Exception:  # noqa: BLE001 - pydicom raises many kinds
            unreadable[path.parent].append(path)
            continue
        if not has_pixels:
            continue
        readable.add(path.parent)
        # Without a series UID the folder is the series; without an instance UID each file counts.
        instances = groups[uids[0], uids[1], "" if uids[1] else str(path.parent)][path.parent]
        if uids[2] in instances:
            repeated[path.parent] += 1
        else:
            instances[uids[2] or str(path)] = path
    series = [
        Series(tuple(sorted(instances.values())), uid, study_uid, note)
        for (study_uid, uid, _), folders in groups.items()
        for instances, note in _joined(folders, unreadable, repeated)
    ]
    series += [Series(tuple(paths)) for folder, paths in unreadable.items() if folder not in readable]
    return sorted(series, key=lambda one: one.files[0])


def _joined(
    folders: dict[Path, dict[str, Path]], unreadable: dict[Path, list[Path]], repeated: dict[Path, int]
) -> list[tuple[dict[str, Path], str]]:
    """Instances of folders that complete each other; folders that hold the same instances again stay apart."""
    parts: list[tuple[dict[str, Path], list[str]]] = []
    for folder, instances in folders.items():
        notes = []
        if repeated[folder]:
            notes.append(f"{repeated[folder]} repeated DICOM files were left out")
        if unreadable[folder]:
            first = unreadable[folder][0].name
            notes.append(f"{len(unreadable[folder])} DICOM files beside this series cannot be read ('{first}')")
        for known, known_notes in parts:
            if known.keys().isdisjoint(instances):
                known.update(instances)
                known_notes.extend(notes)
                break
        else:
            parts.append((dict(instances), notes))
    return [(instances, "; ".join(notes)) for instances, notes in parts]
