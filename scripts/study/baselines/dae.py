"""DAE: a U-Net that removes coarse noise from healthy brains, and its residual.

Source: Kascenas, Pugeault, O'Neil, "Denoising autoencoders for unsupervised anomaly detection in brain MRI" (MIDL
2022). The noise is drawn on a 16 x 16 grid and upsampled, so that its blobs have the size of lesions. Skip connections
keep the rest of the brain sharp. 7.70 M parameters with the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import median_filter
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import scaled
from .protocol import ReconstructionSystem, Trainable


class WeightStandardizedConv2d(nn.Conv2d):
    """A convolution whose filters have zero mean and unit standard deviation (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
        std = self.weight.std(dim=(1, 2, 3), keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


def _block(in_channels: int, out_channels: int, groups: int) -> nn.Sequential:
    """Two rounds of standardised 3 x 3 convolution (reflection padding), Swish and group normalisation."""
    layers: list[nn.Module] = []
    for width in (in_channels, out_channels):
        conv = WeightStandardizedConv2d(width, out_channels, 3, padding=1, padding_mode="reflect")
        layers += [conv, nn.SiLU(), nn.GroupNorm(groups, out_channels)]
    return nn.Sequential(*layers)


class DenoisingUNet(nn.Module):
    """U-Net of average pooling and transposed convolutions.

    Args:
        channels: widths of the levels.
        groups: groups of the normalisation, one number a level.
        in_channels: of the input.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512),
        groups: Sequence[int] = (8, 16, 16, 32),
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        widths = (in_channels, *channels)
        self.down = nn.ModuleList(_block(widths[n], widths[n + 1], groups[n]) for n in range(len(channels)))
        levels = range(len(channels) - 2, -1, -1)
        self.up = nn.ModuleList(nn.ConvTranspose2d(channels[n + 1], channels[n], 2, stride=2) for n in levels)
        self.merge = nn.ModuleList(_block(2 * channels[n], channels[n], groups[n]) for n in levels)
        self.output = nn.Conv2d(channels[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 1, H, W), unbounded; H and W divisible by 2 ** (levels - 1)."""
        skips = []
        for n, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if n else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.output(x)


def coarse_noise(
    images: Tensor, resolution: int = 16, std: float = 0.2, generator: torch.Generator | None = None
) -> Tensor:
    """Gaussian noise of a coarse grid, upsampled bilinearly. Each image has its own, rolled by a random shift.

    Args:
        images: (B, 1, H, W); gives shape, type and device.
        resolution: side of the grid the noise is drawn on.
        std: standard deviation on that grid.
        generator: source of the noise, on the images' device.

    Returns:
        (B, 1, H, W).
    """
    batch, _, height, width = images.shape
    device = images.device
    grid = std * torch.randn(batch, 1, resolution, resolution, generator=generator, device=device, dtype=images.dtype)
    noise = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    down = torch.randint(height, (batch, 1), generator=generator, device=device)
    across = torch.randint(width, (batch, 1), generator=generator, device=device)
    rows = ((torch.arange(height, device=device) - down) % height)[:, None, :, None].expand_as(noise)
    columns = ((torch.arange(width, device=device) - across) % width)[:, None, None, :].expand_as(noise)
    return noise.gather(2, rows).gather(3, columns)


class DAE(Trainable, ReconstructionSystem):
    """The denoising autoencoder.

    Args:
        comparison: the map before the steps below, `maps.ResidualMap`; `residual` in the source.
        channels: see `DenoisingUNet`.
        groups: see `DenoisingUNet`.
        noise_resolution: side of the noise's grid.
        noise_std: standard deviation of the noise.
        foreground: a brighter pixel is foreground; noise and loss are confined to it.
        median_size: side of the median filter over the map, pixels; 1 for none.
        erosion_size: side of a square, pixels. The map counts only where foreground fills more than 95 % of the square;
            0 for everywhere.
        level: the network is shown the slice's height.
    """

    name = "DAE"

    def __init__(
        self,
        comparison: nn.Module,
        channels: Sequence[int] = (64, 128, 256, 512),
        groups: Sequence[int] = (8, 16, 16, 32),
        noise_resolution: int = 16,
        noise_std: float = 0.2,
        foreground: float = 0.01,
        median_size: int = 5,
        erosion_size: int = 5,
        level: bool = False,
    ) -> None:
        super().__init__(comparison)
        self.network = DenoisingUNet(channels, groups, 2 if level else 1)
        self.level = level
        self.noise_resolution = noise_resolution
        self.noise_std = noise_std
        self.foreground = foreground
        self.median_size = median_size
        self.erosion_size = erosion_size

    def training_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error to the clean image, over the foreground of the batch."""
        clean = images[:, :1]
        inside = (clean > self.foreground).to(images.dtype)
        noise = coarse_noise(clean, self.noise_resolution, self.noise_std)
        denoised = self.network(self._input(torch.cat([clean + noise * inside, images[:, 1:]], dim=1)))
        loss = ((denoised - clean).square() * inside).sum() / inside.sum().clamp(min=1.0)
        return loss, {"mse": loss.detach()}

    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Denoise the image as it is, with no noise added: (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        return self.network(self._input(images)).clamp(0.0, 1.0)

    def _input(self, images: Tensor) -> Tensor:
        return scaled(images) if self.level else images

    def compare(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """The difference inside the eroded foreground, median filtered: two (B, 1, H, W) -> (B, 1, H, W), >= 0."""
        difference = self.comparison(images, reconstruction)
        if self.erosion_size:
            inside = (images > self.foreground).to(images.dtype)
            share = F.avg_pool2d(inside, self.erosion_size, stride=1, padding=self.erosion_size // 2)
            difference = difference * (share > 0.95)
        if self.median_size > 1:
            difference = median_filter(difference, self.median_size, spatial_dims=2)
        return difference
