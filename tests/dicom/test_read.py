"""Reading a series: each voxel at the place the standard's formula gives it, whatever the files' order and coding."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from scripts.common.errors import PhanesInputError
from scripts.dicom.read import read_source
from scripts.dicom.selection import SeriesSelection
from scripts.pipeline.cases import find_cases
from scripts.pipeline.readers import CaseLoadImaged
from tests.conftest import BUNDLE
from tests.dicom.synthetic import PLANES, enhanced, lps, save, slices

VOXELS = np.random.default_rng(0).integers(0, 4000, (7, 32, 48))
SPACING = (2.0, 0.5, 0.75)
ORIGIN = (-30.0, -40.0, 20.0)


def assert_in_place(source, plane: str, reverse: bool, values: np.ndarray) -> None:
    """Every voxel of the volume has the value that lies at its world position."""
    array = source.array()
    index = np.argwhere(np.ones(VOXELS.shape, bool))
    world = lps(plane, SPACING, ORIGIN, index, reverse) * [-1, -1, 1]  # RAS
    voxel = apply_affine(np.linalg.inv(source.affine), world)
    np.testing.assert_allclose(voxel, np.round(voxel), atol=1e-3)
    got = array[tuple(np.round(voxel).astype(int).T)]
    np.testing.assert_allclose(got, values[tuple(index.T)], rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_every_orientation_and_instance_order(tmp_path: Path, plane: str, reverse: bool) -> None:
    images = slices(VOXELS, plane, SPACING, ORIGIN, reverse)
    rng = np.random.default_rng(1)
    names = rng.permutation(len(images))
    folder = save(images, tmp_path / "s", lambda i: f"{names[i]}.dcm")
    assert_in_place(read_source(folder), plane, reverse, VOXELS)
    # The same files, read by another library.
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    other = SimpleITK.ReadImage(files)
    source = read_source(folder)
    point = other.TransformIndexToPhysicalPoint((3, 5, 2))
    voxel = apply_affine(np.linalg.inv(source.affine), np.array(point) * [-1, -1, 1])
    assert source.array()[tuple(np.round(voxel).astype(int))] == other[3, 5, 2]


@pytest.mark.parametrize("plane", ["axial", "sagittal negated", "oblique"])
@pytest.mark.parametrize("reverse", [False, True])
def test_enhanced_multi_frame_in_any_frame_order(tmp_path: Path, plane: str, reverse: bool) -> None:
    order = np.random.default_rng(2).permutation(len(VOXELS))
    image = enhanced(slices(VOXELS, plane, SPACING, ORIGIN, reverse), order)
    folder = save([image], tmp_path / "s")
    assert_in_place(read_source(folder), plane, reverse, 2.0 * VOXELS + 10)


def test_rescale_and_monochrome1(tmp_path: Path) -> None:
    folder = save(slices(VOXELS, "axial", SPACING, ORIGIN, RescaleSlope=0.5, RescaleIntercept=-3), tmp_path / "a")
    assert_in_place(read_source(folder), "axial", False, 0.5 * VOXELS - 3)
    folder = save(slices(VOXELS, "axial", SPACING, ORIGIN, PhotometricInterpretation="MONOCHROME1"), tmp_path / "b")
    inverted = read_source(folder).array()
    plain = VOXELS.transpose(2, 1, 0)
    plain = plain if np.corrcoef(inverted.ravel(), plain.ravel())[0, 1] < -0.99 else plain[..., ::-1]
    assert float((inverted + plain).std()) == pytest.approx(0)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name)
def test_compressed_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    images = slices(VOXELS, "coronal", SPACING, ORIGIN)
    for image in images:
        image.compress(syntax, generate_instance_uid=False)
    assert_in_place(read_source(save(images, tmp_path / "s")), "coronal", False, VOXELS)


@pytest.mark.parametrize("option", [["dcmcjpeg", "+e1"], ["dcmcjpeg", "+el"], ["dcmcjpls"], ["dcmcrle"]], ids=" ".join)
def test_files_that_dcmtk_compressed(tmp_path: Path, option: list[str]) -> None:
    """JPEG lossless (the scanners' usual one), JPEG-LS and RLE by another implementation's encoder."""
    folder = save(slices(VOXELS, "coronal", SPACING, ORIGIN), tmp_path / "s")
    try:
        for file in folder.iterdir():
            subprocess.run([*option, str(file), str(file)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("DCMTK is not installed")
    assert_in_place(read_source(folder), "coronal", False, VOXELS)


def test_every_compressed_syntax_has_a_decoder() -> None:
    """High-throughput JPEG 2000 has no encoder here, so only its decoder is asked for."""
    from pydicom.pixels import get_decoder

    assert get_decoder(HTJ2KLossless).is_available


def test_files_without_preamble(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for i, image in enumerate(slices(VOXELS, "axial", SPACING, ORIGIN)):
        del image.file_meta
        image.save_as(folder / f"{i}.dcm", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert_in_place(read_source(folder), "axial", False, VOXELS)


def test_lost_identifiers_are_replaced_with_a_note(tmp_path: Path) -> None:
    images = slices(VOXELS, "axial", SPACING, ORIGIN)
    for image in images:
        del image.FrameOfReferenceUID
    source = read_source(save(images, tmp_path / "s"))
    assert "frame of reference" in source.note
    assert_in_place(source, "axial", False, VOXELS)


def test_one_slice_is_as_thick_as_its_header_says(tmp_path: Path) -> None:
    images = slices(VOXELS[:1], "axial", (5.0, 1.0, 1.0))
    del images[0].SpacingBetweenSlices
    source = read_source(save(images, tmp_path / "s"))
    assert source.array().shape == (48, 32, 1)
    assert abs(np.linalg.det(source.affine[:3, :3])) == pytest.approx(5.0)


def position(i: int, dx: float = 0.0, dz: float = 0.0) -> dict:
    return {"ImagePositionPatient": [ORIGIN[0] + dx, ORIGIN[1], ORIGIN[2] + 2.0 * i + dz]}


PROBLEMS = {
    "missing slice": (lambda i: position(i, dz=2.0 if i > 3 else 0), "lacks 1 of 8 slices"),
    "uneven": (lambda i: position(i, dz=0.8 * (i > 3)), "unevenly spaced slices"),
    "jumps": (lambda i: position(i, dx=0.9 * (i % 2)), "slices that jump sideways"),
    "one position": (lambda i: position(0), "holds 7 images at 1 slice positions"),
    "localizer": (lambda i: {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1] if i > 4 else [1, 0, 0, 0, 1, 0]},
                  "slices of 2 orientations, as a localizer"),
    "two spacings": (lambda i: {"PixelSpacing": [1, 1]} if i == 2 else {}, "2 pixel spacings"),
    "two sizes": (lambda i: {"Rows": 12, "PixelData": bytes(1152)} if i == 2 else {}, r"2 sizes \(48x12, 48x32\)"),
    "two series": (lambda i: {"SeriesInstanceUID": "1.2.3"} if i == 2 else {}, "holds 2 DICOM series"),
    "two frames": (lambda i: {"FrameOfReferenceUID": "1.2.3"} if i == 2 else {}, "2 frames of reference"),
    "no position": (lambda i: {"ImagePositionPatient": None}, "lacks ImagePositionPatient"),
    "bad cosines": (lambda i: {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no pair of perpendicular unit"),
    "colour": (lambda i: {"SamplesPerPixel": 3}, "colour images"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROBLEMS)
def test_what_is_no_volume_is_said_in_a_sentence(tmp_path: Path, kind: str) -> None:
    change, sentence = PROBLEMS[kind]
    folder = save(slices(VOXELS, "axial", SPACING, ORIGIN, change=change), tmp_path / "s")
    with pytest.raises(PhanesInputError, match=sentence):
        read_source(folder)


def test_enhanced_with_two_images_a_position_is_refused(tmp_path: Path) -> None:
    images = slices(VOXELS, "axial", SPACING, ORIGIN, change=lambda i: position(i // 2))
    with pytest.raises(PhanesInputError, match="holds 7 images at 4 slice positions"):
        read_source(save([enhanced(images)], tmp_path / "s"))


def test_a_hundredth_of_jitter_is_no_problem(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    folder = save(
        slices(VOXELS, "axial", SPACING, ORIGIN, change=lambda i: position(i, *rng.normal(0, 0.01, 2))), tmp_path / "s"
    )
    assert read_source(folder).array().shape == (48, 32, 7)


def test_damaged_headers_are_one_sentence_or_none(tmp_path: Path) -> None:
    """Bytes changed at random anywhere but in the pixels: the file is read, or refused in a sentence; nothing else."""
    rng = np.random.default_rng(4)
    voxels = np.ones((2, 16, 16))
    save(slices(voxels[:1]), tmp_path / "single")
    save([enhanced(slices(voxels))], tmp_path / "enhanced")
    whole = [(tmp_path / name / "0000.dcm").read_bytes() for name in ("single", "enhanced")]
    selection, load = SeriesSelection(BUNDLE / "configs" / "dicom_series.json"), CaseLoadImaged("image")
    refused = 0
    for trial in range(200):
        data = bytearray(whole[trial % 2])
        for place in rng.integers(132, len(data) - 512 * (1 + trial % 2), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        folder = tmp_path / "damaged"
        folder.mkdir(exist_ok=True)
        (folder / "x.dcm").write_bytes(bytes(data))
        try:
            load(dict(find_cases(folder, selection)[0]))
        except PhanesInputError:
            refused += 1
    assert 50 < refused < 200
