"""Random changes of image batches: the ways in which a pair of images may differ. They serve training only.

The changes take and return (B, 1, H, W) in [0, 1]. They draw for every image independently, from torch's global random
state. They run on the device without waiting for it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform(images: Tensor, low: float, high: float) -> Tensor:
    """One number an image, uniform between `low` and `high`: (B, 1, 1, 1)."""
    return low + (high - low) * torch.rand(images.shape[0], 1, 1, 1, device=images.device)


def log_uniform(images: Tensor, low: float, high: float) -> Tensor:
    """One number an image, uniform in its logarithm: (B, 1, 1, 1)."""
    return torch.exp(uniform(images, math.log(low), math.log(high)))


def coin(images: Tensor, probability: float) -> Tensor:
    """One coin an image, True with a probability: (B, 1, 1, 1)."""
    return uniform(images, 0.0, 1.0) < probability


def smooth_noise(images: Tensor, cells: int) -> Tensor:
    """Gaussian noise on a coarse grid of `cells` x `cells`, interpolated to the images' size; variance about 1/2."""
    coarse = torch.randn(images.shape[0], 1, cells, cells, device=images.device)
    # Bicubic on the coarse grid only; on the fine grid it would cost more than all the rest.
    finer = F.interpolate(coarse, scale_factor=2.0, mode="bicubic", align_corners=False)
    return F.interpolate(finer, size=images.shape[2:], mode="bilinear", align_corners=False)


def texture(images: Tensor) -> Tensor:
    """Noise of several scales, mixed differently for every image; mean 0, range about -2 to 2."""
    mixed = torch.zeros_like(images)
    for cells in (4, 8, 16, 32, 64):
        mixed = mixed + uniform(images, 0.0, 1.0) * smooth_noise(images, cells)
    return mixed


def blob_masks(images: Tensor, smallest: float = 0.02, largest: float = 0.2) -> Tensor:
    """One ellipse-like blob an image, (B, 1, H, W) weights in [0, 1]. Borders are ragged or smooth, sharp or soft.

    Args:
        images: give number, size and device.
        smallest: shortest half-axis, as a share of the image's side.
        largest: longest half-axis, likewise.
    """
    rows = torch.linspace(-0.5, 0.5, images.shape[2], device=images.device).view(1, 1, -1, 1)
    columns = torch.linspace(-0.5, 0.5, images.shape[3], device=images.device).view(1, 1, 1, -1)
    dy, dx = rows - uniform(images, -0.4, 0.4), columns - uniform(images, -0.3, 0.3)
    angle = uniform(images, 0.0, torch.pi)
    along, across = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    a, b = log_uniform(images, smallest, largest), log_uniform(images, smallest, largest)
    radius = ((along / a).square() + (across / b).square() + 1e-6).sqrt()
    ragged = uniform(images, 0.0, 0.5) * smooth_noise(images, 16)
    softness = log_uniform(images, 0.01, 0.3)
    return torch.sigmoid((1 - radius + ragged) / softness)


def warp(images: Tensor, degrees: float, shift: float, scale: float, elastic: float = 0.0) -> Tensor:
    """Rotate, move, resize and bend.

    Args:
        images: (B, 1, H, W).
        degrees: largest rotation.
        shift: largest translation as a share of the side.
        scale: largest change of size, as a share.
        elastic: standard deviation of a smooth displacement as a share of the side.
    """
    angle = uniform(images, -degrees, degrees) * (torch.pi / 180)
    zoom = 1 + uniform(images, -scale, scale)
    rows = [angle.cos() * zoom, -angle.sin() * zoom, 2 * uniform(images, -shift, shift)]
    columns = [angle.sin() * zoom, angle.cos() * zoom, 2 * uniform(images, -shift, shift)]
    matrix = torch.stack([torch.cat(rows, 1), torch.cat(columns, 1)], dim=1).flatten(2)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    if elastic > 0:
        bend = torch.cat([smooth_noise(images, 6), smooth_noise(images, 6)], dim=1).permute(0, 2, 3, 1)
        grid = grid + 2 * elastic * bend
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def flip(images: Tensor, probability: float = 0.5) -> Tensor:
    """Left to right."""
    return torch.where(coin(images, probability), images.flip(3), images)


def blur(images: Tensor, smallest: float = 0.4, largest: float = 6.0) -> Tensor:
    """Gaussian blur with a standard deviation in pixels drawn for each image (periodic borders)."""
    sigma = log_uniform(images, smallest, largest)
    vertical = torch.fft.fftfreq(images.shape[2], device=images.device).view(1, 1, -1, 1)
    horizontal = torch.fft.rfftfreq(images.shape[3], device=images.device).view(1, 1, 1, -1)
    transfer = torch.exp(-2 * (torch.pi * sigma).square() * (vertical.square() + horizontal.square()))
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=images.shape[2:])
    return blurred.clamp(0, 1)


def contrast(images: Tensor) -> Tensor:
    """Gamma, gain, offset and a smooth bias field."""
    changed = images.clamp(min=1e-6) ** log_uniform(images, 0.6, 1.7)
    bias = 1 + uniform(images, 0.0, 0.3) * smooth_noise(images, 3)
    return (changed * bias * uniform(images, 0.8, 1.2) + uniform(images, -0.1, 0.1)).clamp(0, 1)


def noise(images: Tensor) -> Tensor:
    """White noise, or noise of several scales, of a standard deviation drawn for each image."""
    added = torch.where(coin(images, 0.5), torch.randn_like(images), texture(images))
    return (images + log_uniform(images, 0.005, 0.15) * added).clamp(0, 1)


def paint(images: Tensor) -> Tensor:
    """One or two textured blobs of any grey value, more or less opaque."""
    for probability in (1.0, 0.5):
        weight = blob_masks(images) * uniform(images, 0.2, 1.0) * coin(images, probability)
        value = uniform(images, 0.0, 1.0) + uniform(images, 0.0, 0.3) * texture(images)
        images = images + weight * (value.clamp(0, 1) - images)
    return images


def patch(images: Tensor, others: Tensor) -> Tensor:
    """Paste a blob of other images in."""
    weight = blob_masks(images, 0.04, 0.4)
    return images + weight * (others - images)
