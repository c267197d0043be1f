"""Where to look: MNI space recognised, a slice's centre found."""

from __future__ import annotations

import numpy as np
import pytest
from nilearn.datasets import load_mni152_template

from scripts.space import geometry
from tests.conftest import head_slice


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    """The template's brain, (H, W, D) oriented, 1 mm; the paper's level is slice 95."""
    return np.asarray(load_mni152_template(resolution=1).dataobj, dtype=np.float32).transpose(1, 0, 2)[::-1].copy()


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
