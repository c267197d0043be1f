"""The size that a compressed frame claims. It is checked before a decoder asks for that much memory."""

from __future__ import annotations

import struct

from pydicom import encaps  # not the function: MONAI Label's pydicom 2, which reads no DICOM here, lacks it
from pydicom.dataset import Dataset

from ..common.errors import PhanesInputError

JPEG, JPEG_2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"  # begin of the image; begin of the codestream and its size
# Markers of a frame's header (ITU-T T.81 table B.1, T.87 for JPEG-LS); C4, C8 and CC among them mean something else.
FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def declared_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) in the header of a JPEG, JPEG-LS or JPEG 2000 codestream. None without such a header."""
    start = stream.find(JPEG_2000, 0, 256)  # a few writers leave the boxes of a JP2 file around it
    if start >= 0 and len(stream) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">IIII", stream, start + 8)
        return bottom - top, right - left
    if not stream.startswith(JPEG):
        return None
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], struct.unpack_from(">H", stream, at + 2)[0]
        if marker in FRAME_HEADERS:
            rows, columns = struct.unpack_from(">HH", stream, at + 5)
            return rows, columns
        at += 1 if marker == 0xFF else 2 + length  # any number of FF may stand before a marker
    return None


def check_frames(image: Dataset) -> None:
    """Refuse a compressed image whose frames are larger than its header says.

    Raises:
        PhanesInputError: one is. The path is left out.
    """
    if not image.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    for fragment in encaps.generate_fragments(image.PixelData):
        size = declared_size(fragment)
        if size is not None and (size[0] > image.Rows or size[1] > image.Columns):
            raise PhanesInputError(
                f"holds a compressed frame of {size[1]} x {size[0]} pixels where its header says "
                f"{image.Columns} x {image.Rows}; export the image again"
            )
