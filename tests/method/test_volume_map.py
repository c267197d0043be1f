"""The map of a whole head does to every head of a batch what scipy's filters do to one."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.method.filters import gaussian_filter
from scripts.method.volume_map import (
    WINDOW,
    WINDOW_RADIUS,
    largest_in_cubes,
    local_contrast,
    median_within,
    opened_difference,
    relative_map,
)


@pytest.fixture
def heads():
    return torch.rand(3, 1, 22, 19, 13, generator=torch.Generator().manual_seed(0))


def scipy_opening(volume: np.ndarray, size: int) -> np.ndarray:
    """Beyond the border is nothing, for the erosion and for the dilation."""
    eroded = ndimage.grey_erosion(volume, size=size, mode="constant", cval=-np.inf)
    return ndimage.grey_dilation(eroded, size=size, mode="constant", cval=-np.inf)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_opening_of_dark_or_bright_voxels_equals_scipy(heads, size):
    expected = [scipy_opening(head[0].numpy(), size) for head in heads]
    for difference in (heads, -heads):
        np.testing.assert_array_equal(opened_difference(difference, (size,))[:, 0].numpy(), expected)


def test_each_size_goes_on_where_the_last_one_ended(heads):
    """Both signs at once, in one step from cube to cube, equal openings of their own to the bit."""
    difference = heads - 0.5
    sides = [np.maximum(sign * difference.numpy(), 0) for sign in (1, -1)]
    each = [sum(scipy_opening(side[n, 0], size) for side in sides) for n in range(3) for size in (2, 3, 4)]
    expected = np.stack([(each[n] + each[n + 1] + each[n + 2]) / np.float32(3) for n in (0, 3, 6)])
    np.testing.assert_array_equal(opened_difference(difference)[:, 0].numpy(), expected)


def test_opening_of_a_single_slice_is_by_squares(heads):
    single = heads[..., :1]
    expected = [scipy_opening(head[0, :, :, 0].numpy(), 3) for head in single]
    np.testing.assert_array_equal(opened_difference(single, (3,))[:, 0, :, :, 0].numpy(), expected)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 9])
def test_the_largest_in_cubes_equals_max_pooling(heads, side):
    sides = [side, 2, 1]
    assert torch.equal(largest_in_cubes(heads, sides), torch.nn.functional.max_pool3d(heads, sides, 1))


def test_a_cube_stays_whole_and_a_plate_vanishes():
    maps = torch.zeros(1, 1, 12, 12, 12)
    maps[..., 2:6, 2:6, 2:6] = 1  # a cube of 4
    maps[..., 8, :, :] = 1  # a plate one voxel thick
    opened = opened_difference(maps, (4,))
    assert torch.equal(opened[..., :8, :, :], maps[..., :8, :, :])
    assert opened[..., 8:, :, :].max() == 0


def test_the_local_contrast_does_not_look_beyond_its_radius():
    spot = torch.zeros(1, 1, 41, 41, 41)
    spot[..., 20, 20, 20] = 1
    seen = gaussian_filter(spot, WINDOW)[0, 0, :, 20, 20].nonzero().flatten()
    assert [int(seen[0]), int(seen[-1])] == [20 - WINDOW_RADIUS, 20 + WINDOW_RADIUS]


def test_dark_and_bright_are_opened_apart():
    """A dark and a bright voxel side by side are two small things, not one large one."""
    difference = torch.zeros(1, 1, 8, 8, 8)
    difference[..., 2:4, 2:4, 2:4] = 1.0
    difference[..., 4:6, 2:4, 2:4] = -1.0
    opened = opened_difference(difference, sizes=(2,))
    assert torch.equal(opened, difference.abs())
    assert opened_difference(difference, sizes=(3,)).max() == 0


def test_local_contrast_equals_scipy(heads):
    for head, contrast in zip(heads[:, 0].double(), local_contrast(heads.double())[:, 0], strict=True):
        mean = ndimage.gaussian_filter(head.numpy(), 3.0)
        spread = np.sqrt(np.maximum(ndimage.gaussian_filter(head.numpy() ** 2, 3.0) - mean**2, 0))
        np.testing.assert_allclose(contrast.numpy(), spread, atol=1e-10)


def test_median_within_equals_torch_and_is_0_without_a_region(heads):
    region = (heads > 0.4).float()
    region[2] = 0
    median = median_within(heads, region)
    assert median.shape == (3, 1, 1, 1, 1)
    expected = [heads[i][region[i] > 0].median() for i in range(2)]
    torch.testing.assert_close(median.flatten(), torch.stack([*expected, torch.tensor(0.0)]))


def test_relative_map_equals_its_definition(heads):
    reconstruction = heads.flip(2) * 0.3 + 0.35
    brain = torch.zeros(1, 1, 22, 19, 13)
    brain[..., 2:-2, 3:-3, 1:-1] = 1
    maps = relative_map(heads, reconstruction, brain, local_contrast(heads))
    for head, rebuilt, result in zip(
        heads[:, 0].numpy(), reconstruction[:, 0].numpy(), maps[:, 0].numpy(), strict=True
    ):
        inside = brain[0, 0].numpy() > 0
        difference = (head - rebuilt) * inside
        mean = ndimage.gaussian_filter(head, 3.0)
        contrast = np.sqrt(np.maximum(ndimage.gaussian_filter(head**2, 3.0) - mean**2, 0))
        dark, bright = np.maximum(-difference, 0), np.maximum(difference, 0)
        opened = sum(scipy_opening(side, size) for side in (dark, bright) for size in (2, 3, 4)) / 3
        error = np.quantile(np.abs(difference[inside]), 0.5, method="lower")
        np.testing.assert_allclose(result, opened / (contrast + 0.15) / (error + 0.01) * inside, rtol=2e-4, atol=1e-5)


def test_a_batch_equals_its_heads_and_nothing_lies_outside_of_the_brain(heads):
    brain = (heads > 0.2).float()
    reconstruction = heads.roll(1, 2)
    together = relative_map(heads, reconstruction, brain, local_contrast(heads))
    alone = [
        relative_map(*(x[i : i + 1] for x in (heads, reconstruction, brain, local_contrast(heads)))) for i in range(3)
    ]
    assert torch.equal(together, torch.cat(alone))
    assert together[brain == 0].max() == 0
    assert together.max() > 0


def test_a_perfect_reconstruction_has_a_map_of_zero(heads):
    assert relative_map(heads, heads, torch.ones_like(heads), local_contrast(heads)).abs().max() == 0


def test_exported_program_equals_the_function(heads):
    class Map(torch.nn.Module):
        def forward(self, image: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
            return relative_map(image, reconstruction, torch.ones_like(image), local_contrast(image))

    arguments = (heads, heads.roll(1, 2))
    depth = torch.export.Dim("depth", min=5, max=200)  # more levels than the largest cube
    program = torch.export.export(Map(), arguments, dynamic_shapes=({4: depth}, {4: depth})).module()
    shorter = tuple(a[..., :9] for a in arguments)
    torch.testing.assert_close(program(*shorter), Map()(*shorter))
