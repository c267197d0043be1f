"""The anomaly map in units of what is usual for its slice and at its place. Not in the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .filters import gaussian_filter
from .slices import fold, unfold

TISSUE = 0.2  # where the image is brighter, e is taken
ERROR_FLOOR = 0.01  # least e that is told from 0, in units of the image
SIGMA = 4.0  # of the Gaussian window of c, pixels
CONTRAST_FLOOR = 0.15  # as ERROR_FLOOR, of c
UNIT = 0.02  # (e + ERROR_FLOOR) (c + CONTRAST_FLOOR) of a typical healthy slice; keeps the map's scale there


def relative_anomaly_map(
    anomaly: Tensor,
    image: Tensor,
    coarse: Tensor,
    tissue: float = TISSUE,
    error_floor: float = ERROR_FLOOR,
    sigma: float = SIGMA,
    contrast_floor: float = CONTRAST_FLOOR,
    unit: float = UNIT,
) -> Tensor:
    """The formula of `RelativeMap` for slices (N, 1, H, W), its constants as arguments."""
    # In double precision: a difference of nearly equal squares, and a mean that must not depend on the batch.
    where = (image > tissue).double()
    pixels = where.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)
    error = (where * torch.abs(coarse - image).double()).sum(dim=(1, 2, 3), keepdim=True) / pixels
    exact = image.double()
    mean, square = gaussian_filter(torch.cat([exact, exact.square()], dim=1), sigma).chunk(2, dim=1)
    contrast = (square - mean.square()).clamp(min=0.0).sqrt()
    usual = (error + error_floor) * (contrast + contrast_floor)
    return (anomaly.double() * unit / usual).to(anomaly.dtype)


class RelativeMap(nn.Module):
    """s' = s UNIT / ((e + ERROR_FLOOR) (c + CONTRAST_FLOOR)).

    e, one number a slice, is the coarse reconstruction's mean absolute error over the tissue: whoever is less like the
    training's subjects differs more everywhere. c, a number a pixel, is the image's local standard deviation: where the
    cortex folds, any reconstruction is off by more than in white matter.
    """

    def forward(self, anomaly: Tensor, image: Tensor, coarse: Tensor) -> Tensor:
        """The relative map, >= 0.

        Args:
            anomaly: s, (B, 1, H, W, D), >= 0.
            image: x, same shape, in [0, 1].
            coarse: x_c, same shape, in [0, 1].
        """
        return unfold(relative_anomaly_map(fold(anomaly), fold(image), fold(coarse)), anomaly)
