"""The closed-form PHANES at the one level of the table's slices, fitted to the healthy training slices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...method.head import HeadPhanes, VolumeMask
from ...method.networks.linear import COMPONENTS, LinearAutoencoder
from ...space.geometry import LEVEL_MM
from ...training.linear import train_linear
from ...training.skull import template_brain_mask
from .phanes import PhanesSystem

HELD_OUT = 5  # A first fit leaves out every fifth slice. Its maps of these slices give the mask's threshold.


class LinearPhanes(PhanesSystem):
    """Principal components, mask and filling of `HeadPhanes`, for heads with a single level.

    Args:
        image_size: side of the square slices, pixels.
        components: number of principal components.
        percentile: the mask's threshold is this percentile of the coarse maps within healthy brains.
    """

    level_brightness: ClassVar[float] = 1.0  # in units of the slice's own brain

    def __init__(self, image_size: int = 128, components: int = COMPONENTS, percentile: float = 99.5) -> None:
        brain = template_brain_mask(image_size)[..., None]
        heights = (LEVEL_MM,)
        network = LinearAutoencoder(brain, heights, components)
        super().__init__(HeadPhanes(network, brain, heights, VolumeMask(percentile)), "PHANES, linear")

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Components and the mask's threshold from healthy slices: batches of (B, 1, H, W) in [0, 1].

        Raises:
            PhanesInputError: fewer than three slices.
        """
        slices = torch.cat([self.as_head(images)[0] for images in batches])
        brain = self.network.brain[0, 0, ..., None]
        method = self.network
        apart = torch.arange(len(slices)) % HELD_OUT == 0
        train_linear(method.network, self._levels(slices[~apart]), brain)
        maps = [method.mask.smooth(method.coarse(one[..., None])[1]) for one in slices[apart].split(1)]
        healthy = torch.cat([found[0, 0][brain] for found in maps])
        method.mask.threshold.fill_(float(np.percentile(healthy.cpu().numpy(), method.mask.percentile)))
        train_linear(method.network, self._levels(slices), brain)

    def _levels(self, slices: Tensor) -> list[Tensor]:
        """(B, 2, H, W) -> heads of one level, (H, W, 1)."""
        return [one[0, ..., None] for one in slices]
