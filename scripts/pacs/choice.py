"""Which series of a study are analysed: the bundle's rules judge headers before any image is fetched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from ..dicom.concepts import NAME
from ..dicom.headers import header_values
from ..dicom.selection import Decision, choose_series
from ..dicom.series import Series
from .archive import Archive, Found


class RemoteSeries(Series):
    """`dicom.series.Series` whose files lie in a PACS.

    Args:
        study_uid, found: what it is.
        header: of one of its objects.
    """

    def __init__(self, study_uid: str, found: Found, header: Dataset) -> None:
        super().__init__(files=(Path(found.uid),), uid=found.uid, study_uid=study_uid)
        self.__dict__["header"] = header  # a cached property
        self.__dict__["instances"] = found.instances

    @property
    def frames(self) -> int:
        """Number of images."""
        count = self.__dict__["instances"]
        return count if count and count > 1 else super().frames


def decide(archive: Archive, study_uid: str, found: Sequence[Found], rules: Mapping[str, Any] | None) -> list[Decision]:
    """What the rules say of each series of a study, by the header of one of its objects."""
    return choose_series([RemoteSeries(study_uid, one, archive.header(study_uid, one.uid)) for one in found], rules)


def results_in_archive(archive: Archive, study_uid: str, found: Sequence[Found]) -> dict[str, str]:
    """Series with results in the PACS: UID -> UID of the segmentation's series.

    The segmentation is stored last. Where it is, all results are.

    Args:
        archive: of the study.
        study_uid: of the study.
        found: its series.
    """
    results: dict[str, str] = {}
    for one in found:
        if one.modality == "SEG":
            header = archive.header(study_uid, one.uid)
            if header_values(header, "Manufacturer") == [NAME]:
                for item in header.get("ReferencedSeriesSequence", []):
                    results[str(item.get("SeriesInstanceUID", ""))] = one.uid
    return results


def sorted_for_storing(files: Collection[Path]) -> list[Path]:
    """The objects of one case by path, the segmentation last."""
    return sorted(files, key=lambda file: (file.name == "segmentation.dcm", str(file)))
