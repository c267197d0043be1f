"""The fixed painting model: where lesions go, how dark they are, what stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine

from scripts.common.errors import PhanesInputError
from scripts.study.evaluation.heads_painting import (
    ANY_SIZE_ML,
    FIXED,
    STROKE_SIZES_ML,
    LesionShape,
    Painting,
    Recipe,
    brain_in_head,
    ellipsoid,
    paint,
    read_shapes,
    recipes,
)

from ...synthetic_heads import PLACE, head_affine, head_image, write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return read_shapes(write_shapes(tmp_path_factory.mktemp("shapes")))


def test_a_shapes_volume_is_that_within_the_brain(shapes):
    expected = [4 / 3 * np.pi * r**3 / 1000 for r in (7.0, 10.0, 18.0)]
    np.testing.assert_allclose([shape.ml for shape in shapes], expected, rtol=0.08)


def test_parts_share_the_files(tmp_path: Path):
    folder = write_shapes(tmp_path)
    assert [shape.name for shape in read_shapes(folder, 0)] == ["ball0", "ball2"]
    assert [shape.name for shape in read_shapes(folder, 1)] == ["ball1"]
    with pytest.raises(PhanesInputError, match="No lesion masks"):
        read_shapes(tmp_path / "nothing")


def test_over_the_seeds_every_head_gets_every_size_and_half_are_mirrored(shapes):
    made = [recipes(shapes, 12, seed, STROKE_SIZES_ML) for seed in range(3)]
    for head in range(12):
        assert {made[seed][head].size for seed in range(3)} == {0, 1, 2}
    for of in made:
        assert sum(recipe.mirrored for recipe in of) == 6
        assert all(0.35 <= recipe.darkness <= 0.7 for recipe in of)
        for recipe in of:
            low, high = STROKE_SIZES_ML[recipe.size]
            assert low <= recipe.shape.ml < high
    again = recipes(shapes, 12, 0, STROKE_SIZES_ML)
    assert [recipe.darkness for recipe in again] == [recipe.darkness for recipe in made[0]]


def test_a_size_without_any_shape_is_refused(shapes):
    with pytest.raises(PhanesInputError, match=r"15 to 120 ml"):
        recipes(shapes[:2], 3, 0, STROKE_SIZES_ML)
    assert len(recipes(shapes, 5, 0, ANY_SIZE_ML)) == 5


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_lesion_lies_where_the_registration_carries_it(shapes, mirrored):
    head = head_image()
    values, affine = np.asarray(head.dataobj, dtype=np.float32), head_affine()
    recipe = Recipe(shapes[2], mirrored, 0.5, 2)
    painted, truth = paint(values, affine, PLACE, recipe, np.random.default_rng(0))
    centre = apply_affine(affine, np.argwhere(truth).mean(axis=0))
    expected = apply_affine(PLACE, [35.0 if mirrored else -35.0, -20.0, 20.0])
    np.testing.assert_allclose(centre, expected, atol=1.0)
    assert truth.sum() * 64 / 1000 == pytest.approx(shapes[2].ml * 0.9**3, rel=0.1)
    far = np.linalg.norm(apply_affine(affine, np.moveaxis(np.indices(values.shape), 0, -1)) - expected, axis=-1) > 35
    np.testing.assert_array_equal(painted[far], values[far])
    inner = np.linalg.norm(apply_affine(affine, np.moveaxis(np.indices(values.shape), 0, -1)) - expected, axis=-1) < 6
    assert (painted[inner] / values[inner]).mean() == pytest.approx(0.5, abs=0.08)
    assert not (truth & ~brain_in_head(PLACE, affine, values.shape)).any()


def test_the_truth_holds_nothing_empty(shapes):
    head = np.zeros(head_image().shape, dtype=np.float32)
    painted, truth = paint(head, head_affine(), PLACE, Recipe(shapes[2], False, 0.5, 2), np.random.default_rng(0))
    assert not truth.any()
    assert not painted.any()


def test_the_ellipsoid_of_a_box_has_its_place_volume_and_axes(shapes):
    mask = np.zeros(shapes[2].mask.shape, dtype=bool)
    centre = np.round(np.argwhere(shapes[2].mask).mean(axis=0)).astype(int)
    half = np.array([9, 5, 3])
    mask[tuple(slice(c - h, c + h + 1) for c, h in zip(centre, half, strict=True))] = True
    made = ellipsoid(LesionShape("box", mask, shapes[2].affine, 0.0)).mask
    assert abs(int(made.sum()) - int(mask.sum())) < 0.02 * mask.sum()
    points = np.argwhere(made)
    np.testing.assert_allclose(points.mean(axis=0), centre, atol=0.2)
    assert not made[tuple(centre + half)]  # its corners are off
    # Half-axes in the box's proportions, and as large as the equal volume says.
    expected = (half + 0.5) * (6 / np.pi) ** (1 / 3)
    np.testing.assert_allclose((points.max(axis=0) - points.min(axis=0)) / 2, expected, atol=1)


def test_another_painting_changes_what_it_says_and_no_place(shapes):
    values, affine = np.asarray(head_image().dataobj, dtype=np.float32), head_affine()
    kinds = {
        "fixed": FIXED,
        "plain": Painting(texture=0.0, edge=0.0),
        "faint": Painting(depth=(0.9, 0.9), texture=0.0, edge=0.0),
    }
    made = {}
    for name, painting in kinds.items():
        recipe = recipes(shapes, 3, 0, STROKE_SIZES_ML, painting.depth)[2]
        painted, truth = paint(values, affine, PLACE, recipe, np.random.default_rng(0), painting)
        made[name] = recipe, painted / np.maximum(values, 1e-6), truth
    assert made["fixed"][0].shape.name == made["faint"][0].shape.name
    ratio, truth = made["plain"][1:]
    np.testing.assert_allclose(ratio[truth], made["plain"][0].darkness, rtol=1e-4)
    assert (ratio[~truth & (values > 0)] > 0.999).all()
    np.testing.assert_allclose(made["faint"][1][truth], 0.9, rtol=1e-4)
    assert (made["faint"][2] == truth).all()
