"""Where to look: constants measured on the template, MNI space recognised, a native head's level and centre found."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from scipy.ndimage import distance_transform_edt, zoom

from scripts.space import geometry
from tests.conftest import head_slice


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    """The template's brain, (H, W, D) oriented, 1 mm; the trained level is slice 95."""
    return np.asarray(load_mni152_template(resolution=1).dataobj, dtype=np.float32).transpose(1, 0, 2)[::-1].copy()


@pytest.fixture(scope="module")
def head(brain: np.ndarray) -> np.ndarray:
    """The template's brain inside a skull (dark) and a scalp (bright), together as thick as assumed; 2 mm voxels."""
    brain = np.pad(brain, ((0, 0), (0, 0), (0, 20)))[::2, ::2, ::2]
    outside = distance_transform_edt(brain == 0, sampling=2)
    bone = np.full(brain.shape, 0.05)
    bone[::8] = 0.6  # marrow and vessels connect brain and scalp, as they do in real heads
    thick = geometry.SCALP_MM
    return np.where(brain > 0, brain, np.where(outside < 0.6 * thick, bone, np.where(outside < thick, 1.0, 0.0)))


def test_constants_are_measured_on_the_template() -> None:
    measured = geometry.measure_template()
    assert measured["brain_vertex_mm"] == geometry.BRAIN_VERTEX_MM
    assert measured["brain_centre_offset_mm"] == geometry.BRAIN_CENTRE_OFFSET_MM


def test_mni_space_is_recognised_in_any_orientation() -> None:
    template = load_mni152_template(resolution=1)
    assert geometry.is_mni(template.affine, template.shape)
    fsl = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
    assert geometry.is_mni(fsl, (182, 218, 182))
    two_mm = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    assert geometry.is_mni(two_mm, (91, 109, 91))
    permuted = template.affine[:, [2, 0, 1, 3]]
    assert geometry.is_mni(permuted, (189, 197, 233))
    assert geometry.is_mni(np.eye(4), (50, 50, 50), codes=[0, 4])


def test_native_space_is_not_taken_for_mni() -> None:
    assert not geometry.is_mni(np.eye(4), (197, 233, 189))
    shifted = load_mni152_template(resolution=1).affine + np.array([[0, 0, 0, 0]] * 2 + [[0, 0, 0, 6]] + [[0] * 4])
    assert not geometry.is_mni(shifted, (197, 233, 189), codes=[1, 2])
    assert geometry.is_mni(shifted, (197, 233, 1), in_plane=True)


def test_template_slices_are_recognised_by_extent() -> None:
    assert geometry.is_template_slice((233, 197), (1, 1))
    assert geometry.is_template_slice((109, 91), (2, 2))
    assert not geometry.is_template_slice((197, 233), (1, 1))
    assert not geometry.is_template_slice((256, 256), (0.9, 0.9))


@pytest.mark.parametrize("step", [1.0, 3.0])
@pytest.mark.parametrize("lifted", [0, 12])
def test_level_of_a_stripped_brain(brain: np.ndarray, step: float, lifted: int) -> None:
    volume = zoom(np.roll(brain, lifted, axis=2), (1, 1, 1 / step), order=1, grid_mode=True, mode="grid-constant")
    level, warning = geometry.estimate_level(volume, (1.0, 1.0, step))
    assert abs((level + 0.5) * step - (95.5 + lifted)) <= 4.0
    assert "top of the brain" in warning


def test_level_of_a_head_with_skull(head: np.ndarray) -> None:
    level, warning = geometry.estimate_level(head, (2.0, 2.0, 2.0))
    assert abs(2 * level - 95) <= 5
    assert "top of the head" in warning


def test_level_survives_noise_and_units(head: np.ndarray) -> None:
    noisy = 1500 * head + np.abs(np.random.default_rng(0).normal(0, 30, head.shape))
    level, _ = geometry.estimate_level(noisy, (2.0, 2.0, 2.0))
    assert abs(2 * level - 95) <= 5


def test_level_of_a_scan_that_cuts_the_vertex_off(head: np.ndarray) -> None:
    level, warning = geometry.estimate_level(head[..., :75], (2.0, 2.0, 2.0))
    assert abs(2 * level - 95) <= 10
    assert "cuts off" in warning


def test_level_out_of_reach_is_said(head: np.ndarray) -> None:
    level, warning = geometry.estimate_level(head[..., 75:], (2.0, 2.0, 2.0))
    assert level == 0
    assert "does not reach" in warning


def test_blank_volume_gives_the_middle_and_a_warning() -> None:
    level, warning = geometry.estimate_level(np.zeros((40, 40, 11)), (1, 1, 1))
    assert level == 5
    assert "no head found" in warning


def test_head_centre_follows_the_head() -> None:
    image = np.pad(head_slice(), 40).astype(float)
    row, column = geometry.head_centre(image, (1.0, 1.0))
    moved = geometry.head_centre(np.roll(image, (13, -21), (0, 1)), (1.0, 1.0))
    assert moved == (row + 13, column - 21)
    assert geometry.head_centre(np.zeros((30, 40)), (1, 1)) == (14.5, 19.5)


def test_head_centre_of_the_template_is_the_training_field_of_view(brain: np.ndarray) -> None:
    row, column = geometry.head_centre(brain[..., 95], (1.0, 1.0))
    assert abs(row - 116) <= 1
    assert abs(column - 98) <= 1
