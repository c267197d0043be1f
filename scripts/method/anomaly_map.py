"""Equation (4): the anomaly map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class AnomalyMap(nn.Module):
    """s = |x_ph - x| S(x_ph, x)."""

    def forward(self, image: Tensor, pseudo_healthy: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The anomaly map, >= 0, exactly 0 where the image was not replaced: (N, 1, H, W).

        Args:
            image: x, (N, 1, H, W) in [0, 1].
            pseudo_healthy: x_ph, same shape, in [0, 1].
            distance: S of two batches (N, 1, H, W) -> same shape, >= 0.
        """
        return torch.abs(pseudo_healthy - image) * distance(pseudo_healthy, image)
