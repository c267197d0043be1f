"""The catalogue of bad inputs: every kind of file that a hospital may feed the bundle by mistake, made by code.

Each kind is a function that writes one case into a folder of its own. `test_bad_inputs.py` runs all of them, among good
ones, through the main job.
"""

from __future__ import annotations

import gzip
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

Maker = Callable[[Path], object]
KINDS: dict[str, Maker] = {}
SHAPE = (40, 48, 4)


def kind(make: Maker) -> Maker:
    """Put a function into the catalogue, under its name."""
    KINDS[make.__name__] = make
    return make


def noise(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Positive intensities."""
    return np.random.default_rng(0).integers(1, 1000, shape).astype(np.int16)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """A NIfTI file; int64 is allowed, too."""
    nib.Nifti1Image(array, np.eye(4) if affine is None else affine, dtype=array.dtype).to_filename(path)
    return path


def edited(path: Path, *changes: tuple[int, str, object], affine: np.ndarray | None = None) -> None:
    """A NIfTI-1 file with bytes of its header replaced: (offset, struct format, value)."""
    save(path, noise(), affine)
    data = bytearray(path.read_bytes())
    for offset, form, value in changes:
        struct.pack_into(form, data, offset, *value if isinstance(value, tuple) else (value,))
    path.write_bytes(data)


# Offsets in the NIfTI-1 header (nifti1.h).
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SCL_SLOPE, QFORM_CODE, SFORM_CODE, SROW_X, MAGIC = (
    40, 70, 72, 76, 108, 112, 252, 254, 280, 344,
)  # fmt: skip
NO_AFFINE = ((QFORM_CODE, "<h", 0), (SFORM_CODE, "<h", 0))


# Files that are no image ------------------------------------------------------------------------------------------


@kind
def empty_nifti(folder: Path) -> None:
    (folder / "x.nii").touch()


@kind
def empty_compressed_nifti(folder: Path) -> None:
    (folder / "x.nii.gz").touch()


@kind
def text_called_nifti(folder: Path) -> None:
    (folder / "x.nii").write_text("no image, but longer than a header of 348 bytes. " * 20)


@kind
def text_called_compressed_nifti(folder: Path) -> None:
    (folder / "x.nii.gz").write_text("no image")


@kind
def gzip_of_text(folder: Path) -> None:
    (folder / "x.nii.gz").write_bytes(gzip.compress(b"no image" * 100))


@kind
def empty_gzip_member(folder: Path) -> None:
    (folder / "x.nii.gz").write_bytes(gzip.compress(b""))


@kind
def random_bytes(folder: Path) -> None:
    (folder / "x.nii").write_bytes(np.random.default_rng(1).bytes(5000))


@kind
def empty_png(folder: Path) -> None:
    (folder / "x.png").touch()


@kind
def text_called_png(folder: Path) -> None:
    (folder / "x.png").write_text("no image")


@kind
def jpeg_called_png(folder: Path) -> None:
    Image.fromarray(noise(SHAPE[:2]).astype(np.uint8)).save(folder / "x.png", format="JPEG")


@kind
def postscript_called_png(folder: Path) -> None:
    """Pillow would hand it to Ghostscript, which executes it."""
    (folder / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n")


@kind
def empty_dicom(folder: Path) -> None:
    (folder / "x.dcm").touch()


@kind
def text_called_dicom(folder: Path) -> None:
    (folder / "x.dcm").write_text("no image")


@kind
def dicom_preamble_only(folder: Path) -> None:
    (folder / "x.dcm").write_bytes(b"\0" * 128 + b"DICM")


# Cut off or damaged -----------------------------------------------------------------------------------------------


@kind
def truncated_header(folder: Path) -> None:
    path = save(folder / "x.nii", noise())
    path.write_bytes(path.read_bytes()[:200])


@kind
def truncated_voxels(folder: Path) -> None:
    path = save(folder / "x.nii", noise())
    path.write_bytes(path.read_bytes()[:-100])


@kind
def truncated_gzip(folder: Path) -> None:
    path = save(folder / "x.nii.gz", noise())
    path.write_bytes(path.read_bytes()[:-300])


@kind
def damaged_gzip(folder: Path) -> None:
    path = save(folder / "x.nii.gz", noise())
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff" * 200
    path.write_bytes(data)


@kind
def truncated_png(folder: Path) -> None:
    Image.fromarray(noise((200, 200)).astype(np.uint8)).save(folder / "x.png")
    path = folder / "x.png"
    path.write_bytes(path.read_bytes()[:5000])


@kind
def png_with_a_wrong_checksum(folder: Path) -> None:
    Image.fromarray(noise((200, 200)).astype(np.uint8)).save(folder / "x.png")
    data = bytearray((folder / "x.png").read_bytes())
    data[29] ^= 0xFF  # the checksum of the header chunk
    (folder / "x.png").write_bytes(data)


# Headers that claim too much --------------------------------------------------------------------------------------


@kind
def gzip_bomb(folder: Path) -> None:
    """800 million voxels of zeros in less than a megabyte: 1.6 GB once it is unpacked."""
    edited(folder / "h.nii", (DIM, "<8h", (3, 1000, 1000, 800, 1, 1, 1, 1)))
    header = (folder / "h.nii").read_bytes()[:352]
    (folder / "h.nii").unlink()
    with gzip.open(folder / "x.nii.gz", "wb", compresslevel=1) as file:
        file.write(header + b"\0" * 10_000_000)


@kind
def header_that_claims_more_than_the_file_can_hold(folder: Path) -> None:
    edited(folder / "h.nii", (DIM, "<8h", (3, 400, 400, 400, 1, 1, 1, 1)))
    (folder / "x.nii.gz").write_bytes(gzip.compress((folder / "h.nii").read_bytes()))
    (folder / "h.nii").unlink()


@kind
def nifti_of_a_side_of_30000(folder: Path) -> None:
    edited(folder / "x.nii", (DIM, "<8h", (3, 30000, 2, 2, 1, 1, 1, 1)))


@kind
def ten_thousand_pixels_wide(folder: Path) -> None:
    Image.fromarray(noise((40, 10_000)).astype(np.uint8)).save(folder / "x.png")


def png_chunk(name: bytes, data: bytes) -> bytes:
    """Length, name, data, checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@kind
def png_bomb(folder: Path) -> None:
    """3.6 gigapixels in its header."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 1_000_000)) + png_chunk(b"IEND", b"")
    (folder / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)


@kind
def png_text_bomb(folder: Path) -> None:
    """A comment of 200 MB, compressed."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 0, 0, 0, 0))
    body = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 200_000_000, 1))
    (folder / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + png_chunk(b"IEND", b""))


