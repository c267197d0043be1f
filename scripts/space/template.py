"""The MNI152 template that nilearn carries: the brain, its grid, and where it lies on any other grid."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

# `nilearn.datasets.load_mni152_template` gives the same array (a test compares them), after seconds of imports.
TEMPLATE_FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
BRAIN_CUT = 10  # of 255: more is brain

# The template's 1 mm grid in the order (H, W, D): rows anterior -> posterior, columns left -> right, slices upwards.
GRID_SHAPE = (233, 197, 189)
GRID_AFFINE = np.array([[0.0, 1.0, 0.0, -98.0], [-1.0, 0.0, 0.0, 98.0], [0.0, 0.0, 1.0, -72.0], [0.0, 0.0, 0.0, 1.0]])


@lru_cache(maxsize=1)
def read_template() -> tuple[NDArray[np.uint8], NDArray]:
    """The MNI152 (2009a, symmetric) T1w brain at 1 mm, (197, 233, 189), RAS+, 0 to 255, and its affine."""
    image: Any = nib.load(str(files("nilearn").joinpath(TEMPLATE_FILE)))
    return np.asarray(image.dataobj, dtype=np.uint8), np.asarray(image.affine)


def brain_on_grid(affine: NDArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The template's brain on a grid in MNI space, nearest neighbour.

    Args:
        affine: (4, 4), voxel -> MNI world, mm; axes along the world's in any order.
        shape: three voxel counts.
    """
    template, template_affine = read_template()
    into = np.linalg.inv(template_affine) @ affine
    axes = np.argmax(np.abs(into[:3, :3]), axis=0)  # which template axis each axis of the grid runs along
    steps = []
    for axis, along in enumerate(axes):
        points = np.zeros((shape[axis], 3))
        points[:, axis] = np.arange(shape[axis])
        steps.append(np.round(apply_affine(into, points)[:, along]).astype(int))
    inside = [(s >= 0) & (s < template.shape[along]) for s, along in zip(steps, axes, strict=True)]
    clipped = [np.clip(s, 0, template.shape[along] - 1) for s, along in zip(steps, axes, strict=True)]
    values = template.transpose(axes)[np.ix_(*clipped)] > BRAIN_CUT
    return values & inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]
