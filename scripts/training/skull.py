"""Skull on and skull off: strip preprocessed training slices with the MNI152 template's own brain mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from scipy.ndimage import binary_dilation

from ..pipeline.transforms import slice_scale
from ..space.geometry import LEVEL_MM


@lru_cache(maxsize=4)
def template_brain_mask(size: int = 128, dilation: int = 1) -> torch.Tensor:
    """Brain mask of the MNI152 template (carried by nilearn) at the trained level, on the network's grid.

    The template's grid is that of the training slices (197x233, 1 mm); the mask is dilated there, padded to the square
    of 233 mm and resized like a slice.

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


class StripSkulld(MapTransform):
    """Set everything outside the template's brain mask to 0 and normalise again, (1, H, W[, D]) -> same, in [0, 1].

    For slices on the template's grid only (the training data). The normalisation is the preprocessing's own, taken on
    the stripped slice, so the network sees what a skull-stripped scan would have given.

    Args:
        keys: keys of preprocessed slices with H == W.
        percentile: the preprocessing's percentile.
        dilation: see `template_brain_mask`.
    """

    def __init__(
        self, keys: KeysCollection, percentile: float = 98.0, dilation: int = 1, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.percentile = percentile
        self.dilation = dilation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.strip(d[key])
        return d

    def strip(self, image: torch.Tensor) -> torch.Tensor:
        """One image, (1, H, W[, D]) -> same."""
        mask = template_brain_mask(image.shape[-1] if image.ndim == 3 else image.shape[1], self.dilation)
        mask = mask.to(image.device).reshape(1, *mask.shape, *([1] * (image.ndim - 3)))
        stripped = image * mask
        scale = slice_scale(torch.as_tensor(stripped), self.percentile)
        return (stripped / torch.where(scale > 0, scale, 1.0)).clamp(0.0, 1.0)


class RandStripSkulld(RandomizableTransform, StripSkulld):
    """`StripSkulld` with a probability, so that training sees heads with and without skull.

    Args:
        keys: keys of preprocessed slices with H == W.
        prob: probability of stripping.
        percentile: the preprocessing's percentile.
        dilation: see `template_brain_mask`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        percentile: float = 98.0,
        dilation: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        StripSkulld.__init__(self, keys, percentile, dilation, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.randomize(None)
        return super().__call__(data) if self._do_transform else dict(data)
