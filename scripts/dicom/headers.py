"""Headers of DICOM files: which files are DICOM, and the values of attributes."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ..common.errors import PhanesInputError

DEFLATED = str(DeflatedExplicitVRLittleEndian).encode()
FIRST_KINDS = (b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"DT", b"SH", b"LO")  # of the first elements of a data set
MAX_DEFLATED_BYTES = 2**28  # an enhanced object of 16 bits and 512 x 512 x 400

logger = logging.getLogger(__name__)


def is_dicom_file(path: Path) -> bool:
    """True for a readable file with a DICOM preamble, the suffix `.dcm`, or a data set at its very beginning."""
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or _begins_a_data_set(start)


def _begins_a_data_set(start: bytes) -> bool:
    """True for a first element of group 2 or 8 with a small length, explicit or implicit, in either byte order."""
    if len(start) < 12:
        return False
    for order in "<>":
        group, element, implicit = struct.unpack_from(f"{order}HHI", start)
        explicit = struct.unpack_from(f"{order}H", start, 6)[0]
        length = explicit if start[4:6] in FIRST_KINDS else implicit
        if group in (2, 8) and element <= 0x20 and length <= 64 and length % 2 == 0:
            return True
    return False


def check_deflated(path: Path) -> None:
    """Refuse a deflated data set that unpacks to more than any image. pydicom would unpack all of it at once.

    Raises:
        PhanesInputError: it does. The path is left out.
    """
    with path.open("rb") as file:
        start = file.read(4096)
        if DEFLATED not in start or start[128:132] != b"DICM":
            return
        # The group length of the file meta information is its first element, and says where that ends.
        file.seek(144 + struct.unpack_from("<I", start, 140)[0])
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not unpacker.eof and (block := unpacker.unconsumed_tail or file.read(1 << 16)):
            size += len(unpacker.decompress(block, 1 << 20))
            if size > MAX_DEFLATED_BYTES:
                raise PhanesInputError(f"unpacks to more than {MAX_DEFLATED_BYTES} bytes; check the file")


def read_header(path: Path, tags: list[str] | None = None) -> Dataset:
    """Header without pixels. With `tags`, which must hold SOPClassUID, it has the named attributes only.

    Raises:
        InvalidDicomError: the file holds no DICOM object. Broken files raise whatever pydicom raises.
    """
    check_deflated(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # header quirks that pydicom mends by itself
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
    if "SOPClassUID" not in header:
        raise InvalidDicomError("holds no DICOM object")
    return header


def header_values(header: Dataset, keyword: str, frame: int = 0) -> list[Any]:
    """Values of an attribute, without empty ones. There are none when they cannot be decoded.

    Args:
        header: of a single-frame object, or of an enhanced one; its functional groups are searched first.
        keyword: of the attribute.
        frame: of an enhanced object.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _find(header, keyword, frame)
        except Exception:  # pydicom decodes when a value is asked for, and raises many kinds on a broken one
            logger.debug("%s cannot be decoded", keyword, exc_info=True)
            return []


def _find(header: Dataset, keyword: str, frame: int) -> list[Any]:
    groups = [*header.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]]
    groups += header.get("SharedFunctionalGroupsSequence", [])[:1]
    for group in groups:
        for macro in (element.value for element in group if element.VR == "SQ"):
            if len(macro) and keyword in macro[0]:
                return _listed(macro[0][keyword].value)
    return _listed(header[keyword].value) if keyword in header else []


def header_number(header: Dataset, keyword: str) -> int | None:
    """The first value of an attribute as a whole number; None when there is none."""
    try:
        return int(header_values(header, keyword)[0])
    except (IndexError, TypeError, ValueError):
        return None


def _listed(value: Any) -> list[Any]:
    many = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return [one for one in (value if many else [value]) if one is not None and one != ""]
