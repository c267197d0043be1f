"""The grid of levels: where it lies, and that it holds the template's brain."""

from __future__ import annotations

import numpy as np
from nibabel.affines import apply_affine

from scripts.space.geometry import LEVEL_MM
from scripts.space.levels import (
    FIELD_MM,
    GRID,
    LEVELS_MM,
    PIXEL_MM,
    SIZE,
    STEP_MM,
    brain_of_levels,
    level_affine,
    nearest_level,
)
from scripts.space.template import BRAIN_CUT, brain_on_grid, read_template


def test_the_field_is_that_of_the_mid_axial_slices() -> None:
    edges = apply_affine(level_affine(), [[-0.5, -0.5, 0], [SIZE - 0.5, SIZE - 0.5, 0]])
    # 233 mm around x = 0, y = -18; rows run backwards.
    np.testing.assert_allclose(edges[:, :2], [[-116.5, 98.5], [116.5, -134.5]])
    assert FIELD_MM == SIZE * PIXEL_MM == 233.0


def test_the_papers_level_is_one_of_them() -> None:
    assert LEVEL_MM in LEVELS_MM
    assert LEVELS_MM[nearest_level(LEVEL_MM)] == LEVEL_MM
    assert nearest_level(-500) == 0
    assert nearest_level(500) == len(LEVELS_MM) - 1


def test_every_level_holds_brain_and_none_is_left_out() -> None:
    brain = brain_of_levels()
    assert brain.shape == GRID
    assert (brain.sum(axis=(0, 1)) * PIXEL_MM**2 >= 100).all()
    for beyond in (LEVELS_MM[0] - STEP_MM, LEVELS_MM[-1] + STEP_MM):
        assert brain_on_grid(level_affine(beyond), (SIZE, SIZE, 1)).sum() * PIXEL_MM**2 < 100


def test_the_brain_of_some_levels_is_that_of_all_there() -> None:
    np.testing.assert_array_equal(brain_of_levels([21, 23]), brain_of_levels()[..., [46, 47]])


def test_the_brain_has_the_templates_volume() -> None:
    template, _ = read_template()
    volume = brain_of_levels().sum() * PIXEL_MM**2 * STEP_MM
    assert abs(volume / (template > BRAIN_CUT).sum() - 1) < 0.01
