"""Where to look, from header and shape alone: template grids, the trained level, the centre of the head.

No registration happens here. Arrays are oriented (H, W, D): rows run anterior -> posterior, columns patient left ->
right, slices inferior -> superior ("PRS"); `spacing` is in millimetres in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.affines import voxel_sizes
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

# Measured on the template by `measure_template` below (tests/space/test_geometry.py repeats it):
BRAIN_VERTEX_MM = 59.0  # from the top of the brain down to the trained level
BRAIN_CENTRE_OFFSET_MM = -2.0  # centre of the brain's bounding box, anterior (-) of the field of view's centre
SCALP_MM = 12.0  # scalp, skull and fluid above the brain at the vertex (anatomy, not measurable on the template)
CAP_RADIUS_MM = 75.0  # the top of a head as a spherical cap of this radius


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
    """True when one axial slice has the in-plane extent of a template grid (within 0.5 mm), wherever its origin is."""
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
    """The largest piece of a mask of any shape; an empty mask stays empty."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros(mask.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def foreground(image: NDArray) -> NDArray[np.bool_]:
    """Head (or brain) against air: the largest piece of `above_air`."""
    return largest_component(above_air(image))


def has_skull(image: NDArray, mask: NDArray[np.bool_], spacing: Sequence[float], slices: Sequence[int]) -> bool:
    """True when a dark ring (skull) lies between the head's outline and the brain.

    Median intensity as a function of depth below the outline, over the given slices: on a head with skull it dips
    below 85 % of the brain's somewhere from 4 to 14 mm deep; on a stripped brain it only rises.
    """
    ring, brain = [], []
    bins = [(d, d + 2.0) for d in np.arange(4.0, 14.0, 2.0)]
    for k in slices:
        depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(mask[..., k]), sampling=spacing[:2])
        ring.append([_median(image[..., k][(depth > a) & (depth <= b)]) for a, b in bins])
        brain.append(_median(image[..., k][(depth > 16) & (depth <= 26)]))
    if not ring or np.isnan(brain).all():
        return True
    low = float(image.min())
    return bool(np.nanmin(np.nanmedian(ring, axis=0)) - low < 0.85 * (np.nanmedian(brain) - low))


def estimate_level(image: NDArray, spacing: Sequence[float]) -> tuple[int, str]:
    """Slice index of the trained level in a native head, from the distance to the vertex.

    The highest slice with at least 5 cm2 of head lies below the vertex by the height of a spherical cap of that
    section; so a scan that cuts the top of the head off still gives a level.

    Args:
        image: (H, W, D) oriented volume with D > 1.
        spacing: mm a voxel along H, W, D.

    Returns:
        Index along D, and a sentence of warning ("" when there is nothing to say).
    """
    mask = foreground(image)
    area = mask.sum(axis=(0, 1)) * spacing[0] * spacing[1]
    filled = np.flatnonzero(area >= 500.0)
    depth = image.shape[-1]
    if filled.size == 0:
        return depth // 2, "no head found above the background: the middle slice was taken"
    top = int(filled[-1])
    cap = CAP_RADIUS_MM - np.sqrt(max(CAP_RADIUS_MM**2 - area[top] / np.pi, 0.0))
    below = [top - round(mm / spacing[2]) for mm in range(20, 66, 5)]
    skull = has_skull(image, mask, spacing, [k for k in below if 0 <= k < depth])
    distance = BRAIN_VERTEX_MM + (SCALP_MM if skull else 0.0)
    level = round(top - (distance - cap) / spacing[2])
    warning = f"level estimated from the top of the {'head' if skull else 'brain'}, without registration"
    if top == depth - 1 and area[top] >= 2000.0:
        warning += ", which the scan cuts off"
    if not 0 <= level < depth:
        return int(np.clip(level, 0, depth - 1)), warning + "; the scan does not reach the trained level"
    return level, warning


def head_centre(image: NDArray, spacing: Sequence[float]) -> tuple[float, float]:
    """Centre (row, column) of the field of view for a native slice (H, W): the head's bounding box, as the template's.

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


def measure_template() -> dict[str, float]:
    """Measure `BRAIN_VERTEX_MM` and `BRAIN_CENTRE_OFFSET_MM` on the MNI152 template that nilearn carries."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    mask, template = load_mni152_brain_mask(resolution=1), load_mni152_template(resolution=1)
    inside = np.asarray(mask.dataobj) > 0
    z = template.affine[2, 3] + np.arange(inside.shape[2]) * voxel_sizes(template.affine)[2]
    level = int(np.abs(z - LEVEL_MM).argmin())
    y = template.affine[1, 3] + np.flatnonzero(inside[:, :, level].any(axis=0))
    return {
        "brain_vertex_mm": float(z[inside.any(axis=(0, 1))].max() - LEVEL_MM),
        "brain_centre_offset_mm": float(TEMPLATE_CENTRE_XY[1] - (y[0] + y[-1]) / 2),
    }


def _median(values: NDArray) -> float:
    return float(np.median(values)) if values.size else float("nan")
