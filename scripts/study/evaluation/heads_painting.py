"""The fixed painting model: dark lesions of real shapes, painted into the raw voxels of healthy heads.

Each head gets one mask. The head's registration carries it from MNI space into the head's own voxels. Every other mask
is mirrored left to right. All stay within the template's brain. Heads take the ranges of size in turn. With the
softened mask m (Gaussian of 0.7 voxels) tissue x becomes

    x (1 - m (1 - max(0.1, d (1 + 0.125 n)))).

A head has one d, uniform in 0.35 to 0.7. The noise n has unit variance and is smooth over 1.5 voxels. The truth is
m > 0.5 where the head is not empty. `FIXED` is the model of all reported numbers: a darker or larger lesion would buy
any score. `sensitivity.py` alone paints otherwise, to show how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...common.errors import PhanesInputError
from ...space.template import BRAIN_CUT, read_template

STROKE_SIZES_ML = ((0.3, 2.0), (2.0, 15.0), (15.0, 120.0))
ANY_SIZE_ML = ((0.3, 120.0),)
TEXTURE_VOXELS = 1.5
LEAST = 0.1  # of the tissue's brightness
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])  # of MNI world, left to right


@dataclass(frozen=True)
class Painting:
    """What a painted lesion looks like.

    Attributes:
        depth: range of d, shares of the tissue's brightness.
        edge: deviation of the Gaussian that softens the mask, voxels.
        texture: weight of the noise.
        ellipsoids: in place of the masks, the ellipsoids of the same place, volume and axes.
    """

    depth: tuple[float, float] = (0.35, 0.7)
    edge: float = 0.7
    texture: float = 0.125
    ellipsoids: bool = False


FIXED = Painting()


@dataclass(frozen=True)
class LesionShape:
    """A lesion's mask in MNI space, within the template's brain.

    Attributes:
        name: of its file.
        mask: (X, Y, Z) boolean.
        affine: (4, 4), voxel -> MNI world, mm.
        ml: volume.
    """

    name: str
    mask: NDArray[np.bool_]
    affine: NDArray
    ml: float


@lru_cache(maxsize=1)
def template_brain() -> tuple[NDArray[np.bool_], NDArray]:
    """The template's brain, (197, 233, 189) at 1 mm, and its affine."""
    template, affine = read_template()
    return template > BRAIN_CUT, affine


def brain_in_head(registration: NDArray, affine: NDArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The template's brain in a head's own voxels, nearest neighbour.

    Args:
        registration: (4, 4), MNI world -> head world, mm.
        affine: (4, 4), the head's voxel -> world, mm.
        shape: the head's three voxel counts.
    """
    brain, brain_affine = template_brain()
    into = np.linalg.inv(brain_affine) @ np.linalg.inv(registration) @ affine
    return ndimage.affine_transform(brain.astype(np.uint8), into, output_shape=shape, order=0) > 0


def read_shapes(folder: str | Path, part: int | None = None) -> list[LesionShape]:
    """The masks of a folder (`*.nii.gz`, MNI space), each cut to the template's brain.

    Args:
        folder: of masks.
        part: 0 for the files of even number in sorted order, 1 for the odd ones, None for all.

    Raises:
        PhanesInputError: there are none.
    """
    files = sorted(Path(folder).expanduser().glob("*.nii.gz"))
    chosen = files if part is None else files[part::2]
    if not chosen:
        raise PhanesInputError(f"No lesion masks (*.nii.gz) in '{folder}': correct the path.")
    shapes = []
    for file in chosen:
        image: Any = nib.load(file)
        affine = np.asarray(image.affine)
        mask = np.asarray(image.dataobj) > 0
        mask &= brain_in_head(np.eye(4), affine, mask.shape)
        ml = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
        shapes.append(LesionShape(file.name.removesuffix(".nii.gz"), mask, affine, ml))
    return shapes


def ellipsoid(shape: LesionShape) -> LesionShape:
    """The ellipsoid with the mask's centre, second moments and number of voxels; within the template's brain."""
    points = np.argwhere(shape.mask)
    inverse = np.linalg.inv(np.cov(points.T) + 0.1 * np.eye(3))
    away = np.moveaxis(np.indices(shape.mask.shape), 0, -1) - points.mean(axis=0)
    distance = np.einsum("...i,ij,...j->...", away, inverse, away)
    distance[~brain_in_head(np.eye(4), shape.affine, shape.mask.shape)] = np.inf
    return replace(shape, mask=distance <= np.partition(distance, len(points) - 1, axis=None)[len(points) - 1])


@dataclass(frozen=True)
class Recipe:
    """The lesion that one head gets."""

    shape: LesionShape
    mirrored: bool
    darkness: float
    size: int


def recipes(
    shapes: Sequence[LesionShape],
    heads: int,
    seed: int,
    sizes: Sequence[tuple[float, float]],
    depth: tuple[float, float] = FIXED.depth,
) -> list[Recipe]:
    """One recipe for each head. The first head's size moves on with the seed, so that each head gets every size.

    Args:
        shapes: to choose from. Within a range of size, none comes twice before all have come once.
        heads: how many.
        seed: of the choice.
        sizes: ranges of volume, ml.
        depth: see `Painting`.

    Raises:
        PhanesInputError: a range without any shape.
    """
    rng = np.random.default_rng(seed)
    pools = [[shape for shape in shapes if low <= shape.ml < high] for low, high in sizes]
    for pool, (low, high) in zip(pools, sizes, strict=True):
        if not pool:
            raise PhanesInputError(
                f"None of the {len(shapes)} lesion masks has {low:g} to {high:g} ml: give more masks."
            )
    orders = [rng.permutation(len(pool)) for pool in pools]
    made = []
    for head in range(heads):
        size, turn = (head + seed) % len(sizes), head // len(sizes)
        shape = pools[size][orders[size][turn % len(pools[size])]]
        made.append(Recipe(shape, turn % 2 == 1, float(rng.uniform(*depth)), size))
    return made


def paint(
    head: NDArray,
    affine: NDArray,
    registration: NDArray,
    recipe: Recipe,
    rng: np.random.Generator,
    painting: Painting = FIXED,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The head with its lesion, and the lesion, both (X, Y, Z).

    Args:
        head: (X, Y, Z), any intensity unit, 0 where it is empty.
        affine: (4, 4), voxel -> world, mm.
        registration: (4, 4), MNI world -> head world, mm.
        recipe: what to paint.
        rng: of the texture.
        painting: how.
    """
    shape = ellipsoid(recipe.shape) if painting.ellipsoids else recipe.shape
    from_head = np.linalg.inv(registration) @ affine
    into = np.linalg.inv(shape.affine) @ (MIRROR if recipe.mirrored else np.eye(4)) @ from_head
    carried = ndimage.affine_transform(shape.mask.astype(np.float32), into, output_shape=head.shape, order=1)
    inside = (carried > 0.5) & brain_in_head(registration, affine, head.shape)
    soft = ndimage.gaussian_filter(inside.astype(np.float32), painting.edge)
    noise = ndimage.gaussian_filter(rng.standard_normal(head.shape).astype(np.float32), TEXTURE_VOXELS)
    noise /= noise.std()
    kept = np.maximum(LEAST, recipe.darkness * (1.0 + painting.texture * noise))
    return (head * (1.0 - soft * (1.0 - kept))).astype(np.float32), (soft > 0.5) & (head > 0)
