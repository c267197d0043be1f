"""Prepared heads: what is written is what is read."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from scripts.common.errors import PhanesInputError
from scripts.space.levels import GRID, LEVELS_MM, level_affine
from scripts.training.prepared import BRAIN_VALUE, heights_of, read_prepared, write_prepared


def test_a_head_survives_the_disk_within_half_a_step(tmp_path):
    levels = np.random.default_rng(0).uniform(-0.1, 2.5, GRID)
    write_prepared(tmp_path / "a.nii.gz", levels)
    read = read_prepared(tmp_path / "a.nii.gz")
    assert read.dtype == np.float32
    assert np.abs(read - levels.clip(0)).max() <= 0.5 / BRAIN_VALUE + 1e-6
    write_prepared(tmp_path / "b.nii.gz", levels)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_the_file_says_where_the_levels_lie(tmp_path):
    write_prepared(tmp_path / "a.nii.gz", np.ones(GRID))
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.affine, level_affine(), atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), level_affine(), atol=1e-4)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (4, 4)
    assert image.get_data_dtype() == np.uint8


def test_levels_are_found_by_their_height(tmp_path):
    levels = np.broadcast_to(np.linspace(0, 2, GRID[2]), GRID)
    write_prepared(tmp_path / "head.nii.gz", levels)
    write_prepared(tmp_path / "slice.nii.gz", levels[..., 47:48], first_mm=23.0)
    assert heights_of(tmp_path / "head.nii.gz") == LEVELS_MM
    assert heights_of(tmp_path / "slice.nii.gz") == (23.0,)
    for name in ("head", "slice"):
        read = read_prepared(tmp_path / f"{name}.nii.gz", [23])
        assert read.shape == (*GRID[:2], 1)
        assert read[0, 0, 0] == pytest.approx(levels[0, 0, 47], abs=0.5 / BRAIN_VALUE)
    with pytest.raises(PhanesInputError, match=r"slice.nii.gz.*lacks one of the levels -71 to \+81"):
        read_prepared(tmp_path / "slice.nii.gz")


def test_another_image_is_refused_by_name(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "other.nii.gz")
    with pytest.raises(PhanesInputError, match=r"other.nii.gz.*grid of levels"):
        read_prepared(tmp_path / "other.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(PhanesInputError, match=r"broken.nii.gz.*prepare again"):
        read_prepared(tmp_path / "broken.nii.gz")
