"""A head comes onto the levels and back where it belongs, to a fraction of a voxel, however it lies."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from nibabel.affines import apply_affine

from scripts.space.levels import LEVELS_MM, SIZE, level_affine
from scripts.space.resampling import brain_at, onto_levels, onto_voxels, scanned, voxel_height
from tests.heads import oblique, reoriented

SHAPE = (52, 64, 50)
PLANE = np.array([0.5, -0.25, 0.75])  # a ramp in MNI space, per mm


def ramp(into_mni: np.ndarray, shape: tuple = SHAPE) -> np.ndarray:
    points = apply_affine(into_mni, np.moveaxis(np.indices(shape), 0, -1))
    return (500 + points @ PLANE).astype(np.float32)


def pixels(height: float) -> np.ndarray:
    """Where the pixels of a level lie in MNI space, (H, W, 3)."""
    return apply_affine(level_affine(height), np.moveaxis(np.indices((SIZE, SIZE, 1)), 0, -1))[:, :, 0]


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (0.9, 4.0, 4.0), (3.0, 4.0, 7.0)])
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (11.0, -9.0, 14.0)])
def test_a_ramp_stays_a_ramp_on_any_grid(spacing: tuple, angles: tuple) -> None:
    """Smoothing and linear interpolation leave a ramp as it is; so what they return is the place they read."""
    into_mni = oblique(SHAPE, spacing, angles) @ np.array([[1, 0.03, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    heights = [-11.0, 4.5, 23.0]
    levels = onto_levels(ramp(into_mni), into_mni, heights)
    for k, height in enumerate(heights):
        points = pixels(height)
        voxels = apply_affine(np.linalg.inv(into_mni), points)
        inner = ((voxels > 3) & (voxels < np.array(SHAPE) - 4)).all(axis=-1)
        assert inner.sum() > 200
        np.testing.assert_allclose(levels[..., k][inner], (500 + points @ PLANE)[inner], atol=0.02)


def test_outside_of_the_scan_is_its_minimum() -> None:
    into_mni = oblique(SHAPE, (2.0, 2.0, 2.0), (5.0, 0.0, 0.0))
    volume = ramp(into_mni)
    inside = scanned(SHAPE, into_mni)
    levels = onto_levels(volume, into_mni)
    assert (levels[~inside] == volume.min()).all()
    assert (levels[inside] > volume.min()).mean() > 0.99
    voxels = apply_affine(np.linalg.inv(into_mni), pixels(LEVELS_MM[40]))
    expected = ((voxels >= -0.5) & (voxels <= np.array(SHAPE) - 0.5)).all(axis=-1)
    assert (inside[..., 40] == expected).all()


def test_a_fine_scan_is_smoothed_to_the_width_of_a_level() -> None:
    """Noise of 0.5 mm voxels keeps the share that the mean over a level's voxel would leave it, within a factor."""
    noise = np.random.default_rng(0).standard_normal((200, 200, 60)).astype(np.float32)
    into_mni = oblique(noise.shape, (0.5, 0.5, 0.5), (0.0, 0.0, 0.0))
    left = onto_levels(noise, into_mni, [4.0])[scanned(noise.shape, into_mni, [4.0])].std()
    mean = 1 / np.sqrt((233 / 128 / 0.5) ** 2 * (2 / 0.5))
    assert 0.8 * mean < left < 1.6 * mean


def test_all_48_storage_orders_give_the_same_levels() -> None:
    into_mni = oblique(SHAPE, (3.0, 3.5, 4.0), (7.0, -4.0, 9.0))
    volume = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    reference = onto_levels(volume, into_mni, [0.0, 23.0])
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned, affine = reoriented(volume, into_mni, np.array(list(zip(order, flips, strict=True)), dtype=float))
        assert np.abs(onto_levels(turned, affine, [0.0, 23.0]) - reference).max() < 1e-4


