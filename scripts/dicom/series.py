"""Group DICOM files into series by their headers, wherever the files lie."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from .frames import first_of
from .headers import header_number, header_values, read_header

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
# Single images that agree in these, in one study and folder, are slices of one acquisition.
ACQUISITION = (
    *("PatientID", "SeriesDescription", "ImageType", "EchoTime", "Rows", "Columns", "PixelSpacing"),
    *("ImageOrientationPatient", "NumberOfFrames"),
)
TIMES = ("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "SeriesDate", "SeriesTime")
PREFERRED = ("ImageType", "ContrastBolusAgent", "EchoTime", "AcquisitionNumber")  # by these one file is typical
INDEX_TAGS = [*UIDS, *PREFERRED, *ACQUISITION, *TIMES, "SOPClassUID", "SeriesNumber", "ImagePositionPatient"]
LEAST_SLICES = 3  # fewer single images are no volume that lost its series

Instances = dict[tuple[str, ...], Dataset]


@dataclass(frozen=True, eq=False)
class Series:
    """Image files that share Study and Series Instance UID, number, description and kind of object.

    Attributes:
        files: paths, sorted by name. The order says nothing about positions.
        uid: Series Instance UID, "" when the files have none or cannot be read.
        study_uid: Study Instance UID, likewise.
        note: what a reader of the results should know about the files; "" for nothing.
        typical: the file whose header stands for the series. Among several kinds of images it is the one to be taken.
        began: earliest date and time of acquisition, "" when not known.
    """

    files: tuple[Path, ...]
    uid: str = ""
    study_uid: str = ""
    note: str = ""
    typical: Path | None = None
    began: str = ""

    @property
    def folder(self) -> Path:
        """The folder all files lie below."""
        return Path(os.path.commonpath([file.parent for file in self.files]))

    @cached_property
    def header(self) -> Dataset:
        """Header of the typical file; empty when it cannot be read."""
        try:
            return read_header(self.typical or self.files[0])
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
    def axis(self) -> int | None:
        """Axis of the patient that is nearest to the slices' normal: 0, 1 or 2; None when not known."""
        try:
            cosines = np.array(header_values(self.header, "ImageOrientationPatient"), dtype=float)
            return int(np.abs(np.cross(cosines[:3], cosines[3:])).argmax())
        except (TypeError, ValueError):
            return None

    @property
    def description(self) -> str:
        """Series description, else protocol name, on one line."""
        names = header_values(self.header, "SeriesDescription") or header_values(self.header, "ProtocolName")
        return " ".join(" ".join(map(str, names)).split())


def find_series(files: Iterable[Path]) -> list[Series]:
    """Group DICOM files into series.

    Objects without pixels (reports, presentation states, DICOMDIR) are passed over. Unreadable files beside readable
    ones become a note; alone in their folder they are a series. Files of one series may lie in several folders. A
    second copy of them in another folder is another series. Slices of one acquisition that each have a Series Instance
    UID of their own are one series.

    Args:
        files: paths that `is_dicom_file` accepts.

    Returns:
        Series sorted by their first file's path.
    """
    groups: dict[tuple[str, ...], dict[Path, Instances]] = defaultdict(lambda: defaultdict(dict))
    repeated: dict[Path, int] = defaultdict(int)
    unreadable: dict[Path, list[Path]] = defaultdict(list)
    readable: set[Path] = set()
    for path in sorted(files):
        try:
            header = read_header(path, INDEX_TAGS)
            study, uid, instance = (_text(header, name) for name in UIDS)
            has_pixels = "Rows" in header
        except Exception:  # noqa: BLE001 - pydicom raises many kinds
            unreadable[path.parent].append(path)
            continue
        if not has_pixels:
            continue
        readable.add(path.parent)
        # Without a series UID the folder is the series; without an instance UID each file counts. Some exports give
        # one UID to several series, or add a screenshot.
        told_apart = (_text(header, name) for name in ("SeriesNumber", "SeriesDescription", "SOPClassUID"))
        group = (study, uid, "" if uid else str(path.parent), *told_apart)
        instances = groups[group][path.parent]
        identity = (instance or str(path), _text(header, "ImagePositionPatient"))
        if identity not in instances:
            instances[identity] = header
        elif _pixels(path) == _pixels(Path(str(instances[identity].filename))):
            repeated[path.parent] += 1
        else:
            instances[identity[0], identity[1], str(path)] = header
    found: list[tuple[str, str, list[Dataset], str]] = [
        (study, uid, list(instances.values()), note)
        for (study, uid, *_), folders in groups.items()
        for instances, note in _joined(folders, unreadable, repeated)
    ]
    series = [_series(*one) for one in _lost_series_joined(found)]
    series += [Series(tuple(paths)) for folder, paths in unreadable.items() if folder not in readable]
    return sorted(series, key=lambda one: one.files[0])


def _text(header: Dataset, keyword: str) -> str:
    return "\\".join(map(str, header_values(header, keyword)))


def _pixels(path: Path) -> bytes:
    try:
        return bytes(pydicom.dcmread(path, force=True).get("PixelData", b""))
    except Exception:  # noqa: BLE001 - a broken file equals no other
        return str(path).encode("utf-8", "surrogateescape")


def _series(study: str, uid: str, headers: list[Dataset], note: str) -> Series:
    order = sorted(headers, key=lambda one: (*(first_of(_text(one, name)) for name in PREFERRED), str(one.filename)))
    files = [Path(str(one.filename)) for one in order]
    times = ([_text(one, name) for name in TIMES] for one in headers)
    began = min(moment or (time and date + time) or (hour and day + hour) for date, time, moment, day, hour in times)
    return Series(tuple(sorted(files)), uid, study, note, files[0], began)


def _lost_series_joined(
    found: list[tuple[str, str, list[Dataset], str]],
) -> list[tuple[str, str, list[Dataset], str]]:
    """Join single images of one acquisition at different positions, each in a series of its own."""
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, (study, _, headers, _) in enumerate(found):
        if len(headers) == 1 and study:
            folder = str(Path(str(headers[0].filename)).parent)
            acquisition = (study, folder, *(_text(headers[0], name) for name in ACQUISITION))
            alike[acquisition].append(i)
    result = dict(enumerate(found))
    for members in alike.values():
        headers = [found[i][2][0] for i in members]
        if len(members) < LEAST_SLICES or len({_text(h, "ImagePositionPatient") for h in headers}) < len(members):
            continue
        note = "; ".join(filter(None, {found[i][3] for i in members}))
        note = "; ".join(filter(None, [note, f"its {len(members)} slices have a Series Instance UID each"]))
        result[members[0]] = (*found[members[0]][:2], headers, note)
        for i in members[1:]:
            del result[i]
    return list(result.values())


def _joined(
    folders: dict[Path, Instances], unreadable: dict[Path, list[Path]], repeated: dict[Path, int]
) -> list[tuple[Instances, str]]:
    """Join the instances of folders that complete each other. Folders with the same instances stay apart."""
    parts: list[tuple[Instances, list[str]]] = []
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