# Intensities ------------------------------------------------------------------------------------------------------


@kind
def nothing_but_nan(folder: Path) -> None:
    save(folder / "x.nii", np.full(SHAPE, np.nan, np.float32))


@kind
def one_infinite_voxel(folder: Path) -> None:
    array = noise().astype(np.float32)
    array[3, 4, 2] = np.inf
    save(folder / "x.nii", array)


@kind
def larger_than_single_precision(folder: Path) -> None:
    save(folder / "x.nii", noise().astype(np.float64) * 1e300)


@kind
def all_zero(folder: Path) -> None:
    save(folder / "x.nii", np.zeros(SHAPE, np.uint8))


@kind
def constant(folder: Path) -> None:
    save(folder / "x.nii", np.full(SHAPE, 7, np.uint8))


@kind
def constant_png(folder: Path) -> None:
    Image.fromarray(np.full((60, 50), 255, np.uint8)).save(folder / "x.png")


@kind
def all_negative(folder: Path) -> None:
    save(folder / "x.nii", -noise())


# Kinds of data ----------------------------------------------------------------------------------------------------


@kind
def four_dimensions(folder: Path) -> None:
    save(folder / "x.nii", noise((*SHAPE, 3)))


@kind
def five_dimensions(folder: Path) -> None:
    save(folder / "x.nii", noise((*SHAPE, 1, 3)))


@kind
def one_dimension(folder: Path) -> None:
    save(folder / "x.nii", noise((300,)))


@kind
def one_voxel(folder: Path) -> None:
    save(folder / "x.nii", noise((1, 1, 1)))


@kind
def one_pixel(folder: Path) -> None:
    Image.fromarray(np.full((1, 1), 9, np.uint8)).save(folder / "x.png")


@kind
def no_axial_extent(folder: Path) -> None:
    save(folder / "x.nii", noise((3, 60, 60)))


@kind
def rgb(folder: Path) -> None:
    save(folder / "x.nii", np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])))


@kind
def rgba(folder: Path) -> None:
    save(folder / "x.nii", np.zeros(SHAPE, np.dtype([(c, "u1") for c in "RGBA"])))


@kind
def complex_values(folder: Path) -> None:
    save(folder / "x.nii", noise().astype(np.complex64))


