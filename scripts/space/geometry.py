"""What header and shape alone say: template grids, the trained level, the centre of the head.

Nothing is registered here. Arrays are oriented (H, W, D): rows run anterior -> posterior, columns patient left ->
right, slices inferior -> superior ("PRS"); `spacing` is in millimetres in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

LEVEL_MM = 23.0  # MNI z of the axial slice the networks were trained at (index 95 of the 197x233x189 grid)
NIFTI_MNI152 = 4  # the NIfTI standard's code for coordinates in MNI152 space

# World boxes (x, y, z of the first and last voxel centre, mm) of the grids MNI images come in.
TEMPLATE_BOXES: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((-98, -134, -72), (98, 98, 116)),  # MNI152NLin2009[ac]Sym, 197x233x189: the grid of the training slices
    ((-96, -132, -78), (96, 96, 114)),  # MNI152NLin2009cAsym, 193x229x193
    ((-90, -126, -72), (91, 91, 109)),  # MNI152NLin6, 182x218x182 (FSL)
)
TEMPLATE_CENTRE_XY = (0.0, -18.0)  # centre of the training slices' field of view, mm

BRAIN_CENTRE_OFFSET_MM = (
    -2.0
)  # centre of the brain's bounding box at the paper's level, off the field of view's (-: anterior)


def is_mni(affine: NDArray, shape: Sequence[int], codes: Sequence[int] = (), in_plane: bool = False) -> bool:
    """True when the header says MNI space: NIfTI code 4, or the world box of a known template grid (within 2 mm).

    Args:
        affine: (4, 4) voxel to world (RAS, mm).
        shape: three voxel counts.
        codes: the NIfTI header's sform and qform codes.
        in_plane: compare x and y only, for a selection of slices.
    """
    if NIFTI_MNI152 in codes:
        return True
    last = np.asarray(shape[:3], dtype=float) - 1
    corners = np.array([[i, j, k, 1.0] for i in (0, last[0]) for j in (0, last[1]) for k in (0, last[2])])
    axes = slice(0, 2 if in_plane else 3)
    world = (corners @ np.asarray(affine, dtype=float).T)[:, axes]
    first, end = world.min(axis=0), world.max(axis=0)
    return any(
        np.abs(first - low[axes]).max() <= 2.0 and np.abs(end - high[axes]).max() <= 2.0 for low, high in TEMPLATE_BOXES
    )


def is_template_slice(shape_hw: Sequence[int], spacing_hw: Sequence[float]) -> bool:
    """True when an axial slice has the in-plane extent of a template grid, within 0.5 mm. Its origin does not count."""
    extent = np.asarray(shape_hw, dtype=float) * np.asarray(spacing_hw, dtype=float)
    return any(
        abs(extent[0] - (high[1] - low[1] + 1)) <= 0.5 and abs(extent[1] - (high[0] - low[0] + 1)) <= 0.5
        for low, high in TEMPLATE_BOXES
    )


def above_air(image: NDArray) -> NDArray[np.bool_]:
    """Brighter than air: Otsu's threshold, lowered because air is darker than any tissue.

    Args:
        image: (H, W) or (H, W, D), any intensity unit.

    Returns:
        Boolean mask of the same shape; all False for a constant image.
    """
    low, high = float(image.min()), float(np.percentile(image, 99.5))
    if high <= low:
        return np.zeros(image.shape, dtype=bool)
    return image > low + 0.6 * (threshold_otsu(np.clip(image, low, high).ravel()) - low)


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest piece of a mask of any shape. An empty mask stays empty."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros(mask.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def foreground(image: NDArray) -> NDArray[np.bool_]:
    """Head (or brain) against air: the largest piece of `above_air`."""
    return largest_component(above_air(image))


def head_centre(image: NDArray, spacing: Sequence[float]) -> tuple[float, float]:
    """Centre (row, column) of the field of view for a native slice (H, W), from the head's bounding box.

    On the template the brain's bounding box lies `BRAIN_CENTRE_OFFSET_MM` off the field of view's centre in the rows.
    A slice without foreground is centred on its grid.
    """
    rows, columns = np.nonzero(foreground(image))
    if rows.size == 0:
        return (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
    # Percentiles, so that an ear or a noisy pixel does not move the head.
    row = (np.percentile(rows, 0.1) + np.percentile(rows, 99.9)) / 2
    column = (np.percentile(columns, 0.1) + np.percentile(columns, 99.9)) / 2
    return float(row - BRAIN_CENTRE_OFFSET_MM / spacing[0]), float(column)
