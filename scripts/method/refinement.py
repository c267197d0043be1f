"""A refined mask: the anomaly map makes it, and the next filling uses it. Not in the paper."""

import torch
from torch import Tensor, nn

from .filters import gaussian_filter
from .mask_rule import binarize_mask
from .slices import fold, unfold

SIGMA = 1.0  # of the Gaussian that smooths the anomaly map, pixels
GROWTH = 4  # pixels by which the mask grows, in a square


def smooth(anomaly: Tensor, sigma: float = SIGMA) -> Tensor:
    """The smoothed map, which the threshold is compared with: (N, 1, H, W) -> same shape."""
    return gaussian_filter(anomaly, sigma)


def refined_mask(anomaly: Tensor, threshold: Tensor, growth: int = GROWTH) -> Tensor:
    """Where the smoothed map (N, 1, H, W) exceeds the threshold, and `growth` pixels around: same shape, 0 or 1."""
    return binarize_mask(smooth(anomaly), threshold, 0.0, 0.0, False, growth)


class Refinement(nn.Module):
    """m' = 1 where the smoothed anomaly map exceeds t', and `GROWTH` pixels around.

    The anomaly map knows better than the coarse map what is abnormal. The refined mask leaves out healthy tissue that
    was in the first mask, and covers the parts of a lesion that the first mask missed.

    t' is the buffer `threshold`. It is NaN until `calibrate` fills it, and as long as it is NaN, so is the mask.

    Args:
        times: how often the mask is refined and its hole filled anew, 1 or more. The method's anomaly map is the mean
            over all fillings. Its pseudo-healthy image is the last filling's.
        percentile: `calibrate` takes this percentile of healthy slices' smoothed maps, over the brain and after one
            filling.

    Raises:
        ValueError: `times` is below 1.
    """

    threshold: Tensor

    def __init__(self, times: int = 3, percentile: float = 99.5) -> None:
        super().__init__()
        if times < 1:
            raise ValueError(f"times must be 1 or more, not {times}; leave the refinement out (null) for none")
        self.times = times
        self.percentile = float(percentile)
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def forward(self, anomaly: Tensor) -> Tensor:
        """The next filling's mask, from the last filling's anomaly map: (B, 1, H, W, D) -> same shape, 0 or 1."""
        return unfold(refined_mask(fold(anomaly), self.threshold), anomaly)
