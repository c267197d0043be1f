"""Readers: the right voxel at the right place from every kind of file, and one sentence for a file that is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from scripts.common.errors import PhanesInputError
from scripts.pipeline.readers import CaseLoadImaged, NiftiSliceReader
from tests.conftest import save_nifti

AFFINE = np.array([[-0.9, 0.1, 0, 30], [0.1, 1.1, 0.2, -40], [0, -0.2, 2.0, 5], [0, 0, 0, 1.0]])


def load(path: Path):
    return CaseLoadImaged("image")({"image": str(path)})["image"]


@pytest.mark.parametrize(
    ("shape", "read_as"), [((20, 30), (20, 30, 1)), ((20, 30, 5), (20, 30, 5)), ((20, 30, 5, 1), (20, 30, 5))]
)
def test_nifti_keeps_values_and_affine(tmp_path: Path, shape: tuple, read_as: tuple) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = load(save_nifti(tmp_path / "x.nii.gz", array, AFFINE))
    assert image.shape == read_as
    np.testing.assert_array_equal(image.numpy().reshape(shape), array)
    np.testing.assert_array_equal(image.affine, nib.load(tmp_path / "x.nii.gz").affine)
    assert image.meta["original_ndim"] == len(shape)
    assert image.meta["thickness_known"] == (len(shape) > 2)


def test_nifti_scaling_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8 * 8 * 2, dtype=np.int16).reshape(8, 8, 2), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "x.nii")
    np.testing.assert_allclose(load(tmp_path / "x.nii").numpy(), nib.load(tmp_path / "x.nii").get_fdata())


def test_png_lies_anterior_up_with_columns_to_the_right(tmp_path: Path) -> None:
    pixels = np.zeros((233, 197), dtype=np.uint8)
    pixels[0, 0], pixels[232, 196], pixels[10, 20] = 1, 2, 3
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = load(tmp_path / "x.png")
    assert image.shape == (197, 233, 1)
    where = {int(v): apply_affine(image.affine, np.argwhere(image.numpy() == v)[0]) for v in (1, 2, 3)}
    np.testing.assert_allclose(where[1], [-98, 98, 23])  # patient left, anterior: the MNI grid's corner
    np.testing.assert_allclose(where[2], [98, -134, 23])
    np.testing.assert_allclose(where[3], [-78, 88, 23])
    assert image.meta["spacing_known"] is False


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGB", "RGBA", "I;16"])
def test_grey_png_of_any_mode(tmp_path: Path, mode: str) -> None:
    grey = (np.indices((20, 30)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(load(tmp_path / "x.png").numpy()[..., 0].T, grey)


def slice_dataset(index: int, z: float, pixels: np.ndarray, **changes: object) -> Dataset:
    """One sagittal MR slice of a series whose normal runs to the patient's left."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(entropy_srcs=[f"i{index}"])
    ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3.4", "1.2.3"
    ds.FrameOfReferenceUID, ds.Modality, ds.PatientID, ds.PatientName = "1.2.5", "MR", "p", "p"
    ds.InstanceNumber = index
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # rows run to posterior, columns to inferior
    ds.ImagePositionPatient = [z, -50, 60]
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.75], 2.0
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.RescaleSlope, ds.RescaleIntercept = 2, -1
    ds.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


@pytest.mark.parametrize("mm", [2.0, None])
def test_a_dicom_slice_may_not_know_its_thickness(tmp_path: Path, mm: float | None) -> None:
    slice_dataset(1, 0.0, np.ones((24, 32)), SliceThickness=mm).save_as(tmp_path / "x.dcm", enforce_file_format=True)
    image = load(tmp_path / "x.dcm")
    assert image.meta["thickness_known"] == (mm is not None)
    assert np.linalg.norm(image.affine[:3, 2]) == pytest.approx(mm or 1.0)


