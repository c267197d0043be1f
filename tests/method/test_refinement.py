"""The refined mask, against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.method.refinement import Refinement


@pytest.fixture
def anomaly() -> torch.Tensor:
    """(1, 1, 48, 48, 2)"""
    return torch.rand(1, 1, 48, 48, 2, generator=torch.Generator().manual_seed(1))


def test_a_refined_mask_is_scipys_threshold_of_the_smoothed_map_grown_by_four_pixels(anomaly):
    refinement = Refinement()
    refinement.threshold.fill_(0.75)
    found = refinement(anomaly)
    assert 0 < found.mean() < 1
    for d in range(2):
        above = ndimage.gaussian_filter(anomaly[0, 0, :, :, d].double().numpy(), 1.0) > 0.75
        expected = ndimage.binary_dilation(above, np.ones((9, 9)))
        np.testing.assert_array_equal(found[0, 0, :, :, d].bool(), expected)


def test_without_calibration_it_is_not_a_number(anomaly):
    assert Refinement()(anomaly).isnan().all()


def test_no_refinement_is_no_component():
    with pytest.raises(ValueError, match="times must be 1 or more, not 0; leave the refinement out"):
        Refinement(times=0)
