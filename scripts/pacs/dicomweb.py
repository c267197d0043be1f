"""A PACS over DICOMweb, by dicomweb-client: QIDO-RS to search, WADO-RS to fetch, STOW-RS to store."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from ..common.errors import PhanesInputError
from .archive import NOT_INSTALLED, Found, PacsRefusedError, PacsUnreachableError, missing

try:
    import requests
    from dicomweb_client.api import DICOMwebClient
except ImportError as error:
    raise PhanesInputError(NOT_INSTALLED.format(package="dicomweb-client", what="a PACS over DICOMweb")) from error

AS_STORED = (("application/dicom", "*"),)  # in the transfer syntax the archive has
CONFLICT = 409  # nothing was stored
AWAY = (502, 503, 504)  # said by a proxy in front of an archive that is down, or by one that starts


class DicomWeb:
    """`archive.Archive` over DICOMweb.

    User and password come from `~/.netrc`, certificates and proxies from the variables that `requests` reads.

    Args:
        url: base of the service, such as `https://host/dicom-web`.
        headers: sent with every request.
        timeout: seconds without an answer.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        try:
            self.client = DICOMwebClient(url.rstrip("/"), headers=dict(headers), timeout=timeout)
        except ValueError as error:
            raise PhanesInputError("pacs is no URL of a DICOMweb service: give https://host/dicom-web.") from error
        self.client.set_http_retry_params(retry=False)  # the watcher has its own patience

    def studies(self, query: Mapping[str, str]) -> list[Found]:
        def page(**place: int) -> list[dict]:
            wanted = ["StudyInstanceUID", "NumberOfStudyRelatedInstances"]
            return self.client.search_for_studies(search_filters=dict(query), fields=wanted, **place)

        return [
            Found(uid, _count(one, "NumberOfStudyRelatedInstances"))
            for uid, one in self._pages(page, "StudyInstanceUID")
        ]

    def series(self, study_uid: str) -> list[Found]:
        def page(**place: int) -> list[dict]:
            wanted = ["SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"]
            return self.client.search_for_series(study_uid, fields=wanted, **place)

        return [
            Found(uid, _count(one, "NumberOfSeriesRelatedInstances"), str(one.get("Modality", "")))
            for uid, one in self._pages(page, "SeriesInstanceUID")
        ]

    def instances(self, study_uid: str, series_uid: str) -> list[str]:
        def page(**place: int) -> list[dict]:
            return self.client.search_for_instances(study_uid, series_uid, fields=["SOPInstanceUID"], **place)

        return [uid for uid, _ in self._pages(page, "SOPInstanceUID")]

    def header(self, study_uid: str, series_uid: str) -> Dataset:
        with _errors():
            first = self.client.search_for_instances(study_uid, series_uid, limit=1)
            if not first:
                raise PacsRefusedError("the PACS lists a series without images")
            uid = str(_dataset(first[0]).SOPInstanceUID)
            return _dataset(self.client.retrieve_instance_metadata(study_uid, series_uid, uid))

    def fetch(self, study_uid: str, series_uid: str, folder: Path) -> int:
        count = 0
        with _errors():
            for count, image in enumerate(self.client.iter_series(study_uid, series_uid, AS_STORED), start=1):
                image.save_as(folder / f"{count:06d}.dcm", enforce_file_format=True)
        return count

    def store(self, files: Sequence[Path]) -> None:
        images = [pydicom.dcmread(file) for file in files]
        try:
            with _errors():
                answer = self.client.store_instances(images)
            failed = {str(item.get("ReferencedSOPInstanceUID", "")) for item in answer.get("FailedSOPSequence", [])}
        except PacsRefusedError as error:
            if getattr(getattr(error.__cause__, "response", None), "status_code", 0) != CONFLICT:
                raise
            failed = {str(image.SOPInstanceUID) for image in images}
        if failed:  # perhaps because it is there already
            places = {(image.StudyInstanceUID, image.SeriesInstanceUID) for image in images}
            held = [uid for place in places for uid in self.instances(*place)]
            if missing(failed, held):
                raise PacsRefusedError(f"the PACS did not store {len(missing(failed, held))} of {len(files)} objects")

    @staticmethod
    def _pages(page: Callable[..., list[dict]], key: str) -> Iterator[tuple[str, Dataset]]:
        """All results of a search. Some servers answer in parts; some ignore where a part should begin."""
        seen: set[str] = set()
        offset = 0
        while True:
            with _errors():
                answer = [_dataset(one) for one in page(**({"offset": offset} if offset else {}))]
            new = [(str(one[key].value), one) for one in answer if one.get(key) and str(one[key].value) not in seen]
            if not new:
                return
            yield from new
            seen |= {uid for uid, _ in new}
            offset += len(answer)


def _dataset(entries: dict[str, Any]) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break the standard's rules
        # Bulk data (pixels) stay where they are.
        return Dataset.from_json(entries, bulk_data_uri_handler=lambda tag, vr, uri: None)


def _count(one: Dataset, keyword: str) -> int | None:
    try:
        return int(one.get(keyword))
    except (TypeError, ValueError):
        return None


@contextmanager
def _errors() -> Iterator[None]:
    """Turn all errors into the two that the watcher tells apart. The URL is left out: it may hold a password."""
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        kind = PacsUnreachableError if status in AWAY else PacsRefusedError
        hint = ": give the credentials in ~/.netrc or as headers" if status in (401, 403) else ""
        raise kind(f"the PACS answers with HTTP status {status}{hint}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        reason = "does not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
        raise PacsUnreachableError(f"the PACS {reason}") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise PacsUnreachableError("the PACS broke off in the middle of an answer") from error
    except PhanesInputError:
        raise
    except Exception as error:
        # dicomweb-client and pydicom raise many kinds on an answer that is no DICOM.
        raise PacsRefusedError("the PACS gives an answer that is not DICOMweb") from error
