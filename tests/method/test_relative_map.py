"""The relative map, against numpy and scipy."""

import numpy as np
import torch
from scipy import ndimage

from scripts.method.relative_map import RelativeMap, relative_anomaly_map


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


def test_the_component_has_the_documented_constants_and_takes_volumes():
    generator = torch.Generator().manual_seed(3)
    slices = [torch.rand(3, 1, 40, 32, generator=generator) for _ in range(3)]
    expected = relative_anomaly_map(*slices, 0.2, 0.01, 4.0, 0.15, 0.02)
    assert torch.equal(RelativeMap()(*slices), expected)
    volumes = (tensor.permute(1, 2, 3, 0)[None] for tensor in slices)
    assert torch.equal(RelativeMap()(*volumes)[0].permute(3, 0, 1, 2), expected)
