"""The threshold of equation (3). It makes the binary mask m; what lies in m is drawn anew."""

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
    """The mask m of equation (3): 1 where the coarse map is above the threshold.

    The mask can be smoothed, so that its edges grow by about a pixel. The paper does not smooth; the published code
    does, with sigma 1.2 and cut 0.1. A single pixel then stays one pixel, and a 4x4 square becomes 6x6.

    Args:
        coarse_map: (N, 1, H, W), >= 0.
        threshold: one value, or (N, 1, 1, 1), one value a slice. NaN means that no calibration was loaded. It makes a
            NaN mask, so that an uncalibrated network cannot pass for a healthy finding.
        sigma: standard deviation of the smoothing Gaussian, pixels; 0 does not smooth.
        cut: the smoothed mask is 1 where it exceeds this value.
        keep_below: below the threshold, smooth the coarse map itself instead of 0. Suspicious pixels around a certain
            one then join the mask. The published code did so until March 2024.
        dilation: pixels by which the mask grows at last, in a square. Not in the paper.

    Returns:
        (N, 1, H, W), 0 or 1; NaN where the threshold is NaN.
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
    """m = 1 where the coarse map exceeds t, a percentile of healthy validation slices' maps (paper, section 2.2).

    t is the buffer `threshold`. `calibrate` fills it, and it travels in the state dict. As long as it is NaN, so is m.

    Args:
        percentile: `calibrate` takes this percentile of the healthy coarse maps over all pixels.
        sigma: see `binarize_mask`; the defaults of this and of the following ones are the paper's.
        cut: see `binarize_mask`.
        keep_below: see `binarize_mask`.
        dilation: see `binarize_mask`.
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
        """The mask of a coarse map.

        Args:
            coarse_map: (B, 1, H, W, D), >= 0.
            factor: multiplies the threshold, (B D, 1, 1, 1), one value a slice. Training varies it.

        Returns:
            Same shape, 0 or 1.
        """
        threshold = self.threshold
        if factor is not None:
            threshold = threshold * factor
        mask = binarize_mask(fold(coarse_map), threshold, self.sigma, self.cut, self.keep_below, self.dilation)
        return unfold(mask, coarse_map)


class ScanQuantileMask(nn.Module):
    """m = 1 where the coarse map exceeds its own quantile, taken for each slice: the published code's rule.

    Args:
        quantile: which quantile, in [0, 1].
        sigma: see `binarize_mask`, pixels.
        cut: see `binarize_mask`.
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
