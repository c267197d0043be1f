"""Small files that the fuzzers begin with: real ones, cut down, and one of every kind that code can make."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from tests.pipeline.bad_inputs import dicom_slice

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / os.environ.get("PHANES_DATA", "../shared/data")
MAX_BYTES = 20_000  # longer seeds are cut: what is interesting stands at the beginning


def nifti_seeds() -> Iterator[bytes]:
    """Corners of the real volumes with their own headers, and one file of every data type and byte order."""
    for path in sorted(DATA.glob("*/*.nii.gz")):
        image = nib.load(path)
        corner = np.asarray(image.dataobj[60:68, 60:67, 10:13])
        yield nib.Nifti1Image(corner, image.affine, image.header).to_bytes()
    noise = np.random.default_rng(0).integers(1, 100, (6, 5, 4))
    for dtype in (np.uint8, np.int16, np.int32, np.float32, np.float64, np.int64, np.uint16, np.complex64):
        image = nib.Nifti1Image(noise.astype(dtype), np.diag([-1.0, 1, 2, 1]), dtype=dtype)
        image.set_qform(image.affine, 1)
        yield image.to_bytes()
    yield nib.Nifti2Image(noise.astype(np.int16), np.eye(4)).to_bytes()
    yield nib.Nifti1Image(noise[..., 0].astype(np.int16), np.eye(4)).to_bytes()
    yield nib.Nifti1Image(noise[..., None].astype(np.int16), np.eye(4)).to_bytes()
    yield nib.Nifti1Pair(noise.astype(np.int16), np.eye(4)).header.as_byteswapped(">").binaryblock + b"\0" * 300
    yield gzip.compress(nib.Nifti1Image(noise.astype(np.int16), np.eye(4)).to_bytes())


def png_seeds() -> Iterator[bytes]:
    """Corners of real slices, and one picture of every mode."""
    for folder in ("ixi_midaxial/val", "tumours", "stroke_masks"):
        for path in sorted((DATA / folder).glob("*.png"))[:4]:
            yield _png(Image.open(path).crop((60, 60, 80, 76)))
    noise = np.random.default_rng(0).integers(0, 255, (9, 11, 4)).astype(np.uint8)
    grey = Image.fromarray(noise[..., 0])
    for mode in ("L", "1", "P", "LA", "RGB", "RGBA"):
        yield _png(grey.convert(mode))
    yield _png(Image.fromarray(noise[..., 0].astype(np.uint16) * 257))
    yield _png(Image.fromarray(noise))
    yield _png(grey, interlace=True, dpi=(300, 300))


def _png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def dicom_seeds() -> Iterator[bytes]:
    """The sample files of the pydicom package, real slices and made ones in every byte order and packing."""
    for path in sample_files():
        yield path.read_bytes()[:MAX_BYTES]
    for image in real_slices():
        yield dicom_bytes(image)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        image = small(dicom_slice(Path("x")))
        image.file_meta.TransferSyntaxUID = syntax
        yield dicom_bytes(image)


def sample_files() -> list[Path]:
    """What the pydicom package carries for its own tests, without the larger ones that it would download."""
    folder = Path(pydicom.__file__).parent / "data"
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc", ".json", ".txt", ".md", ".zip")
    ]


@cache
def real_slices() -> list[Dataset]:
    """Three neighbours of the real DICOM series, pixels cut to a corner; none where it is not at hand."""
    archive = DATA / "dicom" / "head_t1w_mprage.tar.xz"
    if not archive.is_file():
        return []
    images: list[Dataset] = []
    with tarfile.open(archive) as file:
        for member in file:
            if member.isfile() and len(images) < 3 and (stream := file.extractfile(member)):
                image = pydicom.dcmread(stream, force=True)
                if "PixelData" in image:
                    images.append(small(image))
    return images


def small(image: Dataset, side: int = 8) -> Dataset:
    """The same object with a corner of its pixels, uncompressed."""
    pixels = np.ascontiguousarray(image.pixel_array[:side, :side])
    image.Rows = image.Columns = side
    image.PixelData = pixels.tobytes()
    return image


def dicom_bytes(image: Dataset) -> bytes:
    """A DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


@cache
def series_bases() -> list[list[bytes]]:
    """Series of three slices: made by code, and real where at hand."""
    made = [dicom_bytes(small(dicom_slice(Path("x"), index))) for index in range(3)]
    real = [dicom_bytes(image) for image in real_slices()]
    return [made, real] if real else [made]
