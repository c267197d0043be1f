"""The fixed painting model: where lesions go, how dark they are, what stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine

from scripts.common.errors import PhanesInputError
from scripts.study.evaluation.heads_painting import (
    ANY_SIZE_ML,
    STROKE_SIZES_ML,
    Recipe,
    brain_in_head,
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
