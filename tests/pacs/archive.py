"""A PACS in memory, which can be away, refuse, and count what is asked of it; and an analysis that takes no time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from scripts.pacs.analysis import Fetched
from scripts.pacs.archive import Found, PacsRefusedError, PacsUnreachableError
from tests.dicom.synthetic import save, slices


class Memory:
    """Holds studies as files' data sets: study -> series -> SOP Instance UID -> data set."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, dict[str, Dataset]]] = {}
        self.away = False
        self.refuses = 0  # so many retrievals
        self.stored: list[str] = []
        self.fails_after: int | None = None  # objects stored
        self.asked: list[str] = []

    def add(self, *images: Dataset) -> None:
        for one in images:
            series = self.held.setdefault(one.StudyInstanceUID, {}).setdefault(one.SeriesInstanceUID, {})
            series[one.SOPInstanceUID] = one

    def head(self, study: str = "", images: int = 3, **changes: object) -> str:
        """A T1w series, in a study of its own unless one is given; the study's UID."""
        study = study or generate_uid()
        changes = {"SeriesInstanceUID": generate_uid(), **changes}
        self.add(*slices(np.zeros((images, 4, 4)), StudyInstanceUID=study, **changes))  # type: ignore[arg-type]
        return study

    def modalities(self, study: str) -> list[str]:
        return sorted(next(iter(one.values())).Modality for one in self.held[study].values())

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise PacsUnreachableError("the PACS cannot be reached")

    def studies(self, query: Mapping[str, str]) -> list[Found]:
        self._answer("studies")
        self.query = dict(query)
        return [Found(uid, sum(map(len, one.values()))) for uid, one in self.held.items()]

    def series(self, study_uid: str) -> list[Found]:
        self._answer("series")
        return [Found(uid, len(one), next(iter(one.values())).Modality) for uid, one in self.held[study_uid].items()]

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        self._answer("instances")
        return list(self.held[study_uid][series_uid])

    def header(self, study_uid: str, series_uid: str) -> Dataset:
        self._answer("header")
        return next(iter(self.held[study_uid][series_uid].values()))

    def fetch(self, study_uid: str, series_uid: str, folder: Path) -> int:
        self._answer("fetch")
        if self.refuses:
            self.refuses -= 1
            raise PacsRefusedError("the PACS answers with HTTP status 500")
        images = list(self.held[study_uid][series_uid].values())
        save(images, folder)
        return len(images)

    def store(self, files: Sequence[Path]) -> None:
        for file in files:
            self._answer("store")
            if self.fails_after is not None and len(self.stored) >= self.fails_after:
                self.fails_after = None
                raise KeyboardInterrupt  # what kills a process gets past every `except Exception`
            one = pydicom.dcmread(file)
            self.add(one)
            self.stored.append(str(one.SOPInstanceUID))


class Analysis:
    """Writes a segmentation, a report and a picture for each series, or says why not."""

    def __init__(self) -> None:
        self.cases: list[str] = []
        self.says: dict[str, list[str]] = {}  # case -> failures, one a call

    def __call__(self, series: Sequence[Fetched], output: Path) -> dict[str, str]:
        said = {}
        for one in series:
            self.cases.append(one.case)
            said[one.case] = self.says.get(one.case, []).pop(0) if self.says.get(one.case) else ""
            if said[one.case]:
                continue
            source = pydicom.dcmread(sorted(one.folder.iterdir())[0])
            for name, modality in (("report", "SR"), ("segmentation", "SEG"), ("pseudo_healthy/0001", "MR")):
                result = slices(
                    np.zeros((1, 4, 4)),
                    StudyInstanceUID=source.StudyInstanceUID,
                    SeriesInstanceUID=generate_uid(),
                    Modality=modality,
                    Manufacturer="PHANES",
                )
                result[0].SOPInstanceUID = generate_uid()
                reference = Dataset()
                reference.SeriesInstanceUID = source.SeriesInstanceUID
                result[0].ReferencedSeriesSequence = [reference]
                file = output / one.case / "dicom" / f"{name}.dcm"
                save(result, file.parent, lambda i, name=file.name: name)  # type: ignore[misc]
        return said
