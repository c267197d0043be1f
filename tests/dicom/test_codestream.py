"""Compressed frames are no larger than their header says, or they are not decoded."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_fragments, generate_frames

from scripts.common.errors import PhanesInputError
from scripts.dicom.codestream import check_frames, declared_size
from scripts.pipeline.readers import CaseLoadImaged

# A delimiter was written over the codestream's width.
BROKEN = "JPEG2000-embedded-sequence-delimiter.dcm"
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def compressed() -> list[Path]:
    """pydicom's sample files with one JPEG, JPEG-LS or JPEG 2000 frame in the first fragment."""
    found = []
    for path in sorted(SAMPLES.glob("*.dcm")):
        image = pydicom.dcmread(path, force=True)
        syntax = str(getattr(getattr(image, "file_meta", None), "TransferSyntaxUID", ""))
        if (
            path.name != BROKEN
            and syntax.startswith("1.2.840.10008.1.2.4.")
            and "PixelData" in image
            and "Rows" in image
        ):
            found.append(path)
    return found


def test_the_size_of_every_sample_is_its_headers() -> None:
    """The oracle is the header, written by whoever compressed the image."""
    paths = compressed()
    assert len(paths) >= 10
    known = 0
    for path in paths:
        image = pydicom.dcmread(path)
        try:
            sizes = {declared_size(fragment) for fragment in generate_fragments(image.PixelData)} - {None}
        except ValueError:  # broken on purpose
            continue
        assert sizes <= {(image.Rows, image.Columns)}, path.name
        known += bool(sizes)
    assert known >= 10


@pytest.mark.parametrize("stream", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0", b"\xff\x4f\xff\x51", b"x" * 300])
def test_no_header_no_size(stream: bytes) -> None:
    assert declared_size(stream) is None


def test_a_frame_that_claims_400_megapixels_is_not_decoded(tmp_path: Path) -> None:
    """OpenJPEG asks for 1.2 GB here."""
    image = pydicom.dcmread(SAMPLES / "693_J2KI.dcm")
    stream = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    at = stream.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">II", stream, at + 8, 20_000, 20_000)
    struct.pack_into(">II", stream, at + 24, 20_000, 20_000)
    image.PixelData = encapsulate([bytes(stream)])
    with pytest.raises(PhanesInputError, match="frame of 20000 x 20000 pixels where its header says 512 x 512"):
        check_frames(image)
    image.save_as(tmp_path / "x.dcm")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PhanesInputError, match="compressed frame of 20000 x 20000"):
        CaseLoadImaged("image")({"image": str(tmp_path / "x.dcm")})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
