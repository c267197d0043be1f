"""Slices know their height: the second channel of a network's input is a plane of MNI z, mm."""

import torch
from torch import Tensor


def level_index(heights: Tensor, first: float, last: float, levels: int) -> Tensor:
    """The nearest of evenly spaced levels; the lowest or highest one beyond the ends.

    Args:
        heights: (B, H, W), MNI z of each slice, mm, constant over the plane.
        first: MNI z of the lowest level, mm.
        last: of the highest level, mm.
        levels: how many there are, both ends counted.

    Returns:
        (B,) int64.
    """
    z = heights.flatten(1)[:, 0].float()
    step = (last - first) / (levels - 1) if levels > 1 else 1.0
    return torch.round((z - first) / step).clamp(0, levels - 1).long()
