"""Where a single axial slice lies in the head: it is fitted in its plane to every level of the template.

The slice can lie at any height. In its plane it is shifted, turned, scaled and sheared. The level at which the template
is most like it is taken, or the paper's, if that is as good. World coordinates are RAS, in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import threadpool_limits

from .fitting import Scan, correlation, fitted, level_of
from .geometry import LEVEL_MM, above_air
from .levels import LEVELS_MM, nearest_level

FIT_MM, STEPS, TOLERANCE_MM = 4, 12, 0.05
THICKNESS_MM = 3.0  # of a slice that is compared
ENDLESS_MM = 1000.0
THROUGH_PLANE = [2, 5, 6, 7, 8, 11]  # of a level's twelve derivatives
ALIKE = 0.03  # of correlation, that says nothing of the level: the paper's is taken
SCALES, MAX_DEGREES = (0.6, 1.4), 45.0


def place_slice(
    pixels: NDArray, spacing: Sequence[float], starts: Sequence[NDArray]
) -> tuple[NDArray[np.float64], float] | None:
    """The place at which an axial slice is most like the template.

    Args:
        pixels: (H, W), rows from anterior to posterior, columns from left to right, any intensity unit.
        spacing: mm a row and a column.
        starts: where it may lie, (4, 4) each, (row, column, 0) -> MNI152 world. The result is at least as like the
            template as the best of them.

    Returns:
        The map (4, 4), which holds the level's height, and the correlation; None when nothing is like the template.
    """
    scan = _as_scan(pixels, spacing)
    plane = from_matvec(np.array([[0, spacing[1], 0], [-spacing[0], 0, 0], [0, 0, 1]]), np.zeros(3))
    best, reached, usual = None, 0.0, 0.0  # the place, its correlation, and the best at the paper's level
    with threadpool_limits(limits=1, user_api="blas"):
        for into_mni in starts:
            flat = into_mni.copy()
            flat[2] = flat[:, 2] = [0, 0, 1, 0]
            start = plane @ np.linalg.inv(flat)
            thin = Scan(scan.values, scan.affine @ np.diag([1, 1, THICKNESS_MM / ENDLESS_MM, 1]))
            whole = level_of(FIT_MM, start, thin, head=False)
            for k in np.unique(whole.voxels[2]):
                here = whole.voxels[2] == k
                slope = whole.slope[:, here]
                slope[THROUGH_PLANE] = 0
                level = whole._replace(
                    voxels=whole.voxels[:, here],
                    values=whole.values[here],
                    basis=whole.basis[:, here],
                    field=whole.field[:, here],
                    slope=slope,
                    inside=whole.inside[here],
                )
                for place in (start, fitted(start, level, scan, STEPS, TOLERANCE_MM)):
                    if place is None or not _is_a_heads(place):
                        continue
                    like = correlation(place, level, scan)
                    height = level.affine[2, 2] * k + level.affine[2, 3]
                    if abs(height - LEVEL_MM) <= FIT_MM / 2:
                        usual = max(usual, like)
                    if like > reached:
                        found = np.linalg.inv(place) @ plane
                        found[2] = [0, 0, into_mni[2, 2], LEVELS_MM[nearest_level(height)]]
                        found[:2, 2] = 0
                        best, reached = found, like
    if best is not None and usual >= reached - ALIKE:
        best[2, 3] = LEVEL_MM
    return None if best is None else (best, reached)


def _as_scan(pixels: NDArray, spacing: Sequence[float]) -> Scan:
    """The slice at about the fit's resolution. Its brain has a brightness of about 0 to 1."""
    depth = ndimage.distance_transform_edt(
        np.pad(ndimage.binary_fill_holes(above_air(pixels)), 1), sampling=spacing[:2]
    )
    low, deep = float(pixels.min()), pixels[depth[1:-1, 1:-1] > 0.4 * depth.max()]
    bright = float(np.percentile(deep, 90)) if deep.size else low
    values = np.clip((pixels - low) / max(bright - low, 1e-6), 0.0, 1.25).astype(np.float32)
    axes = np.array([[0, spacing[1], 0], [-spacing[0], 0, 0], [0, 0, ENDLESS_MM]])
    affine = from_matvec(axes, np.array([0, 0, -ENDLESS_MM]))
    return Scan(np.repeat(values[..., None], 2, axis=2), affine).reduced(FIT_MM)


def _is_a_heads(place: NDArray) -> bool:
    """Whether the scales and the turn in the plane are those of a head."""
    left, scales, right = np.linalg.svd(place[:2, :2])
    turn = left @ right
    upright = np.linalg.det(turn) > 0 and turn[0, 0] >= np.cos(np.radians(MAX_DEGREES))
    return bool(upright and SCALES[0] <= scales[1] and scales[0] <= SCALES[1])
