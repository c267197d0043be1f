"""The threshold of equation (3): the binary mask m of what is drawn anew."""

import torch
from torch import Tensor, nn

from .filters import gaussian_filter, maximum_filter
from .slices import fold, slice_quantile, unfold


def binarize_mask(
    coarse_map: Tensor,
    threshold: Tensor,
    sigma: float = 0.0,
    cut: float = 0.1,
    keep_below: bool = False,
    dilation: int = 0,
) -> Tensor:
    """The mask m of equation (3): above the threshold; smoothed where wanted, so that edges grow by about a pixel.

    The smoothing is the published code's (sigma 1.2, cut 0.1), absent from the paper; a single pixel stays one pixel, a
    4x4 square becomes 6x6.

    Args:
        coarse_map: (N, 1, H, W), >= 0.
        threshold: one value, or (N, 1, 1, 1) a value a slice. NaN (no calibration was loaded) makes a NaN mask, so
            that an uncalibrated network cannot pass for a healthy finding.
        sigma: of the Gaussian, pixels; 0 for none.
        cut: mask where the smoothed indicator is above it.
        keep_below: smooth the map itself where it is not above the threshold, instead of 0 there (the published code
            did until March 2024): what lies around a certain pixel, and is itself suspicious, joins the mask.
        dilation: pixels by which the mask grows at last, in a square (not in the paper).

    Returns:
        (N, 1, H, W), 0 or 1.
    """
    above = coarse_map > threshold
    mask = above.to(coarse_map.dtype)
    if keep_below:
        mask = torch.where(above, mask, coarse_map)
        if sigma <= 0:
            mask = (mask > cut).to(coarse_map.dtype)
    if sigma > 0:
        mask = (gaussian_filter(mask, sigma) > cut).to(coarse_map.dtype)
    if dilation > 0:
        mask = maximum_filter(mask, 2 * dilation + 1)
    return mask + 0.0 * threshold


class CalibratedMask(nn.Module):
    """m = 1 where the coarse map exceeds t, the percentile of healthy validation slices' maps (paper, section 2.2).

    t is the buffer `threshold`: `calibrate` fills it and it travels in the state dict. As long as it is NaN, so is m.

    Args:
        percentile: of the coarse maps over all pixels of the healthy slices; what `calibrate` makes t of.
        sigma: see `binarize_mask`, as the others; the defaults are the paper's.
        cut: see there.
        keep_below: see there.
        dilation: see there.
    """

    threshold: Tensor

    def __init__(
        self,
        percentile: float = 99.0,
        sigma: float = 0.0,
        cut: float = 0.1,
        keep_below: bool = False,
        dilation: int = 0,
    ) -> None:
        super().__init__()
        self.percentile = float(percentile)
        self.sigma = float(sigma)
        self.cut = float(cut)
        self.keep_below = keep_below
        self.dilation = dilation
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def forward(self, coarse_map: Tensor, factor: Tensor | None = None) -> Tensor:
        """The mask, (B, 1, H, W, D), 0 or 1, of a coarse map, same shape, >= 0.

        `factor` multiplies the threshold, (B D, 1, 1, 1), a value a slice: training varies it.
        """
        threshold = self.threshold
        if factor is not None:
            threshold = threshold * factor
        mask = binarize_mask(fold(coarse_map), threshold, self.sigma, self.cut, self.keep_below, self.dilation)
        return unfold(mask, coarse_map)


class ScanQuantileMask(nn.Module):
    """m = 1 where the coarse map exceeds its own quantile, a threshold a slice; the published code's rule.

    Args:
        quantile: 0.95 there.
        sigma: of the Gaussian of `binarize_mask`, pixels.
        cut: see there.
    """

    def __init__(self, quantile: float = 0.95, sigma: float = 1.2, cut: float = 0.1) -> None:
        super().__init__()
        self.quantile = float(quantile)
        self.sigma = float(sigma)
        self.cut = float(cut)

    def forward(self, coarse_map: Tensor, factor: Tensor | None = None) -> Tensor:
        """As `CalibratedMask.forward`."""
        slices = fold(coarse_map)
        threshold = slice_quantile(slices, self.quantile)
        if factor is not None:
            threshold = threshold * factor
        return unfold(binarize_mask(slices, threshold, self.sigma, self.cut), coarse_map)
