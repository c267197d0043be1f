"""A Gaussian filter of batches, equal to scipy's of each single image or volume."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _symmetric_indices(length: int, radius: int, device: torch.device) -> Tensor:
    """Source index of each pixel of ... c b a | a b c ... n | n m ...: reflection that repeats the border pixel.

    The padding may be wider than the image.
    """
    position = torch.arange(-radius, length + radius, device=device)
    position = position % torch.full_like(position, 2 * length)  # a tensor: ONNX has no remainder by an unknown number
    return torch.minimum(position, 2 * length - 1 - position)


def _padded(images: Tensor, radius: int, dim: int) -> Tensor:
    """The images with `radius` more pixels at both ends of an axis."""
    length = images.shape[dim]
    if torch.compiler.is_compiling() or length < radius:
        return images.index_select(dim, _symmetric_indices(length, radius, images.device))
    ends = [images.narrow(dim, start, radius).flip([dim]) for start in (0, length - radius)]
    return torch.cat([ends[0], images, ends[1]], dim=dim)  # several times as fast


def _filter_axis(images: Tensor, weights: list[float], dim: int) -> Tensor:
    """Correlate one axis with `weights`, as a weighted sum of shifted images: autocast would round a convolution."""
    length = images.shape[dim]
    padded = _padded(images, len(weights) // 2, dim)
    if torch.compiler.is_compiling():  # one node of an exported program in place of fifty
        return _convolved(padded, weights, dim)
    filtered = padded.narrow(dim, 0, length) * weights[0]
    for offset in range(1, len(weights)):
        filtered.add_(padded.narrow(dim, offset, length), alpha=weights[offset])
    return filtered


def _convolved(images: Tensor, weights: list[float], dim: int) -> Tensor:
    shape = [1] * images.dim()
    shape[dim] = len(weights)
    kernel = torch.tensor(weights, dtype=images.dtype, device=images.device).reshape(shape)
    single = images.flatten(0, 1).unsqueeze(1)
    filtered = F.conv3d(single, kernel) if images.dim() == 5 else F.conv2d(single, kernel)
    return filtered.squeeze(1).unflatten(0, images.shape[:2])


def gaussian_filter(
    images: Tensor, sigma: float, truncate: float = 4.0, kept: list[tuple[int, int, int]] | None = None
) -> Tensor:
    """Blur every image of a batch with a Gaussian.

    Equals `scipy.ndimage.gaussian_filter(image, sigma, mode="reflect", truncate=truncate)` of each image: the radius
    is int(truncate * sigma + 0.5), and the border is repeated symmetrically. It computes in float32 also under
    autocast, and in float64 for float64 input. It is differentiable, and works under `torch.jit.script` and
    `torch.export`.

    Args:
        images: (B, C, H, W) or (B, C, H, W, D), any range.
        sigma: standard deviation in pixels, the same along all axes, >= 0; 0 returns the images unchanged.
        truncate: radius of the kernel in standard deviations.
        kept: the part that is wanted, as an axis, its first pixel and how many, in the order in which the axes are
            filtered (the last bits depend on it); by default all, from the first axis to the last.

    Returns:
        Same shape or the wanted part, float32, or float64 for float64 input.

    Raises:
        ValueError: sigma is negative.
    """
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}, but a Gaussian's standard deviation must be >= 0.")
    images = images if images.dtype == torch.float64 else images.to(torch.float32)
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return images
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    total = sum(weights)
    weights = [weight / total for weight in weights]
    if kept is None:
        kept = [(dim, 0, images.shape[dim]) for dim in range(2, images.dim())]
    for dim, first, count in kept:
        images = _filter_axis(images, weights, dim).narrow(dim, first, count)
    return images