def write_series(folder: Path, change: Callable[[int], dict] = lambda i: {}, skip: tuple[int, ...] = ()) -> np.ndarray:
    """Ten slices under shuffled file names and instance numbers; returns (slice, row, column)."""
    rng = np.random.default_rng(1)
    stack = rng.integers(0, 1000, (10, 24, 32))
    numbers = rng.permutation(10)
    folder.mkdir(parents=True, exist_ok=True)
    for i in set(range(10)) - set(skip):
        ds = slice_dataset(int(numbers[i]) + 1, -40 + 2.0 * i, stack[i], **change(i))
        ds.save_as(folder / f"{(i * 7) % 10}.dcm", enforce_file_format=True)
    return stack


def test_dicom_series_is_sorted_by_position_with_rescale(tmp_path: Path) -> None:
    stack = write_series(tmp_path / "s")
    image = load(tmp_path / "s")
    for k, r, c in ((0, 0, 0), (3, 5, 7), (9, 23, 31)):
        # The standard's own formula (PS3.3 C.7.6.2.1.1), then LPS -> RAS.
        world = np.array([-40 + 2.0 * k, -50, 60]) + c * 0.75 * np.array([0, 1, 0]) + r * 0.5 * np.array([0, 0, -1])
        index = np.round(apply_affine(np.linalg.inv(image.affine), world * [-1, -1, 1])).astype(int)
        assert image[tuple(index)] == 2 * stack[k, r, c] - 1
    assert image.numel() == stack.size


def test_dicom_monochrome1_is_inverted(tmp_path: Path) -> None:
    plain, inverted = tmp_path / "plain", tmp_path / "inverted"
    write_series(plain)
    write_series(inverted, lambda i: {"PhotometricInterpretation": "MONOCHROME1"})
    a, b = load(plain).flatten(), load(inverted).flatten()
    assert float(np.corrcoef(a, b)[0, 1]) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("change", "skip"),
    [
        (lambda i: {}, (4,)),
        (lambda i: {"SeriesInstanceUID": "1.2.3.9"} if i == 2 else {}, ()),
        (lambda i: {"PixelSpacing": [1.0, 1.0]} if i == 2 else {}, ()),
        (lambda i: {"ImagePositionPatient": [-40.0, -50, 60]} if i == 2 else {}, ()),
        (lambda i: {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]} if i == 2 else {}, ()),
        (lambda i: {"PixelData": b"\0\0"} if i == 2 else {}, ()),
    ],
    ids=["missing slice", "two series", "two spacings", "duplicate position", "two orientations", "short pixels"],
)
def test_dicom_series_that_is_no_volume_is_refused(tmp_path: Path, change: Callable, skip: tuple) -> None:
    write_series(tmp_path / "s", change, skip)
    with pytest.raises(PhanesInputError, match=rf"'{tmp_path / 's'}' "):
        load(tmp_path / "s")


def nan_volume(share: float) -> np.ndarray:
    array = np.ones((20, 20, 4), dtype=np.float32)
    array.reshape(-1)[: int(share * array.size)] = np.nan
    return array


def test_some_nan_count_as_zero_with_a_warning(tmp_path: Path) -> None:
    image = load(save_nifti(tmp_path / "x.nii", nan_volume(0.1), np.eye(4)))
    assert float(image.sum()) == pytest.approx(0.9 * image.numel())
    assert image.meta["warnings"] == "10 % of the voxels are NaN and count as 0"


def save_flat(path: Path) -> None:
    """A header whose affine has lost an axis."""
    image = nib.Nifti1Image(np.zeros((20, 20, 4), np.float32), np.eye(4))
    image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    nib.Nifti1Image(image.dataobj, None, image.header).to_filename(path)


BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("x.nii.gz", lambda p: p.write_text("no image")),
    "empty": ("x.nii", lambda p: p.write_bytes(b"")),
    "empty png": ("x.png", lambda p: p.write_bytes(b"")),
    "text dcm": ("x.dcm", lambda p: p.write_text("no image")),
    "nan": ("x.nii", lambda p: save_nifti(p, nan_volume(1.0), np.eye(4))),
    "infinite": ("x.nii", lambda p: save_nifti(p, np.full((20, 20, 4), np.inf, np.float32), np.eye(4))),
    "4-D": ("x.nii", lambda p: save_nifti(p, np.zeros((20, 20, 4, 2), np.float32), np.eye(4))),
    "1-D": ("x.nii", lambda p: save_nifti(p, np.zeros((20,), np.float32), np.eye(4))),
    "complex": ("x.nii", lambda p: save_nifti(p, np.zeros((20, 20, 4), np.complex64), np.eye(4))),
    "singular": ("x.nii", lambda p: save_flat(p)),
    "colour": ("x.png", lambda p: Image.fromarray(np.tile(np.uint8([90, 50, 20]), (20, 20, 1))).save(p)),
    "other": ("x.txt", lambda p: p.write_text("no image")),
    "missing": ("x.nii", lambda p: None),
    "empty folder": ("x", lambda p: p.mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_one_sentence_that_names_the_file(tmp_path: Path, kind: str) -> None:
    name, write = BROKEN[kind]
    write(tmp_path / name)
    with pytest.raises(PhanesInputError) as caught:
        load(tmp_path / name)
    message = str(caught.value)
    assert str(tmp_path / name) in message
    assert message.endswith(".")
    assert "\n" not in message
    assert "Traceback" not in message


def test_truncated_files_are_one_sentence(tmp_path: Path, png: Path) -> None:
    nifti = save_nifti(tmp_path / "y.nii.gz", np.random.default_rng(0).normal(size=(30, 30, 10)), np.eye(4))
    write_series(tmp_path / "s")
    dicom = tmp_path / "s" / "0.dcm"
    for path, case in ((png, png), (nifti, nifti), (dicom, tmp_path / "s")):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(PhanesInputError, match=r"'.*' .*"):
            load(case)


def test_hosts_recognise_the_loader() -> None:
    """MONAI Deploy drops transforms by name, MONAI Label asks loaders for a meta dictionary of its own."""
    loader = CaseLoadImaged("image")
    assert "LoadImage" in type(loader).__name__
    loader._loader.image_only = False
    path = pydicom.data.get_testdata_file("MR_small.dcm")
    result = loader({"image": path})
    assert result["image"].shape == (64, 64, 1)
    assert "affine" in result["image_meta_dict"]


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["lesions/ms_patient26_t1w_stripped_mni.nii.gz", "volumes/head_t1w_healthy.nii.gz"])
def test_real_volumes_read_as_nibabel_reads_them(data_root: Path, name: str) -> None:
    expected = nib.load(data_root / name)
    image = load(data_root / name)
    np.testing.assert_allclose(image.numpy(), expected.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(image.affine, expected.affine)


def test_a_damaged_compressed_file_is_refused_by_its_checksum(tmp_path: Path) -> None:
    """The image alone could be unpacked without an error: nibabel stops before the checksum at the end."""
    path = save_nifti(
        tmp_path / "x.nii.gz", np.random.default_rng(0).integers(0, 9, (40, 40, 9)).astype(np.int16), AFFINE
    )
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert nib.load(path).get_fdata().shape == (40, 40, 9)
    with pytest.raises(PhanesInputError, match=r"x.nii.gz' cannot be read \(CRC check failed"):
        load(path)


def test_a_file_that_shrinks_between_header_and_voxels_does_not_end_the_process(tmp_path: Path) -> None:
    """A mapped file would: the system answers a read beyond its end with SIGBUS."""
    path = save_nifti(tmp_path / "x.nii", np.ones((64, 64, 64), np.float32), np.eye(4))
    reader = NiftiSliceReader()
    image = reader.read(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    assert reader.get_data(image)[0].sum() == 64**3  # read before it shrank


def test_libraries_say_nothing_of_a_header(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    save_nifti(tmp_path / "x.nii", np.ones((20, 20, 4), np.float32), np.eye(4))
    data = bytearray((tmp_path / "x.nii").read_bytes())
    data[80:84], data[254:256] = b"\0\0\0\0", b"\0\0"  # a spacing of zero, of which nibabel warns; no sform
    (tmp_path / "x.nii").write_bytes(data)
    with pytest.raises(PhanesInputError, match="has a spacing of zero"):
        load(tmp_path / "x.nii")
    assert capfd.readouterr() == ("", "")
