"""Equation (3) before its threshold: where a slice differs from its coarse reconstruction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .equalize import equalize_adapthist
from .slices import slice_quantile

QUANTILE = 0.95  # of norm95


def normalize_by_quantile(residual: Tensor, q: float = QUANTILE) -> Tensor:
    """norm95: each residual divided by its own q-quantile over all pixels, cut off at 1 (PHANES section 2.2).

    Args:
        residual: (N, 1, H, W), >= 0; a residual of zeros stays zero.
        q: the quantile that becomes 1.

    Returns:
        (N, 1, H, W) in [0, 1].
    """
    return torch.clamp(residual / (slice_quantile(residual, q) + 1e-8), max=1.0)


class CoarseMap(nn.Module):
    """Equation (3) before its threshold: norm95(|eq(x_c) - eq(x)|) S(eq(x_c), eq(x)); eq is adaptive equalisation.

    Args:
        saliency: S compares the images `equalized` (paper) or `raw` (published code).

    Raises:
        ValueError: another choice was given.
    """

    def __init__(self, saliency: str = "equalized") -> None:
        super().__init__()
        if saliency not in ("equalized", "raw"):
            raise ValueError(f"saliency must be 'equalized' or 'raw', not {saliency!r}")
        self.saliency = saliency

    def forward(self, image: Tensor, coarse: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The map.

        Args:
            image: x, (N, 1, H, W) in [0, 1].
            coarse: x_c, same shape, in [0, 1].
            distance: S of two batches (N, 1, H, W) -> same shape, >= 0.

        Returns:
            (N, 1, H, W), >= 0.
        """
        eq_c, eq_x = equalize_adapthist(torch.cat([coarse, image])).chunk(2)  # one pass over both
        residual = normalize_by_quantile(torch.abs(eq_c - eq_x))
        return residual * (distance(coarse, image) if self.saliency == "raw" else distance(eq_c, eq_x))
