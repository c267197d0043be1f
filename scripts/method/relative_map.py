"""The anomaly map in units of what is usual for its slice and at its place. Not in the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .filters import gaussian_filter
from .slices import fold, unfold

TISSUE = 0.2  # e is taken over the pixels where the image is brighter
ERROR_FLOOR = 0.01  # added to e; in units of the image
SIGMA = 4.0  # of the Gaussian window of c, pixels
CONTRAST_FLOOR = 0.15  # added to c; in units of the image
UNIT = 0.02  # (e + ERROR_FLOOR) (c + CONTRAST_FLOOR) of a typical healthy slice, whose map so keeps its scale


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
    """The formula of `RelativeMap` for slices (N, 1, H, W), with its constants as arguments."""
    # Double precision: c is a difference of nearly equal squares, and e must not depend on the batch.
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

    e is the coarse reconstruction's mean absolute error over the tissue, one number a slice. A subject unlike those of
    the training differs more everywhere.

    c is the image's local standard deviation, one number a pixel. Where the cortex folds, any reconstruction errs more
    than in white matter.
    """

    def forward(self, anomaly: Tensor, image: Tensor, coarse: Tensor) -> Tensor:
        """The relative map, >= 0.

        Args:
            anomaly: s, (B, 1, H, W, D), >= 0.
            image: x, same shape, in [0, 1].
            coarse: x_c, same shape, in [0, 1].
        """
        return unfold(relative_anomaly_map(fold(anomaly), fold(image), fold(coarse)), anomaly)
