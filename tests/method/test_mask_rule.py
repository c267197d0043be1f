"""The masks, against scipy and cases counted by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.method.mask_rule import CalibratedMask, ScanQuantileMask


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))


def test_a_calibrated_mask_is_its_threshold(images):
    rule = CalibratedMask()
    rule.threshold.fill_(0.5)
    assert torch.equal(rule(images), (images > 0.5).float())


def test_a_mask_without_calibration_is_not_a_number(images):
    assert CalibratedMask()(images).isnan().all()


def test_the_published_rule_smooths_a_threshold_of_each_slices_own_and_does_not_bleed_between_slices(images):
    for image, result in zip(images, ScanQuantileMask()(images), strict=True):
        above = (image[0].numpy() > np.quantile(image.numpy(), 0.95)).astype(float)
        np.testing.assert_array_equal(result[0].bool(), ndimage.gaussian_filter(above, 1.2) > 0.1)


def test_by_the_published_rule_a_single_pixel_stays_one_pixel_and_a_square_of_four_becomes_six():
    coarse = torch.zeros(2, 1, 40, 40)
    coarse[0, 0, 20, 20] = 1.0
    coarse[1, 0, 10:14, 10:14] = 1.0
    assert ScanQuantileMask()(coarse).sum(dim=(1, 2, 3)).tolist() == [1.0, 36.0]
