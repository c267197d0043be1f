"""The lessons of stage 2: healthy slices with holes, as published."""

from __future__ import annotations

import torch
from torch import Tensor

from ..method.phanes import Phanes
from .ellipses import random_ellipse_masks


class PublishedHoles:
    """Lessons as published: the hole is the slice's own mask and random ellipses.

    Args:
        network: PHANES with a trained first stage and a calibrated mask.
    """

    def __init__(self, network: Phanes) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) healthy slices in [0, 1] -> the generator's input; the mask, 0 or 1; both (B, 1, H, W)."""
        ellipses = random_ellipse_masks(images.shape[0], images.shape[2], device=images.device)
        mask = torch.maximum(self.network.mask(self.network.coarse(images)[1]), ellipses)
        return self.network.filling(images, mask), mask
