"""The grid the networks see: axial levels of the head in MNI space, 2 mm apart, 128 x 128 pixels each.

A registered head on this grid is (H, W, D): rows run anterior -> posterior, columns patient left -> right, levels
upwards. In the plane it covers the field of view of the mid-axial slices, a square of 233 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .geometry import TEMPLATE_CENTRE_XY
from .template import brain_on_grid

FIELD_MM = 233.0  # side of the square; the longer side of the mid-axial slices
SIZE = 128  # pixels a side
PIXEL_MM = FIELD_MM / SIZE
STEP_MM = 2.0  # between levels
# MNI z of every level, mm: all that hold at least 1 cm2 of the template's brain (a test counts). +23 is the paper's.
LEVELS_MM = tuple(float(z) for z in range(-71, 82, 2))
USUAL_CONTRAST = 0.773  # log of 90th over 10th percentile of a head's brain: the median over heads of ixi_heads/train
# Median of each level's brain as a share of the whole brain's: the median over 24 heads of
# ixi_heads/train.
# What a single slice says of its head's brightness.
# fmt: off
LEVEL_BRIGHTNESS = (
    1.21, 1.18, 1.11, 0.85, 0.76, 0.83, 0.94, 0.99, 1.01, 1.02, 1.00, 0.98, 0.99, 1.01, 1.03, 1.04, 1.05, 1.05, 1.07,
    1.07, 1.04, 1.01, 1.01, 1.04, 1.05, 1.05, 1.05, 1.05, 1.06, 1.07, 1.08, 1.10, 1.10, 1.10, 1.10, 1.10, 1.09, 1.08,
    1.07, 1.07, 1.05, 1.06, 1.06, 1.06, 1.05, 1.05, 1.04, 1.04, 1.04, 1.05, 1.05, 1.04, 1.04, 1.02, 1.00, 0.98, 0.96,
    0.94, 0.91, 0.90, 0.88, 0.86, 0.84, 0.82, 0.81, 0.79, 0.78, 0.76, 0.74, 0.73, 0.71, 0.70, 0.69, 0.66, 0.66, 0.65,
    0.64,
)
# fmt: on
GRID = (SIZE, SIZE, len(LEVELS_MM))  # (H, W, D)


def level_affine(first_mm: float = LEVELS_MM[0]) -> NDArray[np.float64]:
    """(4, 4), (row, column, level) of the grid -> MNI world, mm. The lowest level lies at `first_mm`."""
    half = (FIELD_MM - PIXEL_MM) / 2  # from the centre of the field to the centre of its outermost pixels
    return np.array(
        [
            [0.0, PIXEL_MM, 0.0, TEMPLATE_CENTRE_XY[0] - half],
            [-PIXEL_MM, 0.0, 0.0, TEMPLATE_CENTRE_XY[1] + half],
            [0.0, 0.0, STEP_MM, first_mm],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def brain_of_levels(heights: Sequence[float] = LEVELS_MM) -> NDArray[np.bool_]:
    """The template's brain at the levels nearest to some heights, MNI z in mm: (H, W, D)."""
    brain = _brain_of_all_levels()
    return brain if tuple(heights) == LEVELS_MM else brain[..., [nearest_level(z) for z in heights]]


@lru_cache(maxsize=1)
def _brain_of_all_levels() -> NDArray[np.bool_]:
    brain = brain_on_grid(level_affine(), GRID)
    brain.setflags(write=False)  # it is shared
    return brain


def nearest_level(z_mm: float) -> int:
    """Index of the level nearest to a height. Beyond the ends it is the lowest or the highest one."""
    return int(np.abs(np.asarray(LEVELS_MM) - z_mm).argmin())
