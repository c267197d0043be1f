"""What is fuzzed, and what must hold whatever the bytes are.

A target takes bytes, makes files of them and hands these to the package as a run does: `find_cases` with the series
rules, then the loader for each case. Either there is an image, whole and finite, or a `PhanesInputError` with one
sentence. Anything else is a finding.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from scripts.common.errors import PhanesInputError
from scripts.dicom.selection import SeriesSelection
from scripts.pipeline.cases import find_cases
from scripts.pipeline.readers import CaseLoadImaged
from tests.soak import corpus

MEMORY = Path("/dev/shm")  # noqa: S108 - files that live for a millisecond; private, by mkdtemp
RULES = json.loads((corpus.REPOSITORY / "bundle" / "configs" / "dicom_series.json").read_text(encoding="utf-8"))

LIBRARIES = ("nibabel.global", "pydicom", "highdicom", "PIL")


class Workplace:
    """A folder in memory, the loader and the rules: what every execution uses again."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None, prefix="phanes-fuzz-"))
        self.folder = self.home / "work"  # a link to ".." in it leads nowhere but home
        self.folder.mkdir()
        self.load = CaseLoadImaged("image")
        self.selections = [SeriesSelection(rules) for rules in (RULES, {**RULES, "choose": "best"}, None)]
        self.bases = corpus.series_bases()
        for name in LIBRARIES:  # as the loader does for each file anew
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.home, ignore_errors=True)

    def emptied(self) -> Path:
        """The folder, with nothing in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    def analyse(self, path: Path, rules: int = 0) -> int:
        """Find and read all that a path holds; the number of images."""
        try:
            items = find_cases(path, self.selections[rules % len(self.selections)])
        except PhanesInputError as error:
            check_sentence(error)
            return 0
        names = [item["case"] for item in items]
        assert len({name.casefold() for name in names}) == len(names), "two cases have one name"
        assert all(name.isprintable() and "/" not in name and 0 < len(os.fsencode(name)) <= 200 for name in names)
        return sum(self._read(item) for item in items)

    def _read(self, item: dict) -> int:
        try:
            image = self.load(item)["image"]
        except PhanesInputError as error:
            check_sentence(error, item["image"])
            return 0
        assert image.ndim == 3, "no volume"
        assert min(image.shape) >= 1, "an empty volume"
        assert image.dtype == torch.float32
        assert image.isfinite().all(), "not finite"
        assert image.affine.isfinite().all(), "an unusable position"
        assert np.linalg.det(image.affine[:3, :3].numpy()) != 0, "a singular affine"
        return 1


def check_sentence(error: PhanesInputError, path: str = "") -> None:
    """One sentence on one line, that names the file and shows nothing of the program's insides."""
    text = str(error).replace(path, "", 1)
    assert text.rstrip().endswith("."), text
    assert len(text) < 1500, text
    for word in ("\n", "Traceback", "<class", "object at 0x"):
        assert word not in text, text


def nifti(work: Workplace, data: bytes) -> int:
    """One NIfTI file: gzip as it is; of odd length, packed with a right checksum; else plain."""
    packed = data[:2] == b"\x1f\x8b"
    path = work.folder / ("x.nii.gz" if packed or len(data) % 2 else "x.nii")
    path.write_bytes(gzip.compress(data, 1) if len(data) % 2 and not packed else data)
    return work.analyse(path)


def png(work: Workplace, data: bytes) -> int:
    """One PNG file, of odd length with right checksums, so that a change gets beyond them."""
    path = work.folder / "x.png"
    path.write_bytes(with_checksums(data) if len(data) % 2 else data)
    return work.analyse(path)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks all have the checksum of their content."""
    made, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = min(struct.unpack_from(">I", data, at)[0], len(data) - at - 12)
        body = data[at + 4 : at + 8 + length]
        made += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(made)


def dicom(work: Workplace, data: bytes) -> int:
    """One DICOM file, named by the user."""
    path = work.folder / "x.dcm"
    path.write_bytes(data)
    return work.analyse(path, len(data))


def series(work: Workplace, data: bytes) -> int:
    """A folder of three slices with bytes changed: after one that chooses, (slice, place, place, byte) each."""
    folder = work.emptied()
    choice = data[0] if data else 0
    files = [bytearray(file) for file in work.bases[choice % len(work.bases)]]
    for at in range(1, len(data) - 3, 4):
        file = files[data[at] % len(files)]
        file[128 + int.from_bytes(data[at + 1 : at + 3], "big") % (len(file) - 128)] = data[at + 3]
    for index, file in enumerate(files):
        (folder / f"{index}.dcm").write_bytes(file)
    return work.analyse(folder, choice // 2)


def finder(work: Workplace, data: bytes) -> int:
    """A tree of files, folders and links with names and contents from the bytes, one entry a zero byte."""
    root = work.emptied()
    folders = [root]
    for entry in data.split(b"\0")[:6]:
        if len(entry) < 2:
            continue
        kind, name = entry[0], bytes(c for c in entry[1:120] if c != ord("/"))
        if name in (b"", b".", b".."):
            continue
        path = Path(os.fsdecode(os.fsencode(folders[kind // 64 % len(folders)]) + b"/" + name))
        if path.is_symlink() or path.exists():
            continue
        make = KINDS_OF_ENTRIES[kind % len(KINDS_OF_ENTRIES)]
        make(path, entry)
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
    return work.analyse(root, len(data))


PNG, NIFTI = next(corpus.png_seeds()), next(corpus.nifti_seeds())
DICOM = corpus.series_bases()[0][0]
KINDS_OF_ENTRIES: tuple[Callable[[Path, bytes], object], ...] = (
    lambda path, entry: path.mkdir(),
    lambda path, entry: path.write_bytes(PNG),
    lambda path, entry: path.write_bytes(NIFTI),
    lambda path, entry: path.write_bytes(DICOM),
    lambda path, entry: path.write_bytes(DICOM[: 132 + 7 * len(entry)]),
    lambda path, entry: path.write_bytes(entry),
    lambda path, entry: path.symlink_to(os.fsdecode(entry[1:9])),
    lambda path, entry: path.symlink_to(".."),
    lambda path, entry: os.mkfifo(path),
    lambda path, entry: (path.mkdir(), (path / ".phanes").mkdir()),
)


def finder_seeds() -> Iterable[bytes]:
    """Trees with every kind of entry and usual, odd and clashing names."""
    names = [b"a", b"b.nii.gz", b"c.png", b"C.PNG", b"d.dcm", b"DICOMDIR", b"IM0001", b".hidden.nii", b"x.nii.gz"]
    for kind in range(len(KINDS_OF_ENTRIES)):
        yield b"\0".join(bytes([kind]) + name for name in names[kind % 3 :: 3])
        yield b"\0".join([b"@sub", bytes([64 + kind]) + names[kind % len(names)], bytes([kind]) + "מוח.png".encode()])


def series_seeds() -> Iterable[bytes]:
    """Nothing changed; a byte of each slice changed."""
    for choice in range(6):
        yield bytes([choice])
        yield bytes([choice, 0, 1, 50, 65, 1, 2, 60, 49, 2, 2, 90, 0])


Target = Callable[[Workplace, bytes], int]
TARGETS: dict[str, tuple[Target, Callable[[], Iterable[bytes]]]] = {
    "nifti": (nifti, corpus.nifti_seeds),
    "png": (png, corpus.png_seeds),
    "dicom": (dicom, corpus.dicom_seeds),
    "series": (series, series_seeds),
    "finder": (finder, finder_seeds),
}
