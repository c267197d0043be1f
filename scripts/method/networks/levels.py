"""Slices know their height: the second channel of a network's input is a plane of MNI z, mm."""

from __future__ import annotations

import torch
from torch import Tensor


def level_index(heights: Tensor, ends: tuple[float, float], levels: int) -> Tensor:
    """The nearest of evenly spaced levels; the lowest or highest one beyond the ends.

    Args:
        heights: (B, H, W), MNI z of each slice, mm, constant over the plane.
        ends: MNI z of the lowest and of the highest level, mm.
        levels: how many there are, both ends counted.

    Returns:
        (B,) int64.
    """
    z = heights.flatten(1)[:, 0].float()
    step = (ends[1] - ends[0]) / max(levels - 1, 1) or 1.0
    return torch.round((z - ends[0]) / step).clamp(0, levels - 1).long()
