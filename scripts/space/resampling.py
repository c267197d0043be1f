"""From a head's own voxels to the levels of the networks and back, by one interpolation each way.

Heights are MNI z in mm. A level is a plane at a height, (H, W) of `levels.SIZE` x `levels.SIZE` pixels: rows run
anterior -> posterior, columns patient left -> right. `into_mni` is (4, 4), voxel of the head -> MNI world, mm. It may
hold a rotation, scales and shears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from .levels import LEVELS_MM, SIZE, level_affine
from .template import brain_on_grid

SEEN_SIGMA = 0.2  # voxels; a narrower Gaussian changes nothing
BLOCK = 32  # planes of voxels that are brought back at a time; bounds the memory
DECIMALS = 6  # of coordinates: what lies on a border falls on one side of it, whatever the rounding


def onto_levels(volume: NDArray, into_mni: NDArray, heights: Sequence[float] = LEVELS_MM) -> NDArray[np.float32]:
    """A head at the given heights, linearly interpolated from its own voxels. Outside of the scan it has its minimum.

    Voxels finer than a level's (a pixel wide, 2 mm high) are smoothed first: a Gaussian adds the difference of the
    variances of the two boxes. A single slice is not smoothed; the training slices were not.

    Args:
        volume: (X, Y, Z), any storage order and unit.
        into_mni: (4, 4).
        heights: MNI z of the D levels, mm.

    Returns:
        (H, W, D).
    """
    from_mni = np.linalg.inv(into_mni)
    values = np.asarray(volume, dtype=np.float32)
    if min(volume.shape) > 1:
        voxels = (from_mni @ level_affine())[:3, :3]  # that a level's voxel spans
        sigma = np.sqrt(np.maximum((voxels @ voxels.T).diagonal() - 1.0, 0.0) / 12.0)
        if (sigma > SEEN_SIGMA).any():
            values = ndimage.gaussian_filter(values, np.where(sigma > SEEN_SIGMA, sigma, 0.0), mode="nearest")
    levels = np.zeros((SIZE, SIZE, len(heights)), dtype=np.float32)
    for k, height in enumerate(heights):
        ndimage.affine_transform(
            values,
            from_mni @ level_affine(height),
            output_shape=(SIZE, SIZE, 1),
            output=levels[..., k : k + 1],
            order=1,
            mode="nearest",
        )
    return np.where(scanned(volume.shape, into_mni, heights), levels, values.min())


def scanned(shape: Sequence[int], into_mni: NDArray, heights: Sequence[float] = LEVELS_MM) -> NDArray[np.bool_]:
    """Which pixels of the levels lie in a scan of that shape, (H, W, D)."""
    from_mni = np.linalg.inv(into_mni)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    inside = np.ones((SIZE, SIZE, len(heights)), dtype=bool)
    for k, height in enumerate(heights):
        matrix = from_mni @ level_affine(height)
        for axis, count in enumerate(shape):
            place = np.round(matrix[axis, 0] * rows + matrix[axis, 1] * columns + matrix[axis, 3], DECIMALS)
            inside[..., k] &= (place >= -0.5) & (place <= count - 0.5)
    return inside


def brain_at(heights: Sequence[float]) -> NDArray[np.bool_]:
    """The template's brain at the given heights, (H, W, D)."""
    shape = (SIZE, SIZE, 1)
    return np.concatenate([brain_on_grid(level_affine(height), shape) for height in heights], axis=-1)


def voxel_height(into_mni: NDArray) -> float:
    """Step in MNI z from one voxel to the next, mm, along the scan's steepest axis."""
    return float(np.abs(into_mni[2, :3]).max())


