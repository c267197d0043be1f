"""The threshold of equation (3). It makes the binary mask m; what lies in m is drawn anew."""

import torch
from torch import Tensor, nn

from .filters import gaussian_filter
from .slices import slice_quantile

# The published code smooths its mask by a Gaussian (pixels), and cuts it again. So edges grow by about a pixel: a
# single pixel stays one pixel, and a 4x4 square becomes 6x6.
SIGMA, CUT = 1.2, 0.1


class CalibratedMask(nn.Module):
    """m = 1 where the coarse map exceeds t, a percentile of healthy validation slices' maps (paper, section 2.2).

    t is the buffer `threshold`. `calibrate` fills it, and it travels in the state dict. As long as it is NaN, so is m.

    Args:
        percentile: `calibrate` takes this percentile of the healthy coarse maps over all pixels.
    """

    threshold: Tensor

    def __init__(self, percentile: float = 99.0) -> None:
        super().__init__()
        self.percentile = float(percentile)
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def forward(self, coarse_map: Tensor) -> Tensor:
        """(N, 1, H, W), >= 0 -> same shape, 0 or 1."""
        return (coarse_map > self.threshold).to(coarse_map.dtype) + 0.0 * self.threshold


class ScanQuantileMask(nn.Module):
    """m = 1 where the coarse map exceeds its own quantile, taken for each slice, smoothed: the published code's rule.

    Args:
        quantile: which quantile, in [0, 1].
    """

    def __init__(self, quantile: float = 0.95) -> None:
        super().__init__()
        self.quantile = float(quantile)

    def forward(self, coarse_map: Tensor) -> Tensor:
        """(N, 1, H, W), >= 0 -> same shape, 0 or 1."""
        above = coarse_map > slice_quantile(coarse_map, self.quantile)
        return (gaussian_filter(above.to(coarse_map.dtype), SIGMA) > CUT).to(coarse_map.dtype)
