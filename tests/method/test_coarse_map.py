"""Equation (3) before its threshold, against numpy and cases counted by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.exposure import equalize_adapthist

from scripts.method.coarse_map import CoarseMap, normalize_by_quantile


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))


def test_norm95_divides_by_the_images_own_quantile_and_stops_at_one(images):
    scaled = images * torch.tensor([1.0, 10.0, 0.1]).reshape(3, 1, 1, 1)
    for image, result in zip(scaled.double(), normalize_by_quantile(scaled), strict=True):
        expected = np.minimum(1.0, image.numpy() / (np.quantile(image.numpy(), 0.95) + 1e-8))
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_norm95_of_nothing_is_nothing():
    assert normalize_by_quantile(torch.zeros(1, 1, 8, 8)).abs().max() == 0


def in_numpy(image: np.ndarray, coarse: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """norm95 of the equalised residual, and the equalised images, of one slice (H, W) each."""
    equal, equal_coarse = (equalize_adapthist(i.astype(np.float64)) for i in (image, coarse))
    residual = np.abs(equal_coarse - equal)
    return np.minimum(1.0, residual / (np.quantile(residual, 0.95) + 1e-8)), equal_coarse, equal


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two slices (2, 1, 64, 64) and their blurred coarse reconstructions."""
    slices = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    return slices, torch.from_numpy(ndimage.gaussian_filter(slices.numpy(), (0, 0, 3, 3)))


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A stand-in for S that is not symmetric."""
    return 2 * a + b


def test_equation_3_is_numpys_slice_by_slice(pair):
    image, coarse = pair
    found = CoarseMap()(image, coarse, distance)
    for x, x_c, result in zip(image, coarse, found, strict=True):
        residual, equal_coarse, equal = in_numpy(x[0].numpy(), x_c[0].numpy())
        np.testing.assert_allclose(result[0], residual * (2 * equal_coarse + equal), atol=1e-4)


def test_the_published_code_compares_the_images_as_they_are(pair):
    image, coarse = pair
    found = CoarseMap("raw")(image, coarse, distance)
    for x, x_c, result in zip(image, coarse, found, strict=True):
        residual = in_numpy(x[0].numpy(), x_c[0].numpy())[0]
        np.testing.assert_allclose(result[0], residual * (2 * x_c[0] + x[0]).numpy(), atol=1e-4)


def test_other_choices_are_refused():
    with pytest.raises(ValueError, match="must be 'equalized' or"):
        CoarseMap("product")
