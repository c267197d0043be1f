"""DAE: its coarse noise, its standardised convolutions, its loss and map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from torch import Tensor, nn

from scripts.study.baselines.dae import DAE, WeightStandardizedConv2d, coarse_noise
from scripts.study.baselines.maps import ResidualMap


def test_the_noise_is_a_rolled_bilinear_upsampling_of_a_16x16_grid() -> None:
    images = torch.zeros(3, 1, 128, 128)
    noise = coarse_noise(images, 16, 0.2, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    grid = 0.2 * torch.randn(3, 1, 16, 16, generator=generator)
    down = torch.randint(128, (3, 1), generator=generator).flatten()
    across = torch.randint(128, (3, 1), generator=generator).flatten()
    centres = (np.arange(128) + 0.5) / 8 - 0.5
    where = np.meshgrid(centres, centres, indexing="ij")
    for n in range(3):
        upsampled = ndimage.map_coordinates(grid[n, 0].numpy(), where, order=1, mode="nearest")
        expected = np.roll(upsampled, (int(down[n]), int(across[n])), axis=(0, 1))
        np.testing.assert_allclose(noise[n, 0].numpy(), expected, atol=1e-6)


def test_the_noise_has_no_detail_finer_than_its_grid() -> None:
    noise = coarse_noise(torch.zeros(8, 1, 128, 128), generator=torch.Generator().manual_seed(0))
    power = (torch.fft.fft2(noise).abs() ** 2).mean(dim=(0, 1))
    frequency = torch.fft.fftfreq(128).abs() * 128
    fine = (frequency[:, None] > 16) | (frequency[None] > 16)  # cycles an image
    assert power[fine].sum() < 0.05 * power.sum()  # white noise: 94 %


def test_the_noise_has_its_deviation_on_its_own_grid_and_differs_between_images() -> None:
    noise = coarse_noise(torch.zeros(40, 1, 32, 32), 32, 0.2, torch.Generator().manual_seed(0))
    assert float(noise.std()) == pytest.approx(0.2, rel=0.02)
    assert not torch.equal(noise[0], noise[1])


def test_filters_are_standardised_and_borders_reflected() -> None:
    torch.manual_seed(0)
    conv = WeightStandardizedConv2d(2, 3, 3, padding=1, padding_mode="reflect").double()
    image = torch.rand(1, 2, 9, 9, dtype=torch.float64)
    weight = conv.weight.detach().numpy()
    weight = weight - weight.mean(axis=(1, 2, 3), keepdims=True)
    weight = weight / (weight.std(axis=(1, 2, 3), keepdims=True) + 1e-5)
    padded = np.pad(image[0].numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    for o in range(3):
        expected = sum(signal.correlate2d(padded[i], weight[o, i], mode="valid") for i in range(2))
        np.testing.assert_allclose(conv(image)[0, o].detach().numpy(), expected + conv.bias[o].item(), atol=1e-9)


class Recorder(nn.Module):
    """Stands in for the U-Net: remembers its input and returns a constant."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return torch.full_like(x, 0.5)


def stand_in(**options: int) -> DAE:
    system = DAE(ResidualMap(), channels=(8, 8), groups=(2, 2), **options)
    system.network = Recorder()
    return system.eval()


def half_foreground() -> Tensor:
    image = torch.zeros(2, 1, 32, 32)
    image[:, :, 8:24, 8:24] = 0.7
    return image


def test_noise_is_added_in_the_foreground_and_the_loss_taken_there() -> None:
    torch.manual_seed(0)
    system, image = stand_in(), half_foreground()
    loss, _ = system.training_loss(image)
    noise = system.network.seen - image
    assert (noise[image == 0] == 0).all()
    assert (noise[image > 0] != 0).all()
    assert float(loss) == pytest.approx(0.2**2, rel=1e-5)  # (0.7 - 0.5)^2, the background left out


def test_at_test_no_noise_is_added() -> None:
    system, image = stand_in(), half_foreground()
    system.reconstruct(image)
    assert torch.equal(system.network.seen, image)


def test_the_map_is_confined_to_the_eroded_foreground_and_median_filtered() -> None:
    image = half_foreground()
    generator = torch.Generator().manual_seed(0)
    reconstruction = image + 0.2 * torch.rand(image.shape, generator=generator)
    eroded = ndimage.binary_erosion(image[0, 0].numpy() > 0, np.ones((5, 5)))
    difference = (reconstruction - image).clamp(max=1.0 - 0.7 * (image > 0))[:, 0].numpy()
    expected = [ndimage.median_filter(d * eroded, 5, mode="nearest") for d in difference]
    np.testing.assert_allclose(stand_in().compare(image, reconstruction)[:, 0].numpy(), expected, atol=1e-6)
    plain = stand_in(median_size=1, erosion_size=0).compare(image, reconstruction)
    np.testing.assert_allclose(plain[:, 0].numpy(), difference, atol=1e-6)


def test_the_published_network_has_7_70_million_parameters() -> None:
    assert sum(p.numel() for p in DAE(ResidualMap()).parameters()) == 7_701_825
