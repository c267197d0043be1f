"""Equations (3) and (4), the mask and the composition, against numpy, scipy and cases counted by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.method.anomaly import (
    anomaly_map,
    binarize_mask,
    coarse_anomaly_map,
    compose_pseudo_healthy,
    fill_hole,
    normalize_by_quantile,
    opened_difference,
    per_image_quantile,
    relative_anomaly_map,
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("q", [0.0, 0.5, 0.95, 0.99, 1.0])
def test_quantile_is_numpys_for_each_image(images, q):
    expected = [np.quantile(image.numpy(), q) for image in images]
    np.testing.assert_allclose(per_image_quantile(images, q).flatten(), expected, atol=1e-6)


def test_norm95_divides_by_the_images_own_quantile_and_stops_at_one(images):
    scaled = images * torch.tensor([1.0, 10.0, 0.1]).reshape(3, 1, 1, 1)
    for image, result in zip(scaled.double(), normalize_by_quantile(scaled), strict=True):
        expected = np.minimum(1.0, image.numpy() / (np.quantile(image.numpy(), 0.95) + 1e-8))
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_norm95_of_nothing_is_nothing():
    assert normalize_by_quantile(torch.zeros(1, 1, 8, 8)).abs().max() == 0


def test_coarse_map_is_the_normalised_residual_times_the_saliency():
    residual = torch.full((1, 1, 10, 10), 0.2)
    residual[..., 0, 0] = 0.1
    result = coarse_anomaly_map(residual, torch.full_like(residual, 3.0))
    assert result[0, 0, 0, 0] == pytest.approx(1.5, abs=1e-6)
    assert result[0, 0, 5, 5] == pytest.approx(3.0, abs=1e-6)


def test_a_single_pixel_stays_one_pixel_and_a_square_of_four_becomes_six():
    coarse = torch.zeros(2, 1, 40, 40)
    coarse[0, 0, 20, 20] = 1.0
    coarse[1, 0, 10:14, 10:14] = 1.0
    mask = binarize_mask(coarse, torch.tensor(0.5))
    assert mask.sum(dim=(1, 2, 3)).tolist() == [1.0, 36.0]


def test_the_mask_is_scipys_smoothed_threshold_and_does_not_bleed_between_images(images):
    mask = binarize_mask(images, torch.tensor(0.97))
    for image, result in zip(images, mask, strict=True):
        expected = ndimage.gaussian_filter((image[0].numpy() > 0.97).astype(float), 1.2) > 0.1
        np.testing.assert_array_equal(result[0].bool(), expected)


def test_without_smoothing_the_mask_is_the_threshold(images):
    assert torch.equal(binarize_mask(images, torch.tensor(0.5), sigma=0.0), (images > 0.5).float())


def test_an_uncalibrated_threshold_makes_a_mask_that_is_not_a_number(images):
    assert binarize_mask(images, torch.tensor(float("nan"))).isnan().all()


def test_pixels_outside_the_mask_are_the_inputs_own_bit_for_bit(images):
    mask = (images > 0.6).float()
    generated = torch.full_like(images, 3.0)
    composed = compose_pseudo_healthy(images, generated, mask)
    assert torch.equal(composed[mask == 0], images[mask == 0])
    assert (composed[mask == 1] == 1.0).all(), "the prediction is clamped to [0, 1]"


def test_the_composition_lets_the_gradient_into_the_hole_only():
    image, generated = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.4, requires_grad=True)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    compose_pseudo_healthy(image, generated, mask).sum().backward()
    assert torch.equal(generated.grad, mask)


def test_the_hole_is_filled_with_the_constant():
    image, mask = torch.full((1, 1, 1, 2), 0.3), torch.tensor([[[[0.0, 1.0]]]])
    assert fill_hole(image, mask, torch.tensor(1.0)).flatten().tolist() == pytest.approx([0.3, 1.0])
    assert fill_hole(image, mask, torch.tensor(0.0)).flatten().tolist() == pytest.approx([0.3, 0.0])


def test_anomaly_map_is_zero_exactly_where_nothing_was_replaced(images):
    mask = (images > 0.8).float()
    pseudo_healthy = compose_pseudo_healthy(images, 1 - images, mask)
    result = anomaly_map(images, pseudo_healthy, torch.full_like(images, 2.0))
    assert (result[mask == 0] == 0).all()
    expected = 2.0 * (1 - 2 * images.double()).abs()
    torch.testing.assert_close(result[mask == 1].double(), expected[mask == 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [1.2, 0.0])
def test_values_below_the_threshold_can_join_the_smoothing(sigma):
    coarse = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 0.3
    mask = binarize_mask(coarse, torch.tensor(0.25), sigma=sigma, cut=0.17, keep_below=True)
    for own, values in zip(mask[:, 0].numpy(), coarse[:, 0].numpy(), strict=True):
        raised = np.where(values > 0.25, 1.0, values)
        expected = ndimage.gaussian_filter(raised, sigma) if sigma else raised
        assert np.array_equal(own, (expected > 0.17).astype(np.float32))


def test_an_opened_difference_is_scipys_openings_of_both_signs(images):
    difference = images - images.flip(2)
    result = opened_difference(difference, [3, 5])
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
    opened = opened_difference(difference, [3, 5, 7])
    assert torch.equal(opened, torch.where(difference == 0.4, 0.4, 0.0))


def test_a_grown_opening_is_scipys_and_gives_a_disc_its_edge_back(images):
    difference = images - images.flip(2)
    result = opened_difference(difference, [3], growth=2)
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
    assert (opened_difference(disc + stripe, [9]) < disc).sum() > 0
    assert torch.equal(opened_difference(disc + stripe, [9], growth=2), disc)


def test_the_map_of_equation_4_takes_the_opened_difference_and_the_power_of_the_saliency(images):
    healthy, saliency = images.flip(3), images.flip(2)
    result = anomaly_map(images, healthy, saliency, [3], 0.1, 1, 0.5)
    torch.testing.assert_close(result, opened_difference(healthy - images, [3], 0.1, 1) * saliency.sqrt())


def test_what_an_opening_takes_away_keeps_the_floor_alone():
    difference = torch.zeros(1, 1, 32, 32)
    difference[..., 4, :] = -0.5
    difference[..., 10:20, 10:20] = 0.4
    opened = opened_difference(difference, [3, 5], floor=0.02)
    assert torch.equal(opened, torch.where(difference < 0, 0.02 * difference.abs(), difference.abs()))


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_dilated_mask_is_scipys(images, dilation):
    mask = binarize_mask(images, torch.tensor(0.99), sigma=0.0)
    grown = binarize_mask(images, torch.tensor(0.99), sigma=0.0, dilation=dilation)
    for one, result in zip(mask[:, 0].numpy() > 0, grown[:, 0], strict=True):
        expected = ndimage.binary_dilation(one, np.ones((3, 3)), iterations=dilation)
        np.testing.assert_array_equal(result.bool(), expected)


def test_a_relative_map_is_the_map_over_the_slices_error_and_the_local_contrast():
    generator = torch.Generator().manual_seed(3)
    anomaly, image, coarse = (torch.rand(3, 1, 40, 32, generator=generator) for _ in range(3))
    image[1, :, :20] = 0.0
    found = relative_anomaly_map(anomaly, image, coarse, 0.3, 0.02, 2.0, 0.1, 0.05)
    for s, x, c, result in zip(*(t[:, 0].double().numpy() for t in (anomaly, image, coarse, found)), strict=True):
        error = np.abs(c - x)[x > 0.3].mean()
        contrast = np.sqrt(ndimage.gaussian_filter(x**2, 2.0) - ndimage.gaussian_filter(x, 2.0) ** 2)
        np.testing.assert_allclose(result, s * 0.05 / ((error + 0.02) * (contrast + 0.1)), rtol=1e-5)
    assert torch.equal(relative_anomaly_map(anomaly[:1], image[:1], coarse[:1], 0.3, 0.02, 2.0, 0.1, 0.05), found[:1])


def test_a_relative_map_of_an_empty_slice_is_finite():
    nothing = torch.zeros(1, 1, 16, 16)
    assert not relative_anomaly_map(nothing, nothing, nothing).any()
