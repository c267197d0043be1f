"""A mask made of the anomaly map, for the next filling. Not in the paper."""

import torch
from torch import Tensor, nn

from .filters import gaussian_filter
from .mask_rule import binarize_mask
from .slices import fold, unfold

SIGMA = 1.0  # of the Gaussian that smooths the anomaly map, pixels
GROWTH = 4  # pixels by which the mask grows, in a square


def smooth(anomaly: Tensor, sigma: float = SIGMA) -> Tensor:
    """The map (N, 1, H, W) as it is compared with the threshold."""
    return gaussian_filter(anomaly, sigma)


def refined_mask(anomaly: Tensor, threshold: Tensor, growth: int = GROWTH) -> Tensor:
    """Where the smoothed map (N, 1, H, W) exceeds the threshold, and `growth` pixels around: same shape, 0 or 1."""
    return binarize_mask(smooth(anomaly), threshold, 0.0, 0.0, False, growth)


class Refinement(nn.Module):
    """m' = 1 where the smoothed anomaly map exceeds t', and `GROWTH` pixels around.

    The anomaly map knows better than the coarse map what is abnormal: a refined mask leaves healthy tissue alone that
    the first one held, and reaches over the rest of a lesion that it missed. t' is the buffer `threshold`, NaN (and so
    the mask) until `calibrate` fills it.

    Args:
        times: how often the mask is refined and its hole filled anew, 1 or more. The method's anomaly map is the mean
            over all fillings, its pseudo-healthy image the last.
        percentile: of the healthy slices' smoothed maps of one filling over the brain; what `calibrate` makes t' of.

    Raises:
        ValueError: for a number below 1.
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
        """The next filling's mask, (B, 1, H, W, D), 0 or 1, of the last one's anomaly map, same shape."""
        return unfold(refined_mask(fold(anomaly), self.threshold), anomaly)
