"""A single slice from an unknown place: the brain's outline gives its centre and size, and says where the skull is.

One slice of another level gives a registration little to hold on to. The outline of the brain is there in every slice.
It is the convex hull of the tissue within the skull: what is brighter than half the median deep in the head. World
coordinates are RAS, in mm; images are oriented (H, W): rows run anterior -> posterior, columns patient left -> right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage.measure import points_in_poly

from .geometry import above_air, largest_component

BRIGHT = 0.5  # of the median deep in the head: more is tissue, less is skull and fluid
LINK_MM = 3.0  # what links scalp and tissue through the skull is thinner than twice that
GROWN_MM = 1.0  # by which the tissue grows again; the rim stays out, where the head's shape differs from the template's
DEEP = 0.3  # of the head's largest depth: tissue of less depth (median) is scalp
LEAST_MM2 = 100.0  # of a piece of tissue
AREA_MM2 = (3000.0, 40000.0)  # of a brain in a slice
HEAD_MM2 = 20000.0  # of a head with skull, which gives the size of pixels that have none

# The outline of the 60 validation slices in MNI space, medians (5th to 95th percentile: height 158 to 177 mm).
HEIGHT_MM = 167.0
CENTRE_XY = (0.0, -17.0)


def _head(image: NDArray) -> NDArray[np.bool_]:
    """The section of the head, filled. In one slice, scalp and brain may be separate pieces."""
    return largest_component(ndimage.binary_fill_holes(above_air(image)))


def assumed_pixel_mm(image: NDArray) -> float:
    """Size of a pixel, mm, where the image does not say it: as if the head had the usual size. Without a head 1."""
    pixels = _head(image).sum()
    return float(np.sqrt(HEAD_MM2 / pixels)) if pixels else 1.0


def brain_outline(image: NDArray, spacing: Sequence[float]) -> NDArray | None:
    """Convex hull of the brain in an axial slice, with or without skull.

    Args:
        image: (H, W), any intensity unit.
        spacing: mm a pixel along H and W.

    Returns:
        (N, 2) corners (row, column) in pixels; None when there is nothing like a brain.
    """
    head = _head(image)
    if not head.any():
        return None
    depth = ndimage.distance_transform_edt(np.pad(head, 1), sampling=spacing)[1:-1, 1:-1]
    middle = np.median(image[depth >= 0.5 * depth.max()])
    tissue = (image > BRIGHT * middle) & head
    labels, count = ndimage.label(ndimage.distance_transform_edt(tissue, sampling=spacing) > LINK_MM)
    pixel = float(np.prod(spacing))
    pieces = [
        piece
        for piece in range(1, count + 1)
        if (labels == piece).sum() * pixel >= LEAST_MM2 and np.median(depth[labels == piece]) >= DEEP * depth.max()
    ]
    if not pieces:
        return None
    grown = ndimage.distance_transform_edt(~np.isin(labels, pieces), sampling=spacing) <= GROWN_MM
    points = np.argwhere(grown)
    try:
        hull = ConvexHull(points)
    except QhullError:  # a line of pixels
        return None
    if not AREA_MM2[0] <= hull.volume * pixel <= AREA_MM2[1]:  # a polygon's "volume" is its area
        return None
    return points[hull.vertices].astype(float)


def into_slice(outline: NDArray) -> NDArray:
    """The map of MNI152 x, y (mm) onto rows and columns that brings a usual brain onto the outline.

    Args:
        outline: (N, 2) corners in square pixels. Both axes are scaled alike, and nothing is turned.

    Returns:
        (3, 3) homogeneous matrix, (x, y, 1) -> (row, column, 1).
    """
    low, high = outline.min(axis=0), outline.max(axis=0)
    middle, pixels_a_mm = (low + high) / 2, (high[0] - low[0] + 1) / HEIGHT_MM
    matrix = np.array([[0.0, -pixels_a_mm, 0.0], [pixels_a_mm, 0.0, 0.0], [0.0, 0.0, 1.0]])
    matrix[:2, 2] = middle - matrix[:2, :2] @ CENTRE_XY
    return matrix


def within_outline(outline: Sequence[Sequence[float]], affine: NDArray, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Where the voxels' centres lie inside an outline of world coordinates.

    Args:
        outline: (N, 2) corners, x and y in mm.
        affine: (4, 4), voxel -> world.
        shape: three voxel counts.
    """
    voxels = np.indices(tuple(shape)).reshape(3, -1).T
    return points_in_poly(apply_affine(affine, voxels)[:, :2], np.asarray(outline, dtype=float)).reshape(tuple(shape))
