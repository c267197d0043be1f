"""Heads made of the MNI152 template: as it lies, moved, on oblique grids, with a painted lesion."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from scripts.space.template import read_template
from scripts.study.registration_trials import block_means


def small_template(mm: float) -> tuple[NDArray, NDArray]:
    """The template's brain in voxels of `mm`, and its affine."""
    template, affine = read_template()
    return block_means(template.astype(np.float32), affine, mm)


def oblique(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], angles: tuple[float, float, float]
) -> NDArray:
    """The affine of a grid turned by Euler angles (degrees) about the brain's middle."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = np.array([0.0, -18.0, 4.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def on_grid(affine: NDArray, shape: tuple[int, int, int], matrix: NDArray | None = None) -> NDArray[np.float32]:
    """The template's brain on another grid; `matrix`, (4, 4), template world -> head world, moves it."""
    template, own = read_template()
    into = np.linalg.inv(own) @ np.linalg.inv(np.eye(4) if matrix is None else matrix) @ affine
    return ndimage.affine_transform(template.astype(np.float32), into, output_shape=shape, order=1)


def ball(affine: NDArray, shape: tuple[int, int, int], centre_mm: NDArray, radius_mm: float) -> NDArray[np.bool_]:
    """The voxels within a radius of a point of the grid's world."""
    points = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    return np.linalg.norm(points - centre_mm, axis=-1) <= radius_mm


def reoriented(volume: NDArray, affine: NDArray, orientation: NDArray) -> tuple[NDArray, NDArray]:
    """The same scan in another storage order, (3, 2) axes and flips."""
    turned = nib.orientations.apply_orientation(volume, orientation)
    return np.ascontiguousarray(turned), affine @ nib.orientations.inv_ornt_aff(orientation, volume.shape)
