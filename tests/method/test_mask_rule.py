"""The masks, against scipy and cases counted by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.method.mask_rule import CalibratedMask, ScanQuantileMask, binarize_mask


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))


def test_a_single_pixel_stays_one_pixel_and_a_square_of_four_becomes_six():
    coarse = torch.zeros(2, 1, 40, 40)
    coarse[0, 0, 20, 20] = 1.0
    coarse[1, 0, 10:14, 10:14] = 1.0
    mask = binarize_mask(coarse, torch.tensor(0.5), sigma=1.2)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [1.0, 36.0]


def test_the_mask_is_scipys_smoothed_threshold_and_does_not_bleed_between_images(images):
    mask = binarize_mask(images, torch.tensor(0.97), sigma=1.2)
    for image, result in zip(images, mask, strict=True):
        expected = ndimage.gaussian_filter((image[0].numpy() > 0.97).astype(float), 1.2) > 0.1
        np.testing.assert_array_equal(result[0].bool(), expected)


def test_without_smoothing_the_mask_is_the_threshold(images):
    assert torch.equal(binarize_mask(images, torch.tensor(0.5), sigma=0.0), (images > 0.5).float())


def test_an_uncalibrated_threshold_makes_a_mask_that_is_not_a_number(images):
    assert binarize_mask(images, torch.tensor(float("nan"))).isnan().all()


@pytest.mark.parametrize("sigma", [1.2, 0.0])
def test_values_below_the_threshold_can_join_the_smoothing(sigma):
    coarse = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 0.3
    mask = binarize_mask(coarse, torch.tensor(0.25), sigma=sigma, cut=0.17, keep_below=True)
    for own, values in zip(mask[:, 0].numpy(), coarse[:, 0].numpy(), strict=True):
        raised = np.where(values > 0.25, 1.0, values)
        expected = ndimage.gaussian_filter(raised, sigma) if sigma else raised
        assert np.array_equal(own, (expected > 0.17).astype(np.float32))


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_dilated_mask_is_scipys(images, dilation):
    mask = binarize_mask(images, torch.tensor(0.99), sigma=0.0)
    grown = binarize_mask(images, torch.tensor(0.99), sigma=0.0, dilation=dilation)
    for one, result in zip(mask[:, 0].numpy() > 0, grown[:, 0], strict=True):
        expected = ndimage.binary_dilation(one, np.ones((3, 3)), iterations=dilation)
        np.testing.assert_array_equal(result.bool(), expected)


def test_a_calibrated_mask_takes_its_threshold_times_a_factor_a_slice(images):
    rule = CalibratedMask(sigma=1.2, dilation=1)
    rule.threshold.fill_(0.8)
    factor = torch.tensor([1.0, 1.1, 0.9]).reshape(3, 1, 1, 1)
    expected = binarize_mask(images, 0.8 * factor, sigma=1.2, dilation=1)
    assert torch.equal(rule(images, factor), expected)
    volume = images.permute(1, 2, 3, 0)[None]
    assert torch.equal(rule(volume, factor)[0].permute(3, 0, 1, 2), expected)


def test_a_mask_without_calibration_is_not_a_number(images):
    assert CalibratedMask()(images).isnan().all()


def test_the_published_rule_thresholds_each_slice_by_its_own_quantile(images):
    mask = ScanQuantileMask(sigma=0.0)(images)
    for image, result in zip(images.numpy(), mask.numpy(), strict=True):
        np.testing.assert_array_equal(result, image > np.quantile(image, 0.95))
