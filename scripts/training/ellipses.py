"""Random filled ellipses: the synthetic holes of the inpainter's training (PHANES section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def random_ellipse_masks(
    batch: int,
    size: int = 128,
    count: int = 10,
    half_axis_mean: float = 2.0,
    half_axis_std: float = 4.0,
    min_half_axis: float = 2.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Unions of random ellipses, drawn on the device without a host synchronisation.

    Centres are uniform in the middle half of the image. Half-axes are max(min, int |N(mean, std)|) pixels. Angles are
    uniform.

    Args:
        batch: number of masks.
        size: side of the square image, pixels.
        count: ellipses a mask.
        half_axis_mean: of the normal distribution of the half-axes, pixels.
        half_axis_std: its standard deviation, pixels.
        min_half_axis: shortest half-axis, pixels.
        generator: source of randomness on `device`; the global one when None.
        device: where the masks are made.

    Returns:
        (batch, 1, size, size), 0 or 1.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, count, 1, 1, generator=generator, device=device)

    def half_axis() -> Tensor:
        draw = torch.randn(batch, count, 1, 1, generator=generator, device=device)
        return (half_axis_mean + half_axis_std * draw).abs().floor().clamp(min=min_half_axis)

    centre_y, centre_x = uniform(size / 4, 3 * size / 4 - 1).round(), uniform(size / 4, 3 * size / 4 - 1).round()
    a, b = half_axis(), half_axis()
    angle = uniform(0.0, 2.0 * torch.pi)
    grid = torch.arange(size, device=device, dtype=torch.float32)
    dy, dx = grid.reshape(1, 1, -1, 1) - centre_y, grid.reshape(1, 1, 1, -1) - centre_x
    along = dx * angle.cos() + dy * angle.sin()
    across = dy * angle.cos() - dx * angle.sin()
    # Half a pixel more: the ellipse covers the pixels its outline runs through, as rasterisers draw it.
    inside = (along / (a + 0.5)).square() + (across / (b + 0.5)).square() <= 1.0
    return inside.any(dim=1, keepdim=True).float()
