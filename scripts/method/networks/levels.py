"""Slices know their height: the second channel of a network's input is a plane of MNI z, mm."""

import torch
from torch import Tensor


def level_index(heights: Tensor, first: float, last: float, levels: int) -> Tensor:
    """The nearest of evenly spaced levels; beyond the ends the lowest or the highest one.

    Args:
        heights: (B, H, W), MNI z of each slice, mm, constant over the plane.
        first: MNI z of the lowest level, mm.
        last: MNI z of the highest level, mm.
        levels: how many there are, both ends counted.

    Returns:
        (B,) int64, 0 to `levels` - 1.
    """
    z = heights.flatten(1)[:, 0].float()
    step = (last - first) / (levels - 1) if levels > 1 else 1.0
    return torch.round((z - first) / step).clamp(0, levels - 1).long()
