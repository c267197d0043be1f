"""Random changes of images stay images, differ from image to image, and can be repeated from the seed."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.training import degrade

CHANGES = {
    "blur": degrade.blur,
    "contrast": degrade.contrast,
    "noise": degrade.noise,
    "paint": degrade.paint,
    "warp": lambda images: degrade.warp(images, 10, 0.1, 0.1, 0.01),
    "patch": lambda images: degrade.patch(images, images.flip(0)),
}


@pytest.fixture
def images():
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((6, 64, 64)), (0, 3, 3))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return torch.from_numpy(smooth.astype(np.float32))[:, None]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_keep_shape_and_range_and_follow_the_seed(images, change):
    torch.manual_seed(0)
    changed = change(images)
    torch.manual_seed(0)
    assert torch.equal(change(images), changed)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    differences = (changed - images).abs().amax(dim=(1, 2, 3))
    assert (differences > 0).all()
    assert len(differences.unique()) == len(images)


def test_blur_is_a_gaussian(images):
    blurred = degrade.blur(images, smallest=2.0, largest=2.0)
    expected = [ndimage.gaussian_filter(image[0].numpy(), 2.0, mode="wrap", truncate=8) for image in images]
    np.testing.assert_allclose(blurred[:, 0].numpy(), expected, atol=1e-5)


def test_warp_without_amplitude_changes_nothing(images):
    torch.testing.assert_close(degrade.warp(images, 0, 0, 0), images, atol=1e-5, rtol=0)


def test_warp_moves_by_at_most_the_shift():
    dot = torch.zeros(50, 1, 65, 65)
    dot[:, :, 32, 32] = 1
    torch.manual_seed(0)
    moved = degrade.warp(dot, 0, 0.1, 0)
    centres = np.array([ndimage.center_of_mass(image[0].numpy()) for image in moved]) - 32
    assert np.abs(centres).max() <= 6.5 + 0.5
    assert np.abs(centres).max() > 4


def test_a_painted_blob_is_local(images):
    torch.manual_seed(0)
    weight = degrade.blob_masks(images, 0.05, 0.05)
    assert weight.min() >= 0
    assert weight.max() <= 1
    assert (weight.amax(dim=(1, 2, 3)) > 0.5).all()
    assert (weight > 0.5).float().mean() < 0.05  # an ellipse with half-axes of 5 % of the side covers 0.8 %


def test_a_coin_falls_as_often_as_asked():
    torch.manual_seed(0)
    assert degrade.coin(torch.zeros(20000, 1, 1, 1), 0.3).float().mean().item() == pytest.approx(0.3, abs=0.02)
    draws = degrade.log_uniform(torch.zeros(20000, 1, 1, 1), 0.01, 1.0)
    assert draws.log10().mean().item() == pytest.approx(-1.0, abs=0.02)
