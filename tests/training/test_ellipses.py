"""Random ellipse masks: where they lie, how large they are, and that a seed decides them."""

import math

import torch

from scripts.training.ellipses import random_ellipse_masks


def draw(seed: int, **kwargs) -> torch.Tensor:
    return random_ellipse_masks(64, generator=torch.Generator().manual_seed(seed), **kwargs)


def test_masks_are_binary_and_the_seed_decides_them():
    masks = draw(3)
    assert masks.shape == (64, 1, 128, 128)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(masks, draw(3))
    assert not torch.equal(masks, draw(4))


def test_mean_coverage_is_the_published_recipes():
    # Ten ellipses with half-axes max(2, int |N(2, 4)|) cover 2.95 % of 128 x 128 on average.
    coverage = torch.cat([draw(seed).mean(dim=(1, 2, 3)) for seed in range(8)])
    assert abs(coverage.mean() - 0.0295) < 0.003


def test_a_single_ellipse_has_the_area_of_its_half_axes():
    # Without spread both half-axes are 9 pixels, outline included 9.5: a disc, whatever its angle.
    area = draw(0, count=1, half_axis_mean=9.0, half_axis_std=0.0).sum(dim=(1, 2, 3))
    assert (area - 9.5**2 * math.pi).abs().max() < 0.05 * 9.5**2 * math.pi  # a disc of pixels is not quite round


def test_centres_stay_in_the_middle_half():
    tiny = draw(1, count=1, half_axis_mean=2.0, half_axis_std=0.0)
    rows, columns = torch.where(tiny.amax(dim=(0, 1)) > 0)
    assert min(rows.min(), columns.min()) >= 32 - 2
    assert max(rows.max(), columns.max()) <= 95 + 2