@kind
def colour_png(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3)).astype(np.uint8)).save(folder / "x.png")


@kind
def colour_png_with_transparency(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 4)).astype(np.uint8)).save(folder / "x.png")


# Headers ----------------------------------------------------------------------------------------------------------


@kind
def wrong_magic(folder: Path) -> None:
    edited(folder / "x.nii", (MAGIC, "<4s", b"xyz\0"), (0, "<i", 0))


@kind
def header_of_an_image_pair(folder: Path) -> None:
    """Its voxels are in another file, which is not there."""
    edited(folder / "x.nii", (MAGIC, "<4s", b"ni1\0"), (VOX_OFFSET, "<f", 1e6))


@kind
def zero_sized_axis(folder: Path) -> None:
    edited(folder / "x.nii", (DIM, "<8h", (3, 40, 0, 4, 1, 1, 1, 1)))


@kind
def negative_size(folder: Path) -> None:
    edited(folder / "x.nii", (DIM, "<8h", (3, 40, -48, 4, 1, 1, 1, 1)))


@kind
def unknown_data_type(folder: Path) -> None:
    edited(folder / "x.nii", (DATATYPE, "<h", 999))


@kind
def zero_spacing(folder: Path) -> None:
    edited(folder / "x.nii", *NO_AFFINE, (PIXDIM, "<8f", (1, 0, 0, 0, 0, 0, 0, 0)), (QFORM_CODE, "<h", 1))


@kind
def singular_affine(folder: Path) -> None:
    edited(folder / "x.nii", (SROW_X, "<4f", (0, 0, 0, 0)))


@kind
def nan_affine(folder: Path) -> None:
    edited(folder / "x.nii", (SROW_X, "<4f", (np.nan, 0, 0, 0)))


@kind
def infinite_position(folder: Path) -> None:
    edited(folder / "x.nii", (SROW_X, "<4f", (1, 0, 0, np.inf)))


@kind
def voxels_of_a_nanometre(folder: Path) -> None:
    save(folder / "x.nii", noise(), np.diag([1e-6, 1e-6, 1e-6, 1]))


@kind
def voxels_of_a_metre(folder: Path) -> None:
    save(folder / "x.nii", noise(), np.diag([1000.0, 1000, 1000, 1]))


@kind
def voxels_outside_the_file(folder: Path) -> None:
    edited(folder / "x.nii", (VOX_OFFSET, "<f", 1e7))


@kind
def voxel_offset_that_is_no_number(folder: Path) -> None:
    edited(folder / "x.nii", (VOX_OFFSET, "<f", np.nan))


# The file system --------------------------------------------------------------------------------------------------


@kind
def directory_called_nifti(folder: Path) -> None:
    (folder / "x.nii.gz").mkdir()


@kind
def link_to_itself(folder: Path) -> None:
    (folder / "x.nii.gz").symlink_to("x.nii.gz")


@kind
def link_to_nowhere(folder: Path) -> None:
    (folder / "x.png").symlink_to("not_there.png")


