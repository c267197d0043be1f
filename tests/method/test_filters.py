"""The filters do to every image of a batch what scipy's do to one."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.method.filters import gaussian_filter


@pytest.fixture
def images():
    return torch.rand(3, 1, 48, 37, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.3, 1.2, 2.0, 10.0])
@pytest.mark.parametrize("truncate", [4.0, 3.5])
def test_equals_scipy_image_by_image(images, sigma, truncate):
    expected = [ndimage.gaussian_filter(i[0].numpy(), sigma, mode="reflect", truncate=truncate) for i in images]
    np.testing.assert_allclose(gaussian_filter(images, sigma, truncate)[:, 0].numpy(), expected, atol=1e-6)


def test_border_wider_than_the_image_is_reflected_again():
    image = torch.rand(1, 1, 5, 3, generator=torch.Generator().manual_seed(1))
    expected = ndimage.gaussian_filter(image[0, 0].numpy(), 4.0, mode="reflect")
    np.testing.assert_allclose(gaussian_filter(image, 4.0)[0, 0].numpy(), expected, atol=1e-6)


def test_a_single_pixel_mask_survives_as_one_pixel_and_a_square_grows_by_one():
    """The clean-up of the mask: sigma 1.2, cut at 0.1; worked out by hand, the peak of one pixel is 0.1105."""
    masks = torch.zeros(2, 1, 21, 21)
    masks[0, 0, 10, 10] = 1
    masks[1, 0, 8:12, 8:12] = 1
    blurred = gaussian_filter(masks, 1.2)
    assert blurred[0].max().item() == pytest.approx(0.1105, abs=1e-4)
    assert (blurred > 0.1).sum(dim=(1, 2, 3)).tolist() == [1, 36]


def test_double_precision_is_kept(images):
    expected = ndimage.gaussian_filter(images[0, 0].double().numpy(), 2.0, mode="reflect")
    np.testing.assert_allclose(gaussian_filter(images.double(), 2.0)[0, 0].numpy(), expected, atol=1e-14)


def test_autocast_does_not_lower_the_precision(images):
    expected = ndimage.gaussian_filter(images[0, 0].numpy(), 2.0, mode="reflect")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        blurred = gaussian_filter(images, 2.0)
    assert blurred.dtype == torch.float32
    np.testing.assert_allclose(blurred[0, 0].numpy(), expected, atol=1e-6)


def test_scripted_and_exported_programs_equal_scipy(images):
    class Blur(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return gaussian_filter(x, 2.0)

    expected = [ndimage.gaussian_filter(image[0].numpy(), 2.0, mode="reflect") for image in images]
    for program in (torch.jit.script(Blur()), torch.export.export(Blur(), (images,)).module()):
        np.testing.assert_allclose(program(images)[:, 0].numpy(), expected, atol=1e-6)


def test_zero_sigma_changes_nothing_and_a_negative_one_is_refused(images):
    assert torch.equal(gaussian_filter(images, 0.0), images)
    with pytest.raises(ValueError, match="must be >= 0"):
        gaussian_filter(images, -1.0)
