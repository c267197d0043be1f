"""The maps of a reconstruction, against scikit-image, scipy, PHANES itself and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist
from torch import Tensor, nn

from scripts.study.baselines.maps import PhanesMap, ResidualMap


class Distance(nn.Module):
    """A stand-in for LPIPS."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square() + 0.1 * a


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((2, 1, 64, 64)), rng.random((2, 1, 64, 64))


def each(function, *stacks: np.ndarray) -> np.ndarray:
    return np.stack([function(*images)[None] for images in zip(*(s[:, 0] for s in stacks), strict=True)])


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return gaussian_filter((a - b) ** 2 + 0.1 * a, 2.0)


@pytest.mark.parametrize("kind", ["residual", "squared", "residual_lpips", "eq_residual_lpips"])
def test_each_kind_is_its_formula(kind: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, r = pair
    if kind == "residual":
        expected = np.abs(x - r)
    elif kind == "squared":
        expected = (x - r) ** 2
    elif kind == "residual_lpips":
        expected = np.abs(x - r) * each(distance, r, x)
    else:
        eq_x, eq_r = each(equalize_adapthist, x), each(equalize_adapthist, r)
        expected = np.abs(eq_x - eq_r) * each(distance, r, x) * each(distance, eq_r, eq_x)
    found = ResidualMap(kind, Distance())(torch.from_numpy(x).float(), torch.from_numpy(r).float())
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def test_a_perfect_reconstruction_leaves_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x = torch.from_numpy(pair[0]).float()
    assert ResidualMap()(x, x).max() == 0


def test_a_reconstruction_beyond_the_range_is_cut() -> None:
    x = torch.ones(1, 1, 8, 8)
    assert ResidualMap()(x, 3 * x).max() == 0


def test_unknown_kinds_and_a_missing_distance_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        ResidualMap("difference")
    with pytest.raises(ValueError, match="needs a perceptual distance"):
        ResidualMap("residual_lpips")


def test_phanes_map_of_its_own_coarse_reconstruction_is_that_of_the_coarse_stage(build, images):
    """A network that draws one reconstruction: its first map is the map of it."""
    system = build("phanes_coarse")
    ill = images.clone()
    ill[:, :, 28:34, 28:34] *= 0.5
    found = system.analyse(ill)
    of_reconstruction = PhanesMap(system.network)(ill, found.reconstruction)
    assert found.anomaly_map.amax() > 1
    torch.testing.assert_close(of_reconstruction, found.anomaly_map, rtol=5e-3, atol=1e-3)
