"""Equation (4), and its opened difference against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.method.anomaly_map import AnomalyMap, OpenedAnomalyMap, opened_difference
from scripts.method.filling import compose_pseudo_healthy


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))


def test_anomaly_map_is_zero_exactly_where_nothing_was_replaced(images):
    mask = (images > 0.8).float()
    pseudo_healthy = compose_pseudo_healthy(images, 1 - images, mask)
    result = AnomalyMap()(images, pseudo_healthy, torch.full_like(images, 2.0))
    assert (result[mask == 0] == 0).all()
    expected = 2.0 * (1 - 2 * images.double()).abs()
    torch.testing.assert_close(result[mask == 1].double(), expected[mask == 1], atol=1e-6, rtol=0)


def test_an_opened_difference_is_scipys_openings_of_both_signs(images):
    difference = images - images.flip(2)
    result = opened_difference(difference, [3, 5], 0.0, 0)
    for one, opened in zip(difference[:, 0].numpy(), result[:, 0], strict=True):
        signs = [np.maximum(one, 0), np.maximum(-one, 0)]
        # at the border, filters see the image's own pixels alone, as max pooling does
        low, high = {"mode": "constant", "cval": np.inf}, {"mode": "constant", "cval": -np.inf}
        openings = [
            [ndimage.maximum_filter(ndimage.minimum_filter(sign, size, **low), size, **high) for size in (3, 5)]
            for sign in signs
        ]
        np.testing.assert_allclose(opened, np.maximum(*(np.mean(pair, axis=0) for pair in openings)), atol=1e-6)


def test_opening_takes_stripes_away_and_leaves_areas():
    difference = torch.zeros(1, 1, 32, 32)
    difference[..., 4, :] = -0.5
    difference[..., 10:20, 10:20] = 0.4
    opened = opened_difference(difference, [3, 5, 7], 0.0, 0)
    assert torch.equal(opened, torch.where(difference == 0.4, 0.4, 0.0))


def test_a_grown_opening_is_scipys_and_gives_a_disc_its_edge_back(images):
    difference = images - images.flip(2)
    result = opened_difference(difference, [3], 0.0, 2)
    for one, grown in zip(difference[:, 0].numpy(), result[:, 0], strict=True):
        low, high = {"mode": "constant", "cval": np.inf}, {"mode": "constant", "cval": -np.inf}
        signs = []
        for sign in (np.maximum(one, 0), np.maximum(-one, 0)):
            opened = ndimage.maximum_filter(ndimage.minimum_filter(sign, 3, **low), 3, **high)
            signs.append(np.minimum(sign, ndimage.maximum_filter(opened, 5, **high)))
        np.testing.assert_allclose(grown, np.maximum(*signs), atol=1e-6)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = ((rows - 15) ** 2 + (columns - 15) ** 2 <= 36).float()[None, None]
    stripe = torch.zeros_like(disc)
    stripe[..., 28, :] = 1.0
    assert (opened_difference(disc + stripe, [9], 0.0, 0) < disc).sum() > 0
    assert torch.equal(opened_difference(disc + stripe, [9], 0.0, 2), disc)


def test_the_map_of_equation_4_takes_the_opened_difference_and_the_power_of_the_saliency(images):
    healthy, saliency = images.flip(3), images.flip(2)
    result = OpenedAnomalyMap([3], 0.5)(images, healthy, saliency)
    torch.testing.assert_close(result, opened_difference(healthy - images, [3]) * saliency.sqrt())
    volumes = (tensor.permute(1, 2, 3, 0)[None] for tensor in (images, healthy, saliency))
    assert torch.equal(OpenedAnomalyMap([3], 0.5)(*volumes)[0].permute(3, 0, 1, 2), result)


def test_what_an_opening_takes_away_keeps_the_floor_alone():
    difference = torch.zeros(1, 1, 32, 32)
    difference[..., 4, :] = -0.5
    difference[..., 10:20, 10:20] = 0.4
    opened = opened_difference(difference, [3, 5], 0.02, 0)
    assert torch.equal(opened, torch.where(difference < 0, 0.02 * difference.abs(), difference.abs()))
