"""Formats and folders that people have: the same voxels at the same place, and nothing left out in silence."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from scripts.common.errors import PhanesInputError
from scripts.dicom.listing import write_series_list
from scripts.dicom.selection import SeriesSelection
from scripts.pipeline import folders
from scripts.pipeline.cases import find_cases
from scripts.pipeline.readers import CaseLoadImaged
from scripts.pipeline.results import save_nifti
from tests.conftest import save_nifti as write_nifti
from tests.dicom.synthetic import save, slices

VOXELS = np.random.default_rng(0).integers(0, 900, (14, 12, 9)).astype(np.int16)
AFFINE = np.array([[-0.9, 0, 0, 30], [0, 1.1, 0, -40], [0, 0, 2.0, 5], [0, 0, 0, 1.0]])
OBLIQUE = AFFINE.copy()
OBLIQUE[:3, :3] = nib.eulerangles.euler2mat(0.2, 0.1, 0.3) @ AFFINE[:3, :3]
PLAIN = nib.Nifti1Image(VOXELS, OBLIQUE).to_bytes()


def load(path: Path):
    return CaseLoadImaged("image")({"image": str(path)})["image"]


def unit(path: Path, name: str, mm: float) -> None:
    affine = OBLIQUE.copy()
    affine[:3] /= mm
    image = nib.Nifti1Image(VOXELS, affine)
    image.header.set_xyzt_units(name)
    image.to_filename(path)


def by_itk(path: Path) -> None:
    write_nifti(path.with_name("plain.nii"), VOXELS, OBLIQUE)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path.with_name("plain.nii"))), str(path))


FORMATS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "MGZ": ("x.mgz", lambda p: nib.MGHImage(VOXELS.astype(np.int32), OBLIQUE).to_filename(p)),
    "NRRD": ("x.nrrd", by_itk),
    "MetaImage": ("x.mha", by_itk),
    "NIfTI pair": ("x.hdr", lambda p: nib.Nifti1Pair(VOXELS, OBLIQUE).to_filename(p)),
    "packed NIfTI called .nii": ("x.nii", lambda p: p.write_bytes(gzip.compress(PLAIN))),
    "plain NIfTI called .nii.gz": ("x.nii.gz", lambda p: p.write_bytes(PLAIN)),
    "NIfTI-2": ("x.nii.gz", lambda p: nib.Nifti2Image(VOXELS, OBLIQUE).to_filename(p)),
    "metres": ("x.nii.gz", lambda p: unit(p, "meter", 1000)),
    "micrometres": ("x.nii.gz", lambda p: unit(p, "micron", 0.001)),
    "millimetres called metres": ("x.nii.gz", lambda p: unit(p, "meter", 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_voxels_at_the_same_place(tmp_path: Path, kind: str) -> None:
    name, write = FORMATS[kind]
    write(tmp_path / name)
    image = load(tmp_path / name)
    np.testing.assert_array_equal(image.numpy(), VOXELS)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-4)


def test_analyze_has_no_orientation_code(tmp_path: Path) -> None:
    nib.AnalyzeImage(VOXELS, np.diag([-0.9, 1.1, 2, 1])).to_filename(tmp_path / "x.hdr")
    image = load(tmp_path / "x.hdr")
    np.testing.assert_array_equal(image.numpy(), VOXELS)
    assert (image.meta["sform_code"], image.meta["qform_code"]) == (0, 0)


@pytest.mark.parametrize("name", ["x.mgz", "x.nrrd", "x.mha", "x.hdr", "x.nii"])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b no image"])
def test_what_is_no_such_file_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PhanesInputError, match=rf"'.*{name}' ") as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_pair_is_one_case_of_two_files(tmp_path: Path) -> None:
    nib.Nifti1Pair(VOXELS, AFFINE).to_filename(tmp_path / "x.hdr")
    (tmp_path / "alone.img").write_bytes(b"\0" * 99)
    selection = SeriesSelection()
    (case,) = find_cases(tmp_path, selection)
    pair = [str(tmp_path / name) for name in ("x.hdr", "x.img")]
    assert case == {"case": "x", "image": pair[0], "files": pair}
    assert selection.passed_over == [(tmp_path / "alone.img", "no accepted kind, without its .hdr")]
    (tmp_path / "x.img").unlink()
    with pytest.raises(PhanesInputError, match=r"has no 'x.img' beside it"):
        load(tmp_path / "x.hdr")


@pytest.mark.parametrize("shear", [(0, 1, 0.4), (0, 2, -0.5), (1, 2, 0.3)])
def test_a_sheared_grid_is_straightened_in_place(tmp_path: Path, shear: tuple[int, int, float]) -> None:
    bump = np.zeros((14, 12, 9), np.float32)
    bump[5:9, 4:8, 3:6] = VOXELS[5:9, 4:8, 3:6] + 1
    matrix = np.eye(4)
    matrix[shear[0], shear[1]] = shear[2]
    affine = AFFINE @ matrix
    image = load(write_nifti(tmp_path / "x.nii.gz", bump, affine))
    assert "not perpendicular" in image.meta["warnings"]
    axes = np.asarray(image.affine)[:3, :3]
    np.testing.assert_allclose(axes.T @ axes - np.diag(np.diag(axes.T @ axes)), 0, atol=1e-6)

    def centre(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
        return np.average(apply_affine(grid, np.argwhere(values > 0)), axis=0, weights=values[values > 0])

    np.testing.assert_allclose(centre(image.numpy(), np.asarray(image.affine)), centre(bump, affine), atol=0.05)
    image.meta["filename_or_obj"] = str(tmp_path / "x.nii.gz")
    save_nifti(image[None], tmp_path / "y.nii.gz", np.float32)
    np.testing.assert_allclose(nib.load(tmp_path / "y.nii.gz").affine, image.affine, atol=1e-5)


def test_results_of_a_packed_file_without_the_ending_have_its_header(tmp_path: Path) -> None:
    source = nib.Nifti1Image(VOXELS, OBLIQUE)
    source.set_sform(OBLIQUE, 3)
    (tmp_path / "x.nii").write_bytes(gzip.compress(source.to_bytes()))
    save_nifti(load(tmp_path / "x.nii")[None], tmp_path / "y.nii.gz", np.float32)
    written = nib.load(tmp_path / "y.nii.gz")
    assert int(written.header["sform_code"]) == 3
    np.testing.assert_array_equal(written.affine, nib.Nifti1Image.from_bytes(source.to_bytes()).affine)


def test_libraries_are_silent_on_the_way_out_too(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data = bytearray(nib.Nifti1Image(VOXELS, AFFINE).to_bytes())
    data[252:254] = b"\x4d\0"  # a qform code that does not exist
    (tmp_path / "x.nii").write_bytes(data)
    save_nifti(load(tmp_path / "x.nii")[None], tmp_path / "y.nii.gz", np.float32)
    assert capfd.readouterr() == ("", "")


GREY = np.rint(np.hypot(*np.meshgrid(np.arange(-30, 30), np.arange(-40, 40))) < 25).astype(np.uint8) * 180


def picture(alter: Callable[[np.ndarray], object]) -> np.ndarray:
    rgba = np.dstack([GREY] * 3 + [np.full_like(GREY, 255)])
    alter(rgba)
    return rgba


def transparent(rgba: np.ndarray) -> None:
    rgba[GREY == 0] = (255, 255, 255, 0)


def caption(rgba: np.ndarray) -> None:
    rgba[3:8, 4:20] = (255, 255, 0, 255)


def tinted(rgba: np.ndarray) -> None:
    rgba[..., :3] = np.clip(rgba[..., :3].astype(int) + np.random.default_rng(0).integers(-3, 4, (80, 60, 3)), 0, 255)


def sepia(rgba: np.ndarray) -> None:
    rgba[..., :3] = np.clip(GREY[..., None] * [1.1, 1.0, 0.8], 0, 255)


def contour(rgba: np.ndarray) -> None:
    rgba[38:42, 25:35] = (255, 0, 0, 255)


def colour_map(rgba: np.ndarray) -> None:
    rgba[..., 0], rgba[..., 2] = GREY, 255 - GREY


def two_captions(rgba: np.ndarray) -> None:
    caption(rgba)
    rgba[70:75, 30:44] = (0, 255, 0, 255)


GREY_PICTURES = [(transparent, 0), (caption, 0), (tinted, 3), (sepia, 7)]
DRAWN_ON = [contour, colour_map, two_captions]
PICTURES = [*GREY_PICTURES, *DRAWN_ON]


@pytest.mark.parametrize(("alter", "tolerance"), GREY_PICTURES)
def test_a_grey_slice_that_was_kept_as_a_picture(tmp_path: Path, alter: Callable, tolerance: int) -> None:
    Image.fromarray(picture(alter)).save(tmp_path / "x.png")
    image = load(tmp_path / "x.png")
    np.testing.assert_allclose(image.numpy()[..., 0].T, GREY, atol=tolerance)
    assert ("coloured pixels" in str(image.meta.get("warnings"))) == (alter is caption)


@pytest.mark.parametrize("alter", DRAWN_ON)
def test_a_picture_that_was_drawn_on_is_refused(tmp_path: Path, alter: Callable) -> None:
    Image.fromarray(picture(alter)).save(tmp_path / "x.png")
    with pytest.raises(PhanesInputError, match="is a colour picture, or one that was drawn on"):
        load(tmp_path / "x.png")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_of_a_bids_folder_only_the_t1w_images_are_input(tmp_path: Path) -> None:
    anat = tmp_path / "sub-01" / "ses-1" / "anat"
    touch(
        *(anat / f"sub-01_ses-1_{name}.nii.gz" for name in ("T1w", "T2w", "FLAIR", "acq-hi_T1w", "part-phase_T1w")),
        anat / "sub-01_ses-1_UNIT1.nii.gz",
        tmp_path / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-rest_run-2_bold.nii.gz",
        tmp_path / "derivatives" / "sub-01" / "anat" / "sub-01_desc-preproc_T1w.nii.gz",
        tmp_path / "derivatives" / "sub-01" / "anat" / "sub-01_dseg.nii.gz",
        tmp_path / "dataset_description.json",
    )  # fmt: skip
    selection = SeriesSelection()
    assert [case["case"] for case in find_cases(tmp_path, selection)] == ["sub-01_ses-1_T1w", "sub-01_ses-1_acq-hi_T1w"]
    assert len(selection.passed_over) == 6
    (named,) = find_cases(tmp_path / "derivatives")
    assert named["case"] == "sub-01_desc-preproc_T1w"
    assert find_cases(anat / "sub-01_ses-1_T2w.nii.gz")  # what the user names is taken
    touch(tmp_path / "own" / "sub-01_brain.nii.gz")  # a name of one's own
    assert find_cases(tmp_path / "own")


def test_of_a_freesurfer_subject_the_head_is_input(tmp_path: Path) -> None:
    touch(*(tmp_path / "bert" / "mri" / f"{name}.mgz" for name in ("orig", "T1", "brain", "aseg", "orig/001")))
    touch(tmp_path / "bert" / "surf" / "lh.mgz", tmp_path / "bert" / "scripts" / "x.mgz")
    assert [Path(case["image"]).name for case in find_cases(tmp_path)] == ["T1.mgz"]


def series(folder: Path, **changes: object) -> list[Dataset]:
    images = slices(VOXELS.transpose(2, 1, 0), **changes)  # type: ignore[arg-type]
    save(images, folder)
    return images


def test_a_zip_of_a_study(tmp_path: Path) -> None:
    series(tmp_path / "study" / "t1")
    touch(tmp_path / "study" / "notes.docx")
    archive = Path(shutil.make_archive(str(tmp_path / "in" / "export"), "zip", tmp_path / "study"))
    for given in (archive, archive.parent):
        selection = SeriesSelection()
        (case,) = find_cases(given, selection)
        assert case["case"] == "t1"
        assert CaseLoadImaged("image")(dict(case))["image"].shape == VOXELS.shape
        assert [path.name for path, _ in selection.passed_over] == ["notes.docx"]


def test_a_zip_that_cannot_be_unpacked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../x.nii", b"\0" * 5000)
    for outer, inner in (("nested.zip", "big.zip"), ("deep.zip", "nested.zip")):
        with zipfile.ZipFile(tmp_path / outer, "w") as archive:
            archive.write(tmp_path / inner, inner)
    assert len(find_cases(tmp_path / "nested.zip")) == 1
    with pytest.raises(PhanesInputError, match=r"'big.zip' is left out: an archive too deep in archives"):
        find_cases(tmp_path / "deep.zip")
    with pytest.raises(PhanesInputError, match=r"'bad.zip' is left out: cannot be unpacked"):
        find_cases(tmp_path / "bad.zip")
    (case,) = find_cases(tmp_path / "big.zip")
    assert Path(case["image"]).parent.name == "big"  # nowhere else
    monkeypatch.setattr(folders, "MAX_UNPACKED_BYTES", 4999)
    with pytest.raises(PhanesInputError, match=r"'big.zip' is left out: cannot be unpacked \(holds more than"):
        find_cases(tmp_path / "big.zip")


def test_a_dicomdir_stands_for_the_images_it_lists(tmp_path: Path) -> None:
    medium = FileSet()
    for image in series(tmp_path / "s"):
        image.PatientID = "P1"
        medium.add(image)
    medium.write(tmp_path / "cd")
    (case,) = find_cases(tmp_path / "cd" / "DICOMDIR")
    assert len(case["files"]) == 9
    assert len(find_cases(tmp_path / "cd")) == 1
    Path(case["files"][0]).unlink()
    selection = SeriesSelection()
    find_cases(tmp_path / "cd" / "DICOMDIR", selection)
    assert selection.passed_over[0][1] == "the DICOMDIR lists it, but it is not there"


def test_several_paths(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.nii", tmp_path / "b" / "x.nii", tmp_path / "c.png")
    series(tmp_path / "s")
    paths = [str(tmp_path / name) for name in ("a", "b", "c.png", "s")]
    for given in (paths, str(paths), tuple(paths)):
        assert [case["case"] for case in find_cases(given)] == ["a_x", "b_x", "c", "s"]
    (case,) = find_cases([str(path) for path in (tmp_path / "s").iterdir()])
    assert len(case["files"]) == 9
    with pytest.raises(PhanesInputError, match="nowhere' does not exist"):
        find_cases([paths[0], str(tmp_path / "nowhere")])
    with pytest.raises(PhanesInputError, match="does not exist"):
        find_cases([])


def test_what_is_seen_and_not_taken_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    touch(
        tmp_path / "x.nii",
        tmp_path / "x.seg.nrrd",
        tmp_path / "photo.jpg",
        tmp_path / "sub-1_T2w.nii.gz",
        tmp_path / "notes.txt",
    )
    selection = SeriesSelection()
    find_cases(tmp_path, selection)
    write_series_list(selection, str(tmp_path / "out"))
    assert "3 files or folders not taken, first 'photo.jpg' (no accepted kind)" in capsys.readouterr().out
    text = (tmp_path / "out" / "series.csv").read_text()
    assert "no,no accepted kind,,,,photo.jpg" in text
    assert "no,its BIDS name says that it is no T1w image,,,,sub-1_T2w.nii.gz" in text
    with pytest.raises(PhanesInputError, match=r"'photo.jpg' is left out: no accepted kind"):
        find_cases(tmp_path / "photo.jpg")
