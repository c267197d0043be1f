"""Images that are no T1w brain at the trained level, made from healthy slices, from whole heads, or from nothing.

All are (233, 197) arrays on the grid of the training slices, rows anterior -> posterior, any intensity unit >= 0. The
other contrasts are curves of T1w intensity, not acquisitions: what is bright, dark or flat is as in the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...space.registration import register
from ...space.template import GRID_AFFINE, GRID_SHAPE

Slice = NDArray[np.floating]
ROWS, COLUMNS = GRID_SHAPE[:2]
LEVEL_INDEX = 95  # of the template's grid, z = +23 mm
OTHER_LEVELS = (-30, -15, 15, 38, 60)  # mm away from z = 0
# T1w intensity (share of the 98th percentile) -> intensity: fluid, grey matter, white matter, fat.
T2_CURVE = ((0.0, 0.12, 0.3, 0.55, 0.75, 0.9, 1.0), (0.05, 0.3, 1.0, 0.75, 0.5, 0.35, 0.5))
FLAIR_CURVE = ((0.0, 0.15, 0.35, 0.55, 0.75, 0.9, 1.0), (0.02, 0.05, 0.15, 0.75, 0.8, 0.55, 0.6))


def unit(image: Slice) -> Slice:
    """Intensities as a share of the 98th percentile, 0 to 1."""
    return np.clip(image / max(float(np.percentile(image, 98)), 1e-6), 0.0, 1.0)


def inside(image: Slice) -> NDArray[np.bool_]:
    """The head, with what is dark in it."""
    return ndimage.binary_fill_holes(ndimage.gaussian_filter(unit(image), 1.0) > 0.12)


def recoloured(image: Slice, curve: tuple[Sequence[float], Sequence[float]]) -> Slice:
    """Another contrast by a curve of intensity."""
    return np.where(inside(image), np.interp(unit(image), *curve), 0.0)


def ct_like(image: Slice) -> Slice:
    """Bright bone, 5 to 13 mm below the skin, around a nearly uniform brain."""
    head = inside(image)
    depth = ndimage.distance_transform_edt(head)
    soft = np.where(depth <= 5, 0.35, 0.42 + 0.06 * (unit(image) - 0.5))
    return np.where(head, np.where((depth > 5) & (depth < 13), 1.0, soft), 0.0)


# From a healthy slice.
CHANGED: dict[str, Callable[[Slice], Slice]] = {
    "T2-like contrast": lambda image: recoloured(image, T2_CURVE),
    "FLAIR-like contrast": lambda image: recoloured(image, FLAIR_CURVE),
    "CT-like contrast": ct_like,
    "inverted intensities": lambda image: 1.0 - unit(image),
    "upside down": lambda image: image[::-1],
    "turned by 90 degrees": lambda image: np.pad(np.rot90(image)[:, 18:215], ((18, 18), (0, 0))),
}


def noise(rng: np.random.Generator) -> Slice:
    """Air: Rayleigh-distributed."""
    return rng.rayleigh(1.0, (ROWS, COLUMNS))


def phantom(rng: np.random.Generator) -> Slice:
    """A bright disc with up to five dark holes."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    disc = np.hypot(y - 116, x - 98) < rng.uniform(70, 95)
    image = disc.astype(float)
    for _ in range(rng.integers(6)):
        row, column = 116 + rng.uniform(-40, 40), 98 + rng.uniform(-40, 40)
        image[np.hypot(y - row, x - column) < rng.uniform(3, 12)] = rng.uniform(0, 0.7)
    return ndimage.gaussian_filter(image, 0.8) + np.abs(rng.normal(0, 0.02, image.shape))


def knee_like(rng: np.random.Generator) -> Slice:
    """A ring of fat, grey muscle, and three bones of bright marrow in dark cortex."""
    y, x = np.mgrid[:ROWS, :COLUMNS]

    def ellipse(row: float, column: float, height: float, width: float) -> NDArray[np.bool_]:
        return np.hypot((y - row) / height, (x - column) / width) < 1

    texture = 2 * ndimage.gaussian_filter(rng.standard_normal((ROWS, COLUMNS)), 2.0)
    image = np.where(ellipse(116, 98, 75, 70), 0.85, 0.0)
    image = np.where(ellipse(116, 98, 68, 63), 0.3 + 0.08 * texture, image)
    for side in (-1, 1):
        bone = (105, 98 + side * rng.uniform(24, 30))
        image = np.where(ellipse(*bone, rng.uniform(30, 38), rng.uniform(22, 27)), 0.1, image)
        image = np.where(ellipse(*bone, 29, 21), 0.9 + 0.05 * texture, image)
    image = np.where(ellipse(58, 98, 12, 24), 0.8, image)
    return ndimage.gaussian_filter(image.clip(0), 0.8)


# From nothing.
INVENTED: dict[str, Callable[[np.random.Generator], Slice]] = {
    "noise": noise,
    "phantom": phantom,
    "knee-like": knee_like,
}


def wrong_images(healthy: Sequence[Slice], seed: int = 0) -> dict[str, list[Slice]]:
    """Kind -> as many images as there are healthy slices."""
    rng = np.random.default_rng(seed)
    made = {kind: [change(image) for image in healthy] for kind, change in CHANGED.items()}
    return made | {kind: [invent(rng) for _ in healthy] for kind, invent in INVENTED.items()}


def head_sections(volume: NDArray, affine: NDArray) -> dict[str, list[Slice]]:
    """Sections of one head, registered: at the trained level ("T1w head"), at others, coronal and sagittal ones.

    Args:
        volume: (X, Y, Z).
        affine: (4, 4), voxel -> world, mm.
    """
    into = np.linalg.inv(affine) @ register(volume, affine).matrix @ GRID_AFFINE
    head = ndimage.affine_transform(volume, into, output_shape=GRID_SHAPE, order=1, cval=float(volume.min()))
    border = ((0, ROWS - GRID_SHAPE[2]), (0, 0))
    return {
        "T1w head": [head[..., LEVEL_INDEX]],
        "other level": [head[..., 72 + z] for z in OTHER_LEVELS],
        "coronal": [np.pad(head[row, :, ::-1].T, border) for row in (90, 116, 140)],
        "sagittal": [np.pad(head[18:215, column, ::-1].T, border) for column in (75, 98, 120)],
    }
