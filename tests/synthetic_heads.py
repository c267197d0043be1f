"""Synthetic whole heads: the template's brain in a shell of scalp at 4 mm, with known registrations."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scripts.space.registration import Registration
from scripts.space.template import BRAIN_CUT, read_template

VOXEL_MM = 4.0
# Smaller than the template and moved: as a head's registration.
PLACE = np.array([[0.9, 0.0, 0.0, 3.0], [0.0, 0.9, 0.0, -5.0], [0.0, 0.0, 0.9, 4.0], [0.0, 0.0, 0.0, 1.0]])


def head_affine() -> NDArray[np.float64]:
    """(4, 4) of the synthetic heads, stored PSR."""
    affine = np.zeros((4, 4))
    affine[0, 2], affine[1, 0], affine[2, 1], affine[3, 3] = VOXEL_MM, -VOXEL_MM, VOXEL_MM, 1.0
    affine[:3, 3] = [-90.0, 90.0, -80.0]
    return affine


def head_image(seed: int = 0) -> nib.Nifti1Image:
    """A head of 16-bit numbers: a brain of 1000 with noise, and scalp."""
    template, template_affine = read_template()
    into = np.linalg.inv(template_affine) @ np.linalg.inv(PLACE) @ head_affine()
    shape = (56, 48, 46)
    values = ndimage.affine_transform(template.astype(np.float32), into, output_shape=shape, order=1)
    brain = values > BRAIN_CUT
    outside = ndimage.distance_transform_edt(~brain, sampling=VOXEL_MM)
    scalp = (outside > 6) & (outside <= 14)
    noise = np.random.default_rng(seed).normal(0, 30, shape)
    head = np.where(brain, 1000.0 + noise, np.where(scalp, 900.0, 0.0)).clip(0, 30000)
    return nib.Nifti1Image(head.astype(np.int16), head_affine())


def write_heads(folder: Path, count: int) -> Path:
    """`head0.nii.gz`, ... in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        nib.save(head_image(index), folder / f"head{index}.nii.gz")
    return folder


def write_shapes(folder: Path, radii: tuple[float, ...] = (7.0, 10.0, 18.0)) -> Path:
    """Balls in the left hemisphere, MNI space, 2 mm: 1.4, 4 and 24 ml."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-90.0, -126.0, -72.0]
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (91, 109, 91)], indexing="ij"), axis=-1) * 2.0 + affine[:3, 3]
    for index, radius in enumerate(radii):
        ball = np.linalg.norm(grid - np.array([-35.0, -20.0, 20.0]), axis=-1) <= radius
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), affine), folder / f"ball{index}.nii.gz")
    return folder


def found_at_once(volume: NDArray, affine: NDArray) -> Registration:
    """Stands in for `register`: the synthetic heads' own place."""
    return Registration(PLACE, 0.9, (0.9, 0.9, 0.9), 0.0)
