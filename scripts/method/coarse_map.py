"""Equation (3) before its threshold: where a slice differs from its coarse reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .equalize import equalize_adapthist
from .slices import fold, slice_quantile, unfold

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

    `Phanes` owns S. It first asks `compare` for the residual and for the two images that S compares. Then it calls this
    module with the residual and with S.

    Args:
        residual: `equalized` (paper) or `mean`. With `mean` there are two maps, one of the equalised residual and one
            of the raw residual |x_c - x|, and the result is their mean. Equalisation lifts faint lesions, and hides
            those that are merely dark or bright.
        saliency: S compares the images `equalized` (paper) or `raw` (published code).

    Raises:
        ValueError: another choice was given.
    """

    def __init__(self, residual: str = "equalized", saliency: str = "equalized") -> None:
        super().__init__()
        if residual not in ("equalized", "mean"):
            raise ValueError(f"residual must be 'equalized' or 'mean', not {residual!r}")
        if saliency not in ("equalized", "raw"):
            raise ValueError(f"saliency must be 'equalized' or 'raw', not {saliency!r}")
        self.residual = residual
        self.saliency = saliency

    @torch.jit.export
    def compare(self, image: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What enters the equation.

        Args:
            image: x, (B, 1, H, W, D) in [0, 1].
            coarse: x_c, its coarse reconstruction, same shape and range.

        Returns:
            Normalised residual in [0, 1]: (B, 1, H, W, D), or (B, 2, H, W, D) with `mean`. Then the two images that S
            compares, (B, 1, H, W, D) each.
        """
        x, x_c = fold(image), fold(coarse)
        both = equalize_adapthist(torch.cat([x, x_c]))  # one pass over both
        eq_x, eq_c = both[: x.shape[0]], both[x.shape[0] :]
        residual = normalize_by_quantile(torch.abs(eq_c - eq_x))
        if self.residual == "mean":
            residual = torch.cat([residual, normalize_by_quantile(torch.abs(x_c - x))], dim=1)
        if self.saliency == "raw":
            return unfold(residual, image), coarse, image
        return unfold(residual, image), unfold(eq_c, image), unfold(eq_x, image)

    def forward(self, residual: Tensor, saliency: Tensor) -> Tensor:
        """The map of equation (3).

        Args:
            residual: as `compare` returned it.
            saliency: S, (B, 1, H, W, D), >= 0.

        Returns:
            (B, 1, H, W, D), >= 0.
        """
        result = residual[:, :1] * saliency
        if self.residual == "mean":
            result = 0.5 * (result + residual[:, 1:] * saliency)
        return result
