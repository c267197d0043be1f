"""A PACS as a DICOM node, by pynetdicom: C-FIND to search, C-GET to fetch, C-STORE to store."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    RLELossless,
    SegmentationStorage,
)

from ..common.errors import PhanesInputError
from .archive import NOT_INSTALLED, Found, PacsRefusedError, PacsUnreachableError

try:
    from pynetdicom import AE, build_role, evt
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
    )
except ImportError as error:
    raise PhanesInputError(NOT_INSTALLED.format(package="pynetdicom", what="a DICOM node")) from error

FETCHED = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, SegmentationStorage)
PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
# One presentation context each, so that the node sends an image as it has it.
COMPRESSED = [
    *(DeflatedExplicitVRLittleEndian, RLELossless),
    *(*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes),
]
PENDING = (0xFF00, 0xFF01)
STORED = (0x0000, 0x0111, 0xB000, 0xB006, 0xB007)  # success, is there already, stored with a warning


class DicomNode:
    """`archive.Archive` over DIMSE.

    Args:
        host, port, title: of the node.
        own_title: AE title of the watcher; the node must know it.
        timeout: seconds without an answer.
    """

    def __init__(self, host: str, port: int, title: str, own_title: str, timeout: float) -> None:
        self.address = (host, port)
        self.title = title
        self.own_title = own_title
        self.timeout = timeout

    def studies(self, query: Mapping[str, str]) -> list[Found]:
        found = self._find("STUDY", {"NumberOfStudyRelatedInstances": "", "StudyInstanceUID": "", **query})
        return [Found(str(one.StudyInstanceUID), _count(one, "NumberOfStudyRelatedInstances")) for one in found]

    def series(self, study_uid: str) -> list[Found]:
        keys = {"SeriesInstanceUID": "", "Modality": "", "NumberOfSeriesRelatedInstances": ""}
        return [
            Found(
                str(one.SeriesInstanceUID),
                _count(one, "NumberOfSeriesRelatedInstances"),
                str(one.get("Modality", "")),
            )
            for one in self._find("SERIES", {"StudyInstanceUID": study_uid, **keys})
        ]

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "SOPInstanceUID": ""}
        return [str(one.SOPInstanceUID) for one in self._find("IMAGE", keys)]

    def header(self, study_uid: str, series_uid: str) -> Dataset:
        place = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        found = self._find("IMAGE", {**place, "SOPInstanceUID": "", "SOPClassUID": ""})
        if not found:
            raise PacsRefusedError("the PACS lists a series without images")
        if found[0].get("SOPClassUID") and found[0].SOPClassUID not in FETCHED:
            return found[0]  # enough for the rules to leave it out
        with tempfile.TemporaryDirectory() as folder:
            self._get("IMAGE", {**place, "SOPInstanceUID": str(found[0].SOPInstanceUID)}, Path(folder))
            for path in Path(folder).iterdir():
                return pydicom.dcmread(path)
        raise PacsRefusedError("the PACS did not send an image it lists")

    def fetch(self, study_uid: str, series_uid: str, folder: Path) -> int:
        self._get("SERIES", {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}, folder)
        return sum(1 for _ in folder.iterdir())

    def store(self, files: Sequence[Path]) -> None:
        kinds = {(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in map(_head, files)}
        entity = self._entity()
        for kind, syntax in sorted(kinds):
            entity.add_requested_context(kind, syntax)
        refused = 0
        with self._associated(entity) as association:
            for file in files:
                try:
                    answer = association.send_c_store(pydicom.dcmread(file))
                except ValueError as error:  # no context for it
                    raise PacsRefusedError(
                        "the DICOM node does not take the results' kinds of objects: allow them there"
                    ) from error
                _check_answer(answer)
                refused += answer.Status not in STORED
        if refused:
            raise PacsRefusedError(f"the DICOM node did not store {refused} of {len(files)} objects")

    def _find(self, level: str, keys: Mapping[str, str]) -> list[Dataset]:
        entity = self._entity()
        entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        found = []
        with self._associated(entity) as association:
            for answer, one in association.send_c_find(
                _identifier(level, keys), StudyRootQueryRetrieveInformationModelFind
            ):
                _check_answer(answer)
                if answer.Status in PENDING and one is not None:
                    found.append(one)
                elif answer.Status != 0:
                    raise PacsRefusedError(f"the DICOM node refuses a query (status 0x{answer.Status:04X})")
        return found

    def _get(self, level: str, keys: Mapping[str, str], folder: Path) -> None:
        """Have the objects sent here. Each is written as a file, byte for byte."""
        entity = self._entity()
        entity.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
        for kind in FETCHED:
            for syntaxes in (PLAIN, *([syntax] for syntax in COMPRESSED)):
                entity.add_requested_context(kind, syntaxes)
        roles = [build_role(kind, scp_role=True) for kind in FETCHED]
        count = 0

        def save(event: Any) -> int:
            nonlocal count
            count += 1
            (folder / f"{count:06d}.dcm").write_bytes(event.encoded_dataset())
            return 0x0000

        with self._associated(entity, roles, [(evt.EVT_C_STORE, save)]) as association:
            for answer, _ in association.send_c_get(
                _identifier(level, keys), StudyRootQueryRetrieveInformationModelGet
            ):
                _check_answer(answer)
                if answer.Status not in (*PENDING, 0x0000):
                    raise PacsRefusedError(f"the DICOM node refuses a retrieval (status 0x{answer.Status:04X})")

    def _entity(self) -> Any:
        entity = AE(ae_title=self.own_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.timeout
        entity.connection_timeout = self.timeout
        return entity

    @contextmanager
    def _associated(self, entity: Any, roles: Sequence[Any] = (), handlers: Sequence[Any] = ()) -> Iterator[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            association = entity.associate(
                *self.address, ae_title=self.title, ext_neg=list(roles), evt_handlers=list(handlers)
            )
        if association.is_rejected:
            raise PacsRefusedError("the DICOM node rejects the association: enter our ae_title there")
        if not association.is_established:
            raise PacsUnreachableError("the DICOM node cannot be reached")
        try:
            yield association
        finally:
            if association.is_established:
                association.release()


def _check_answer(answer: Dataset) -> None:
    """Refuse an answer without a status: the connection broke, or it took too long."""
    if "Status" not in answer:
        raise PacsUnreachableError("the DICOM node broke off in the middle of an answer")


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value or None)
    return identifier


def _head(file: Path) -> Dataset:
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])


def _count(one: Dataset, keyword: str) -> int | None:
    try:
        return int(one.get(keyword))
    except (TypeError, ValueError):
        return None
