"""A brain seen from both sides: what a network makes of a slice and of its mirror image, averaged."""

from __future__ import annotations

import torch
from torch import Tensor


def with_mirror_images(images: Tensor) -> Tensor:
    """The images and after them their mirror images, left and right exchanged: (B, C, H, W) -> (2 B, C, H, W)."""
    return torch.cat([images, images.flip(3)])


def mean_over_mirror_images(outputs: Tensor) -> Tensor:
    """Mean of what was made of images and of their mirror images, turned back: (2 B, C, H, W) -> (B, C, H, W)."""
    upright, mirrored = outputs.chunk(2)
    return 0.5 * (upright + mirrored.flip(3))