@pytest.mark.parametrize(("spacing", "angles"), [
    ((4.0, 4.0, 4.0), (8.0, -14.0, 5.0)), ((3.0, 3.5, 6.0), (0.0, 0.0, 0.0)), ((7.0, 3.0, 3.0), (-5.0, 3.0, 40.0)),
])  # fmt: skip
def test_every_voxel_of_a_slab_gets_the_value_of_its_place_and_no_other_one_any(spacing: tuple, angles: tuple) -> None:
    """Against a loop over all voxels that applies the definition to each."""
    shape = (30, 36, 28)
    into_mni = oblique(shape, spacing, angles)
    heights = list(LEVELS_MM[40:46])
    maps = np.stack([500 + pixels(height) @ PLANE for height in heights], axis=-1).astype(np.float32)
    analysed = np.zeros(maps.shape, dtype=bool)
    analysed[30:100, 25:90] = True
    numbers = np.arange(maps.size, dtype=np.float32).reshape(maps.shape) + 1
    where, found = onto_voxels(
        {"ramp": (maps, False), "number": (numbers, True)}, analysed, heights, 2.0, into_mni, shape
    )
    from_plane = np.linalg.inv(level_affine(0.0)) @ into_mni
    half, middle = max(12.0, voxel_height(into_mni)) / 2, (heights[0] + heights[-1]) / 2
    wrong = inner = 0
    for voxel in np.ndindex(shape):
        row, column, _ = apply_affine(from_plane, voxel)
        point = apply_affine(into_mni, voxel)
        nearest = (round(row), round(column), int(np.clip(round((point[2] - heights[0]) / 2), 0, 5)))
        belongs = abs(point[2] - middle) < half and 0 <= nearest[0] < SIZE and 0 <= nearest[1] < SIZE
        belongs = belongs and bool(analysed[nearest])
        wrong += where[voxel] != belongs or found["number"][voxel] != (numbers[nearest] if belongs else 0)
        if where[voxel] and heights[0] <= point[2] <= heights[-1]:
            inner += 1
            assert abs(found["ramp"][voxel] - (500 + point @ PLANE)) < 0.02
    assert wrong <= 0.002 * np.prod(shape)  # ties between two pixels
    assert inner > 50
    assert not found["ramp"][~where].any()


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 6.0)])
def test_a_level_keeps_its_thickness_and_is_not_torn(spacing: tuple) -> None:
    """One tilted level of 2 mm; in voxels thicker than that each column of voxels holds it once."""
    shape = (60, 60, 40) if spacing[2] == 2 else (60, 60, 12)
    into_mni = oblique(shape, spacing, (12.0, 7.0, 0.0))
    everywhere = np.ones((SIZE, SIZE, 1), dtype=bool)
    where, _ = onto_voxels({}, everywhere, [4.0], 2.0, into_mni, shape)
    thick = max(2.0, voxel_height(into_mni))
    volume = where.sum() * abs(np.linalg.det(into_mni[:3, :3]))
    tilt = into_mni[2, 2] / spacing[2]  # cosine: the scan's columns cross the level so much longer
    assert volume == pytest.approx(60 * 60 * spacing[0] * spacing[1] * thick / tilt, rel=0.05)
    assert where[10:50, 10:50].any(axis=2).all()


def test_levels_apart_are_slabs_of_their_own() -> None:
    into_mni = oblique((20, 20, 40), (4.0, 4.0, 1.0), (0.0, 0.0, 0.0))
    values = np.ones((SIZE, SIZE, 3), dtype=np.float32) * [1.0, 2.0, 5.0]
    heights = [0.5, 1.5, 8.5]
    where, found = onto_voxels({"x": (values, False)}, values > 0, heights, 1.0, into_mni, (20, 20, 40))
    column = {float(into_mni[2, 3] + k): float(found["x"][10, 10, k]) for k in np.flatnonzero(where[10, 10])}
    assert column == {0.5: 1.0, 1.5: 2.0, 8.5: 5.0}


def test_brain_at_a_height_is_that_of_the_levels() -> None:
    assert (brain_at(LEVELS_MM)[..., 30:32] == brain_at(LEVELS_MM[30:32])).all()
    assert brain_at([23.0]).sum() > 4000