@kind
def pipe(folder: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(folder / "x.nii")


@kind
def socket_file(folder: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # the path of a socket may have 108 bytes only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("x.png")
    os.fchdir(here)
    os.close(here)


@kind
def endless_device(folder: Path) -> None:
    (folder / "x.nii.gz").symlink_to("/dev/zero")


@kind
def file_without_a_size(folder: Path) -> None:
    """This process's own memory."""
    (folder / "x.nii").symlink_to("/proc/self/mem")


# DICOM ------------------------------------------------------------------------------------------------------------


def dicom_slice(folder: Path, index: int = 0, **changes: object) -> Dataset:
    """One axial T1w MR slice of a series; a change to None removes the attribute."""
    pixels = np.random.default_rng(index).integers(0, 1000, (40, 48)).astype(np.uint16)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    series = f"1.2.3.{zlib.crc32(folder.name.encode())}"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{series}.{index + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{series}.8", f"{series}.9", f"{series}.7"
    ds.Modality, ds.PatientName, ds.PatientID = "MR", "Nobody", "0"
    ds.SeriesDescription, ds.ScanningSequence, ds.RepetitionTime, ds.EchoTime = "T1 MPRAGE", "GR", 2000.0, 3.0
    ds.InversionTime, ds.FlipAngle, ds.ImageType = 900.0, 8.0, ["ORIGINAL", "PRIMARY", "M"]
    ds.InstanceNumber, ds.SeriesNumber = index + 1, 2
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-100, -100, 2.0 * index]
    ds.PixelSpacing, ds.SliceThickness = [1.0, 1.0], 2.0
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = pixels.tobytes()
    for name, value in changes.items():
        if name == "TransferSyntaxUID":
            ds.file_meta.TransferSyntaxUID = UID(str(value))
        elif value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def series(
    folder: Path, count: int = 6, skip: tuple[int, ...] = (), only: int | None = None, **changes: object
) -> None:
    """A folder of slices, of which all (or the one numbered `only`) are changed."""
    for index in range(count):
        if index not in skip:
            changed = changes if only is None or index == only else {}
            dicom_slice(folder, index, **changed).save_as(folder / f"{index}.dcm", enforce_file_format=True)


@kind
def series_with_a_missing_slice(folder: Path) -> None:
    series(folder, skip=(3,))


@kind
def series_with_a_doubled_position(folder: Path) -> None:
    series(folder, only=3, ImagePositionPatient=[-100, -100, 4.0])


@kind
def series_with_two_sizes(folder: Path) -> None:
    series(folder, only=3, Rows=20, Columns=96)


@kind
def series_with_two_orientations(folder: Path) -> None:
    series(folder, only=3, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])


@kind
def series_with_two_spacings(folder: Path) -> None:
    series(folder, only=3, PixelSpacing=[2.0, 2.0])


@kind
def two_studies_under_one_series_uid(folder: Path) -> None:
    series(folder, only=3, FrameOfReferenceUID="1.2.3.4.5.6")


@kind
def two_kinds_of_objects_in_one_series(folder: Path) -> None:
    series(folder, only=3, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")


@kind
def series_without_pixel_data(folder: Path) -> None:
    series(folder, PixelData=None)


@kind
def series_with_short_pixel_data(folder: Path) -> None:
    series(folder, only=2, PixelData=b"\0\0")


@kind
def series_with_a_truncated_file(folder: Path) -> None:
    series(folder)
    data = (folder / "2.dcm").read_bytes()
    (folder / "2.dcm").write_bytes(data[:-1000])


@kind
def series_with_a_length_of_four_gigabytes(folder: Path) -> None:
    """The patient's name swallows the rest of the file."""
    series(folder)
    data = bytearray((folder / "2.dcm").read_bytes())
    where = data.index(b"\x10\x00\x10\x00PN")
    data[where + 4 : where + 12] = b"UN\0\0\xfe\xff\xff\xff"
    (folder / "2.dcm").write_bytes(data)


@kind
def series_without_positions(folder: Path) -> None:
    series(folder, ImagePositionPatient=None)


@kind
def series_without_spacing(folder: Path) -> None:
    series(folder, PixelSpacing=None)


@kind
def series_with_zero_spacing(folder: Path) -> None:
    series(folder, PixelSpacing=[0.0, 0.0])


@kind
def series_without_rows(folder: Path) -> None:
    series(folder, only=3, Rows=None)


@kind
def series_with_impossible_bits(folder: Path) -> None:
    series(folder, BitsAllocated=13)


@kind
def dicom_colour(folder: Path) -> None:
    series(
        folder, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8,
        BitsStored=8, HighBit=7, PixelData=b"\1\2\3" * 40 * 48,
    )  # fmt: skip


@kind
def dicom_that_declares_terabytes(folder: Path) -> None:
    series(folder, count=1, Rows=65535, Columns=65535, NumberOfFrames=1000)


@kind
def dicom_with_negative_frames(folder: Path) -> None:
    series(folder, count=1, NumberOfFrames=-5)


@kind
def dicom_with_a_billion_frames(folder: Path) -> None:
    series(folder, count=1, NumberOfFrames=999_999_999)


@kind
def jpeg_2000_larger_than_its_header(folder: Path) -> None:
    """A codestream of 3.6 gigapixels, for which a decoder would ask for memory, in an image of 40 x 48."""
    size = struct.pack(">HHHIIIIIIII", 0xFF51, 41, 0, 60_000, 60_000, 0, 0, 60_000, 60_000, 0, 0)
    stream = b"\xff\x4f" + size + b"\x00\x01\x0f\x01\x01" + b"\0" * 100
    series(folder, count=2, TransferSyntaxUID=JPEG2000Lossless, PixelData=encapsulate([stream]))


@kind
def corrupt_jpeg(folder: Path) -> None:
    frame = b"\xff\xd8\xff\xe0" + np.random.default_rng(3).bytes(500)
    series(
        folder, count=2, TransferSyntaxUID=JPEGBaseline8Bit, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelData=encapsulate([frame]),
    )  # fmt: skip


@kind
def jpeg_ls_garbage(folder: Path) -> None:
    series(folder, count=2, TransferSyntaxUID=JPEGLSLossless, PixelData=encapsulate([b"\0" * 100]))


@kind
def encapsulated_garbage(folder: Path) -> None:
    series(folder, count=2, TransferSyntaxUID=RLELossless, PixelData=encapsulate([b"garbage!" * 20]))


@kind
def encapsulation_without_items(folder: Path) -> None:
    series(folder, count=1)
    data = (folder / "0.dcm").read_bytes()
    old, new = str(ExplicitVRLittleEndian).encode() + b"\0", str(JPEGBaseline8Bit).encode()
    where = data.index(b"\xe0\x7f\x10\x00OW")
    assert len(old.rstrip(b"\0")) == 19
    head = data[:where].replace(b"UI\x14\0" + old, b"UI" + struct.pack("<H", 22) + new, 1)
    (folder / "0.dcm").write_bytes(head + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"no item tag here" * 4)


@kind
def unknown_transfer_syntax(folder: Path) -> None:
    series(folder, count=2)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))


