"""What the watcher asks of any PACS, and the two errors that it tells apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom.dataset import Dataset

from ..common.errors import PhanesInputError


class PacsUnreachableError(PhanesInputError):
    """The PACS does not answer. No study is at fault, and the same request may succeed later."""


class PacsRefusedError(PhanesInputError):
    """The PACS answers, but does not do what it was asked."""


@dataclass(frozen=True)
class Found:
    """A study or series in a PACS.

    Attributes:
        uid: its Instance UID.
        instances: number of its objects; None when the PACS does not say.
        modality: of a series.
    """

    uid: str
    instances: int | None = None
    modality: str = ""


class Archive(Protocol):
    """A PACS. All methods raise `PacsUnreachableError` and `PacsRefusedError`."""

    def studies(self, query: Mapping[str, str]) -> list[Found]:
        """Studies that match DICOM keywords and values. A value may be a range of dates."""

    def series(self, study_uid: str) -> list[Found]:
        """The series of a study."""

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        """SOP Instance UIDs of a series."""

    def header(self, study_uid: str, series_uid: str) -> Dataset:
        """Header of one object of a series, with or without pixels."""

    def fetch(self, study_uid: str, series_uid: str, folder: Path) -> int:
        """Write a series' objects as files into an existing folder. Returns their number."""

    def store(self, files: Sequence[Path]) -> None:
        """Store DICOM files. One that is there already, under the same UID, counts as stored."""


def batches(files: Sequence[Path], size: int) -> list[list[Path]]:
    """The files in lists of at most `size`."""
    return [list(files[start : start + size]) for start in range(0, len(files), size)]


def missing(wanted: Collection[str], held: Collection[str]) -> list[str]:
    """What is wanted but not held, sorted."""
    return sorted(set(wanted) - set(held))


NOT_INSTALLED = (
    "'{package}' is not installed, which reaches {what}: install it with `pip install -r requirements-pacs.txt`."
)
