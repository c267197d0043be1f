"""Lesion shapes on the network's 128 x 128 grid: real stroke outlines from a folder, or irregular ones of our own.

A shape is a float32 (H, W) array in [0, 1], soft at its edge, to be cut at 0.5 after it was flipped, scaled and moved.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.utils import optional_import
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import draw, measure

load_mni152_brain_mask, _ = optional_import("nilearn.datasets", name="load_mni152_brain_mask")

IMAGE_SIZE = 128
TEMPLATE_SLICE = 95  # MNI z = +23 mm on the grid of the registered slices: the level the networks see


def to_network_grid(image: NDArray, size: int = IMAGE_SIZE) -> NDArray[np.float32]:
    """Pad a (H, W) slice to a square with its minimum, resize it bilinearly without anti-aliasing: as the images."""
    side = max(image.shape)
    pads = [((side - n) // 2, side - n - (side - n) // 2) for n in image.shape]
    square = torch.from_numpy(np.pad(image.astype(np.float32), pads, constant_values=float(image.min())))
    resized = F.interpolate(square[None, None], size=(size, size), mode="bilinear", align_corners=False)
    return resized[0, 0].numpy()


@lru_cache(maxsize=4)
def template_brain_mask(margin: float = 4.0, size: int = IMAGE_SIZE) -> NDArray[np.bool_]:
    """Brain of the MNI152 template at the slice level of the networks: (size, size), anterior up.

    Args:
        margin: mm to stay away from the brain's rim, since subjects are aligned to the template by an affine map only.
        size: of the result, in pixels.
    """
    volume = load_mni152_brain_mask(resolution=1).get_fdata()
    brain = volume[:, ::-1, TEMPLATE_SLICE].T > 0  # (x, y) -> rows from anterior to posterior, columns along x
    inside = ndimage.distance_transform_edt(brain) > margin
    return to_network_grid(inside, size) > 0.5


def read_shapes(folder: str | Path) -> list[NDArray[np.float32]]:
    """Read every PNG mask of a folder (on the grid of the slices, anterior up, > 0 in the lesion), in name order.

    Raises:
        FileNotFoundError: the folder holds no PNG.
        ValueError: a mask is empty.
    """
    files = sorted(Path(folder).glob("*.png"))
    if not files:
        raise FileNotFoundError(f"no lesion mask (*.png) in {folder}; leave the folder out to use generated shapes")
    shapes = []
    for file in files:
        with Image.open(file) as picture:
            mask = np.asarray(picture.convert("L")) > 0
        if not mask.any():
            raise ValueError(f"{file} is an empty lesion mask: remove it")
        shapes.append(to_network_grid(mask))
    return shapes


def irregular_shape(rng: np.random.Generator, size: int = IMAGE_SIZE) -> NDArray[np.float32]:
    """A connected, lobed blob in the middle of the grid: an ellipse whose rim is displaced by a smooth random field."""
    centre = size / 2
    radii = rng.uniform(0.10, 0.22, size=2) * size
    body = np.zeros((size, size), dtype=np.float32)
    tilt = rng.uniform(-np.pi, np.pi)
    body[draw.ellipse(centre, centre, radii[0], radii[1], shape=body.shape, rotation=tilt)] = 1.0
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma=0.05 * size)
    blob = ndimage.gaussian_filter(body, sigma=0.06 * size) + 0.18 * field / field.std() > 0.5
    labels = measure.label(blob)
    if labels.max() == 0:
        return body
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return ndimage.gaussian_filter(largest.astype(np.float32), sigma=0.5)


def place(
    shape: NDArray[np.float32], area: float, flip: bool, angle: float, centre: tuple[float, float], size: int
) -> NDArray[np.bool_]:
    """Scale a shape to `area` pixels, flip it left to right, turn it by `angle` degrees, centre it at (row, column)."""
    soft = shape[:, ::-1] if flip else shape
    scale = float(np.sqrt(area / max((soft > 0.5).sum(), 1)))
    turn = np.deg2rad(angle)
    inverse = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / scale
    middle = np.array(ndimage.center_of_mass(soft > 0.5))
    offset = middle - inverse @ np.array(centre)
    return ndimage.affine_transform(soft, inverse, offset=offset, output_shape=(size, size), order=1) > 0.5
