"""Files of a case appear together or not at all, on the grid of the input."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.common.errors import PhanesOutputError
from scripts.pipeline.readers import CaseLoadImaged
from scripts.pipeline.results import remove_files, replaced_together, result_names
from scripts.pipeline.results import save_nifti as write_nifti

AFFINE = np.array([[-0.9, 0.1, 0, 30], [0.1, 1.1, 0.2, -40], [0, -0.2, 2.0, 5], [0, 0, 0, 1.0]])


def test_files_move_into_place_together(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    with replaced_together(folder, ["a", "b"]) as partial:
        (partial / "a").write_text("new")
        assert not folder.exists()
    assert [p.name for p in folder.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_nothing_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "a").write_text("old")

    def fail_midway() -> None:
        with replaced_together(folder, ["a", "b"]) as partial:
            (partial / "a").write_text("half")
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        fail_midway()
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"a": "old"}
    assert list(tmp_path.iterdir()) == [folder]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Someone who may write into the output folder could otherwise have files replaced elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("mine")
    (tmp_path / "case").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(PhanesOutputError, match="is a link"),
        replaced_together(tmp_path / "case", ["a"], tmp_path / "partial") as partial,
    ):
        (partial / "a").write_text("new")
    remove_files(tmp_path / "case", ["a"])
    assert (tmp_path / "elsewhere" / "a").read_text() == "mine"


def test_files_that_are_no_longer_wanted_go(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "b").write_text("old")
    (folder / "notes.txt").write_text("mine")
    with replaced_together(folder, ["a", "b"]) as partial:
        (partial / "a").write_text("new")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"a": "new", "notes.txt": "mine"}


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 5), (20, 30, 5, 1)])
def test_images_have_shape_and_affine_of_the_input(tmp_path: Path, shape: tuple) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)
    source = nib.Nifti1Image(array, AFFINE)
    source.header.set_sform(AFFINE, code="scanner")
    source.header["descrip"] = b"Jane Doe"
    source.header.set_slope_inter(2.0, 1.0)
    source.to_filename(tmp_path / "x.nii.gz")
    image = CaseLoadImaged("image")({"image": str(tmp_path / "x.nii.gz")})["image"]
    image = image[None] * 0.5
    for dtype in (np.float32, np.uint8):
        write_nifti(image, tmp_path / "y.nii.gz", dtype)
        written = nib.load(tmp_path / "y.nii.gz")
        assert written.shape == shape
        assert written.get_data_dtype() == dtype
        np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "x.nii.gz").affine)
        assert int(written.header["sform_code"]) == 1
        assert b"Jane" not in bytes(written.header["descrip"])
        expected = image.numpy().reshape(shape).astype(dtype)
        np.testing.assert_array_equal(np.asarray(written.dataobj), expected)


def test_qform_only_files_keep_their_affine_exactly(tmp_path: Path) -> None:
    source = nib.Nifti1Image(np.zeros((20, 20, 4), np.float32), None)
    source.header.set_qform(AFFINE, code="scanner")
    nib.Nifti1Image(source.dataobj, None, source.header).to_filename(tmp_path / "x.nii")
    image = CaseLoadImaged("image")({"image": str(tmp_path / "x.nii")})["image"][None]
    write_nifti(image, tmp_path / "y.nii", np.float32)
    np.testing.assert_array_equal(nib.load(tmp_path / "y.nii").affine, nib.load(tmp_path / "x.nii").affine)


def test_other_sources_get_the_affine_they_were_read_with(tmp_path: Path, png: Path) -> None:
    image = CaseLoadImaged("image")({"image": str(png)})["image"][None]
    write_nifti(image, tmp_path / "y.nii.gz", np.float32)
    written = nib.load(tmp_path / "y.nii.gz")
    assert written.shape == (197, 233, 1)
    assert torch.equal(torch.from_numpy(written.affine), image.affine)


def test_names_are_those_of_the_contract() -> None:
    expected = {"c_anomaly.nii.gz", "c_pseudo_healthy.nii.gz", "c_coarse.nii.gz", "c_mask.nii.gz", "c_label.nii.gz"}
    assert set(result_names("c")) == expected | {"c_findings.csv", "c.png", "c.html", "dicom"}
