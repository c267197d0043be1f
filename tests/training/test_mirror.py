"""Means over a slice and its mirror image, against numpy."""

import numpy as np
import torch

from scripts.training.mirror import mean_over_mirror_images, with_mirror_images


def test_a_network_sees_both_and_their_mean_is_upright():
    images = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    slope = torch.arange(7.0)  # a network that is not symmetric: it weighs columns by their place
    found = mean_over_mirror_images(with_mirror_images(images) * slope)
    exact = images.double().numpy()
    weights = np.arange(7.0)
    expected = 0.5 * (exact * weights + np.flip(np.flip(exact, 3) * weights, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert torch.equal(with_mirror_images(images)[:3], images)