def onto_voxels(
    maps: Mapping[str, tuple[NDArray, bool]],
    analysed: NDArray[np.bool_],
    heights: Sequence[float],
    thickness: float,
    into_mni: NDArray,
    shape: Sequence[int],
) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.float32]]]:
    """Maps of the levels on a head's own voxels.

    Consecutive levels form a slab. A voxel belongs to a slab of n levels when its centre lies within n / 2 thicknesses
    of the slab's middle. If the slab is thinner than a voxel, its middle must be nearer to this voxel than to the next.
    So a slab keeps its thickness at any tilt, without holes and without doubled layers. A voxel is analysed where the
    nearest pixel of the nearest level is.

    Args:
        maps: name -> values (H, W, D), and whether to take the nearest value instead of interpolating linearly.
        analysed: (H, W, D).
        heights: ascending, of the D levels.
        thickness: of a level, mm.
        into_mni: (4, 4).
        shape: of the head, three voxel counts.

    Returns:
        Where the head was analysed, and the maps, which are 0 elsewhere; all of `shape`.
    """
    from_plane = np.linalg.inv(level_affine(0.0)) @ into_mni  # its third row is not used: levels may lie anywhere
    where = np.zeros(tuple(shape), dtype=bool)
    found = {name: np.zeros(tuple(shape), dtype=np.float32) for name in maps}
    for first in range(0, shape[0], BLOCK):
        block = slice(first, first + BLOCK)
        i, j, k = np.ogrid[first : min(first + BLOCK, shape[0]), 0 : shape[1], 0 : shape[2]]
        row, column, height = (
            np.round(m[0] * i + m[1] * j + m[2] * k + m[3], DECIMALS) for m in (*from_plane[:2], into_mni[2])
        )
        level, inside = _level_of(height, heights, thickness, voxel_height(into_mni))
        inside &= (row >= -0.5) & (row < SIZE - 0.5) & (column >= -0.5) & (column < SIZE - 0.5)
        voxels = np.nonzero(inside)
        points = np.stack([axis[voxels] for axis in (row, column, level)])
        nearest = tuple(np.floor(points + 0.5).astype(int))
        kept = analysed[nearest]
        voxels = tuple(axis[kept] for axis in voxels)
        where[block][voxels] = True
        for name, (values, as_it_is) in maps.items():
            found[name][block][voxels] = (
                values[tuple(axis[kept] for axis in nearest)]
                if as_it_is
                else ndimage.map_coordinates(values, points[:, kept], order=1, mode="nearest", output=np.float32)
            )
    return where, found


def _level_of(
    height: NDArray, heights: Sequence[float], thickness: float, voxel: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The level at each height, as a fractional index, and whether there is one."""
    chosen = np.asarray(heights, dtype=float)
    slabs = np.split(np.arange(len(chosen)), np.flatnonzero(np.diff(chosen) > 1.5 * thickness) + 1)
    level, inside = np.zeros(height.shape), np.zeros(height.shape, dtype=bool)
    for slab in slabs:
        low, high = chosen[slab[0]], chosen[slab[-1]]
        half = max(high - low + thickness, voxel) / 2
        offset = np.round(height - (low + high) / 2, DECIMALS)
        here = (offset >= -half) & (offset < half) & ~inside
        level[here] = np.interp(height[here], chosen[slab], slab)
        inside |= here
    return level, inside


def median_of_brain(levels: NDArray, brain: NDArray[np.bool_]) -> float:
    """Median of a head's levels (H, W, D) within the brain (H, W, D); NaN where there is none."""
    return float(np.median(levels[brain])) if brain.any() else float("nan")


def contrast_of_brain(levels: NDArray, brain: NDArray[np.bool_]) -> float:
    """Logarithm of the brain's bright over its dark tissue, 90th over 10th percentile of (H, W, D); at least 0.01."""
    low, high = np.percentile(levels[brain], (10, 90)) if brain.any() else (1.0, 1.0)
    return max(float(np.log(high / low)), 0.01) if low > 0 else float("inf")


def settled(affine: NDArray) -> NDArray[np.float64]:
    """A (4, 4) affine without its last bits, which differ between storage orders. It is off by 0.005 mm at most."""
    rounded = np.round(np.asarray(affine, dtype=float), 5)
    rounded[:3, 3] = np.round(np.asarray(affine, dtype=float)[:3, 3], 2)
    return rounded


def into_mni_of(image: MetaTensor, affine: NDArray) -> NDArray[np.float64]:
    """`into_mni` of a grid with this affine (4, 4) in the world of an image that `AlignHeadd` has placed."""
    return np.asarray(image.meta["placing"], dtype=float).reshape(4, 4) @ settled(affine)
