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
    return norm95(np.abs(equal_coarse - equal)), equal_coarse, equal


def norm95(residual: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, residual / (np.quantile(residual, 0.95) + 1e-8))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two volumes (1, 1, 64, 64, 2) and their blurred coarse reconstructions."""
    volume = torch.rand(1, 1, 64, 64, 2, generator=torch.Generator().manual_seed(1))
    blurred = ndimage.gaussian_filter(volume.numpy(), (0, 0, 3, 3, 0))
    return volume, torch.from_numpy(blurred)


def test_equation_3_is_numpys_slice_by_slice(pair):
    image, coarse = pair
    component = CoarseMap()
    residual, a, b = component.compare(image, coarse)
    saliency = torch.rand(image.shape, generator=torch.Generator().manual_seed(2))
    found = component(residual, saliency)
    assert found.shape == image.shape
    for d in range(2):
        expected, equal_coarse, equal = in_numpy(image[0, 0, :, :, d].numpy(), coarse[0, 0, :, :, d].numpy())
        np.testing.assert_allclose(a[0, 0, :, :, d], equal_coarse, atol=1e-5)
        np.testing.assert_allclose(b[0, 0, :, :, d], equal, atol=1e-5)
        np.testing.assert_allclose(found[0, 0, :, :, d], expected * saliency[0, 0, :, :, d].numpy(), atol=1e-4)


def test_the_mean_residual_is_the_mean_of_the_equalised_and_the_raw_map(pair):
    image, coarse = pair
    component = CoarseMap(residual="mean")
    found = component(component.compare(image, coarse)[0], torch.full_like(image, 2.0))
    for d in range(2):
        x, x_c = image[0, 0, :, :, d].numpy(), coarse[0, 0, :, :, d].numpy()
        expected = in_numpy(x, x_c)[0] + norm95(np.abs(x_c.astype(np.float64) - x))
        np.testing.assert_allclose(found[0, 0, :, :, d], expected, atol=1e-4)


def test_the_published_code_compares_the_images_as_they_are(pair):
    _, a, b = CoarseMap(saliency="raw").compare(*pair)
    assert torch.equal(a, pair[1])
    assert torch.equal(b, pair[0])


@pytest.mark.parametrize("option", [{"residual": "raw"}, {"saliency": "product"}])
def test_other_choices_are_refused(option):
    with pytest.raises(ValueError, match="must be 'equalized' or"):
        CoarseMap(**option)