@kind
def deflate_bomb(folder: Path) -> None:
    """A data set that unpacks to 600 MB."""
    ds = dicom_slice(folder, TransferSyntaxUID=DeflatedExplicitVRLittleEndian)
    ds.save_as(folder / "0.dcm", enforce_file_format=True)
    data = (folder / "0.dcm").read_bytes()
    length = struct.unpack_from("<I", data, 140)[0]
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(b"\x09\x00\x10\x00UN\0\0" + struct.pack("<I", 600_000_000))
    body += b"".join(packer.compress(b"\0" * 10_000_000) for _ in range(60)) + packer.flush()
    (folder / "0.dcm").write_bytes(data[: 144 + length] + body)


@kind
def sequences_nested_a_thousand_deep(folder: Path) -> None:
    series(folder, count=1)
    data = (folder / "0.dcm").read_bytes()
    where = data.index(b"\xe0\x7f\x10\x00OW")
    item = b"\x0c\x00\x40\x01SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (folder / "0.dcm").write_bytes(data[:where] + item * 1500)


@kind
def text_where_numbers_belong(folder: Path) -> None:
    series(folder)
    for path in folder.iterdir():
        path.write_bytes(
            path.read_bytes().replace(b"IS\x02\x001 ", b"IS\x02\x00xy").replace(b"1.0\\1.0 ", b"Doe\\1.0 ")
        )


# Not a case: nothing in it is an image of a head ------------------------------------------------------------------

NOT_CASES: dict[str, Maker] = {
    "report_without_an_image": lambda folder: dicom_slice(
        folder, SOPClassUID=BasicTextSRStorage, PixelData=None, Rows=None, Modality="SR", ContentSequence=Sequence()
    ).save_as(folder / "x.dcm", enforce_file_format=True),
    "folder_that_leads_back": lambda folder: (folder / "back").symlink_to(folder.parent),
    "text_file": lambda folder: (folder / "notes.txt").write_text("no image"),
    "hidden_file": lambda folder: (folder / "._x.nii.gz").write_bytes(b"\0"),
}

# Odd names of good images -----------------------------------------------------------------------------------------

ODD_NAMES: dict[str, bytes] = {
    "space": b"a head of someone.png",
    "quotes": b"he said 'a\"b`c.png",
    "newline": b"line one\nline two.png",
    "control": b"bell\x07 and \x1b[31mred.png",
    "hebrew": "\u05de\u05d5\u05d7.png".encode(),
    "japanese": "\u8133.png".encode(),
    "emoji": "\U0001f9e0.png".encode(),
    "reversing": "exe\u202egnp.png".encode(),
    "no_text": b"caf\xe9 \xff\xfe.png",
    "255_bytes": b"n" * 251 + b".png",
    "255_bytes_of_letters": "\u00e9".encode() * 125 + b"x.png",
    "formula": b'=HYPERLINK("http:x").png',
    "option": b"--help.png",
    "markup": b"<script>alert(1)<\xe2\x88\x95script>.png",
    "template": b"{{ 7*7 }} %s $HOME.png",
    "like_a_result": b"summary.csv.png",
    "like_another_result": b"report.html.png",
    "dots": b"a..b...png",
    "capitals_1": b"twin.png",
    "capitals_2": b"TWIN.PNG",
}
