"""The closed-form PHANES at the one level of the table's slices, fitted to the healthy training slices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...method.head import HeadPhanes, VolumeMask
from ...method.networks.linear import BRIGHTNESS, COMPONENTS, LinearAutoencoder
from ...method.volume_map import median_within
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

    network: Any  # HeadPhanes: nn.Module does not know what its parts are

    def __init__(self, image_size: int = 128, components: int = COMPONENTS, percentile: float = 99.5) -> None:
        brain = template_brain_mask(image_size)[..., None]
        heights = (LEVEL_MM,)
        network = LinearAutoencoder(brain, heights, components)
        super().__init__(HeadPhanes(network, brain, heights, VolumeMask(percentile)), "PHANES, linear")  # type: ignore[arg-type]

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Components and the mask's threshold from healthy slices: batches of (B, 1, H, W) in [0, 1].

        Raises:
            PhanesInputError: fewer than three slices.
        """
        slices = torch.cat([self._as_head(images)[0] for images in batches])
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

    def _as_head(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The network's input, (B, 2, H, W), and its unit: twice each brain's median, (B, 1, 1, 1)."""
        scale = BRIGHTNESS * median_within(images, self.network.brain).clamp(min=1e-6)
        return torch.cat([(images / scale).clamp(max=1), torch.full_like(images, LEVEL_MM)], dim=1), scale

    def _run(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map and pseudo-healthy image. Outside the mask it is the input, so pixels too bright for the network stay."""
        x, scale = self._as_head(images)
        anomaly, pseudo_healthy, mask, _ = self.network(x).split(1, dim=1)
        return anomaly, torch.where(mask > 0, (pseudo_healthy * scale).clamp(0, 1), images)
