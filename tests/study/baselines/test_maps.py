"""The maps of a reconstruction, against scikit-image, scipy, PHANES itself and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist
from torch import Tensor, nn

from scripts.method.anomaly_map import AnomalyMap
from scripts.method.relative_map import RelativeMap
from scripts.study.baselines.maps import PhanesMap, ResidualMap


class Distance(nn.Module):
    """A stand-in for LPIPS."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square() + 0.1 * a


class Ones(nn.Module):
    """A perceptual distance of 1."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ones_like(a)


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


def test_phanes_map_of_its_own_reconstruction_is_phanes_map(build, images):
    network = build("phanes").network
    masks = torch.zeros_like(images)
    masks[:, :, 20:40, 20:40] = 1.0
    with torch.no_grad():
        expected, pseudo_healthy = network.forward_with_mask(images, masks)
        network.relative_map = None
        found = PhanesMap(network)(images, pseudo_healthy)
    assert expected.max() > 0
    torch.testing.assert_close(found, expected)


def test_phanes_map_is_relative_to_the_systems_own_error(build, images):
    """Twice the error in the tissue, and so half the relative map at a place where the reconstruction stays."""
    network = build("phanes").network
    network.anomaly_map, network.relative_map = AnomalyMap(), RelativeMap()
    network.perceptual = Ones()
    tissue = images > 0.2
    with torch.no_grad():
        near, far = (PhanesMap(network)(images, images - 0.05 * n * tissue) for n in (1, 2))
    # |x - r| doubles; it is divided by e + 0.01, with e = 0.05 and 0.1
    torch.testing.assert_close(far[tissue] / near[tissue], torch.full_like(near[tissue], 2 * 0.06 / 0.11))
