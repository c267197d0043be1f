"""The registration finds a moved head again, and says so when it has not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from scipy.spatial.transform import Rotation

from scripts.space.registration import Bounds, describe, similarity_as_it_lies
from scripts.space.template import GRID_AFFINE, GRID_SHAPE, brain_on_grid, read_template
from scripts.study.registration_trials import block_means, level_errors, movement, registration_trials, run_trials


def test_template_is_nilearns() -> None:
    template, affine = read_template()
    expected = load_mni152_template(resolution=1)
    np.testing.assert_allclose(template / 255, expected.get_fdata(), atol=0.003)
    np.testing.assert_array_equal(affine, expected.affine)


def test_brain_on_the_oriented_grid_is_the_templates() -> None:
    template, affine = read_template()
    oriented = nib.as_closest_canonical(nib.Nifti1Image(template, affine)).get_fdata().transpose(1, 0, 2)[::-1]
    np.testing.assert_array_equal(brain_on_grid(GRID_AFFINE, GRID_SHAPE), oriented > 10)


def test_scales_and_rotation_are_those_a_matrix_was_made_of() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("x", 12, degrees=True).as_matrix() @ np.diag([0.9, 1.2, 1.0])
    found = describe(matrix, 0.7)
    np.testing.assert_allclose(found.scales, (0.9, 1.0, 1.2))
    assert found.rotation == pytest.approx(12)
    assert describe(np.diag([-1.0, 1, 1, 1]), 1.0).rotation == 180  # a mirrored head is no head


@pytest.mark.parametrize(("matrix", "similarity", "reason"), [
    (np.eye(4), 0.9, ""),
    (np.eye(4), 0.2, "similarity to the template 0.20"),
    (np.eye(4), float("nan"), "similarity"),
    (np.diag([1.6, 1, 1, 1]), 0.9, "scales 1.00 to 1.60"),
    (np.diag([0.5, 1, 1, 1]), 0.9, "scales 0.50 to 1.00"),
    (np.diag([-1.0, -1, 1, 1]), 0.9, "rotation of 180 degrees"),
])  # fmt: skip
def test_bounds_object_to_what_is_no_head(matrix: np.ndarray, similarity: float, reason: str) -> None:
    objection = Bounds().objection(describe(matrix, similarity))
    assert objection.startswith(reason)
    assert bool(objection) == bool(reason)


def test_level_errors_of_known_differences() -> None:
    lifted = np.eye(4)
    lifted[2, 3] = 3.0
    assert level_errors(lifted, np.eye(4)) == pytest.approx((3.0, 0.0), abs=1e-9)
    pitched = np.eye(4)
    pitched[:3, :3] = Rotation.from_euler("x", 5, degrees=True).as_matrix()
    assert level_errors(pitched, np.eye(4))[1] == pytest.approx(5.0)
    assert level_errors(pitched, pitched) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_movements_keep_to_their_ranges_and_to_their_seeds() -> None:
    for seed in range(20):
        matrix, angle, shift, scales = movement(seed)
        assert angle <= 20
        assert shift == pytest.approx(np.linalg.norm(matrix[:3, 3]))
        assert shift <= 30
        assert 0.85 <= scales.min() <= scales.max() <= 1.15
        np.testing.assert_array_equal(matrix, movement(seed)[0])


def test_template_lies_where_it_lies_and_nowhere_else() -> None:
    template, affine = read_template()
    volume, grid = block_means(template.astype(np.float32), affine, 2.0)
    assert similarity_as_it_lies(volume, grid) > 0.95
    moved = grid.copy()
    moved[2, 3] += 20
    assert similarity_as_it_lies(volume, moved) < 0.5
    assert similarity_as_it_lies(volume[:, :, ::-1], grid) < 0.5


def test_a_moved_head_is_found_again(tmp_path: Path) -> None:
    """The template itself, turned by 13 degrees and more, shifted and scaled: see `registration_trials` for 100."""
    template, affine = read_template()
    nib.save(nib.Nifti1Image(template, affine), tmp_path / "head.nii.gz")
    (trial,) = run_trials(tmp_path / "head.nii.gz", [14], np.eye(4), voxel_mm=3.0)
    assert trial.rotation > 13
    assert trial.recovered, trial


@pytest.mark.real_data
@pytest.mark.slow
def test_trials_print_a_table_and_write_every_trial(data_root: Path, tmp_path: Path, capsys) -> None:
    head = data_root / "volumes" / "head_t1w_healthy.nii.gz"
    registration_trials(str(head), trials=1, seed=3, voxel_mm=4.0, out=str(tmp_path / "trials.csv"))
    assert "1 of 1" in capsys.readouterr().out
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 2
