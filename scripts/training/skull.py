"""Skull on and skull off: strip preprocessed training slices with the MNI152 template's own brain mask."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation

from ..pipeline.transforms import slice_scale
from ..space.geometry import LEVEL_MM

PERCENTILE = 98.0  # the preprocessing scales this percentile to 1


@lru_cache(maxsize=4)
def template_brain_mask(size: int = 128, dilation: int = 1) -> torch.Tensor:
    """Brain mask of the MNI152 template (carried by nilearn) at the trained level, on the network's grid.

    The template has the grid of the training slices, 197 x 233 at 1 mm. The mask is dilated there, padded to a square
    of 233 mm, and resized like a slice.

    Args:
        size: pixels a side of the network's grid.
        dilation: pixels of 1 mm by which the mask grows; 1 keeps the outer cortex.

    Returns:
        Boolean (size, size), rows anterior -> posterior, columns patient left -> right.
    """
    from nilearn.datasets import load_mni152_brain_mask  # slow to import, and only training needs it

    image = load_mni152_brain_mask(resolution=1)
    index = round((LEVEL_MM - image.affine[2, 3]) / image.affine[2, 2])
    brain = np.asarray(image.dataobj)[:, :, index].T[::-1] > 0
    if dilation:
        brain = binary_dilation(brain, iterations=dilation)
    side = max(brain.shape)
    border = [((side - n) // 2, side - n - (side - n) // 2) for n in brain.shape]
    square = torch.from_numpy(np.pad(brain, border).astype(np.float32))[None, None]
    resized = F.interpolate(square, size=(size, size), mode="bilinear", align_corners=False, antialias=False)
    return resized[0, 0] > 0.5


def strip_skull(image: torch.Tensor) -> torch.Tensor:
    """Set everything outside the template's brain mask to 0 and normalise again: (1, H, W[, D]) -> same, in [0, 1].

    It serves preprocessed square slices on the template's grid, such as the training data. The normalisation is that of
    the preprocessing, taken on the stripped slice. So the network sees what a skull-stripped scan would have given.
    """
    mask = template_brain_mask(image.shape[-1] if image.ndim == 3 else image.shape[1])
    mask = mask.to(image.device).reshape(1, *mask.shape, *([1] * (image.ndim - 3)))
    stripped = image * mask
    scale = slice_scale(torch.as_tensor(stripped), PERCENTILE)
    return (stripped / torch.where(scale > 0, scale, 1.0)).clamp(0.0, 1.0)
