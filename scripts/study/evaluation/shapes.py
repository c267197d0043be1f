"""Lesion shapes on the network's 128 x 128 grid: real stroke outlines from a folder, or irregular ones of our own.

A shape is a float32 (H, W) array in [0, 1] with a soft edge. It is flipped, scaled, moved, and then cut at 0.5.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd
from numpy.typing import NDArray
from scipy import ndimage
from skimage import draw, measure

from ...common.errors import PhanesInputError
from ...pipeline.inference import sentence_of
from ...pipeline.readers import CaseLoadImaged
from ...space.alignment import AlignHeadd
from ...space.geometry import LEVEL_MM
from ...space.levels import PIXEL_MM
from ...space.levels import SIZE as IMAGE_SIZE
from ...space.resampling import into_mni_of, onto_levels
from ...training.skull import template_brain_mask


@lru_cache(maxsize=4)
def lesion_region(margin: float = 4.0) -> NDArray[np.bool_]:
    """Where lesions may lie: the MNI152 template's brain at the networks' level, (128, 128), anterior up.

    Args:
        margin: distance to keep from the brain's rim, mm, because an affine map aligns subjects only roughly.
    """
    brain = template_brain_mask(IMAGE_SIZE, dilation=0).numpy()
    return ndimage.distance_transform_edt(brain) * PIXEL_MM > margin


def read_shapes(folder: str | Path) -> list[NDArray[np.float32]]:
    """Read every mask of a folder (PNG or NIfTI, > 0 in the lesion), and bring it to the grid as slices are.

    Returns:
        One (128, 128) shape for each file, in name order. Masks without a lesion at the networks' level are passed
        over.

    Raises:
        PhanesInputError: the folder holds no mask, or one cannot be read.
    """
    files = sorted(path for path in Path(folder).glob("*") if path.name.endswith((".png", ".nii", ".nii.gz")))
    load = Compose(
        [
            CaseLoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="PRS", labels=None),
        ]
    )
    shapes = []
    for file in files:
        try:
            image = load({"image": str(file)})["image"]
        except RuntimeError as error:
            raise PhanesInputError(sentence_of(error)) from error
        if image.shape[-1] == 1:
            image = AlignHeadd("image")({"image": image})["image"]
        else:
            image.meta["placing"] = np.eye(4)  # masks of whole heads lie in MNI space
        into_mni = into_mni_of(image, image.affine.numpy())
        height = LEVEL_MM if image.shape[-1] > 1 else into_mni[2, 3]
        mask = onto_levels(image.as_tensor()[0].numpy(), into_mni, [height])[..., 0]
        if (mask > 0.5 * mask.max()).any():
            shapes.append((mask / mask.max()).astype(np.float32))
    if not shapes:
        raise PhanesInputError(
            f"No lesion mask in '{folder}': give shapes_dir a folder of PNG or NIfTI masks, or '' for made-up shapes."
        )
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
