"""The deterministic preprocessing between a loaded image and the network, the same in training and inference.

After `CaseLoadImaged` and MONAI's `EnsureChannelFirstd` and `Orientationd(axcodes="PRS")` an image is (1, H, W, D):
rows run anterior -> posterior, columns patient left -> right, slices inferior -> superior. `alignment.AlignHeadd` finds
where it lies in MNI space, `LevelsOfHeadd` resamples it onto levels, `NormalizeHeadd` brings it to [0, 1],
`WithHeightsd` adds the channel that holds each level's height.
`postprocessing.NativeImagesd` leads back to the input's own voxels.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys, SpaceKeys

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning, ras_affine
from ..space.alignment import brain_outline_of
from ..space.geometry import LEVEL_MM, TEMPLATE_CENTRE_XY
from ..space.intensities import from_air, refuse_labels
from ..space.levels import LEVEL_BRIGHTNESS, LEVELS_MM, STEP_MM, USUAL_CONTRAST, level_affine
from ..space.outline import within_outline
from ..space.resampling import (
    brain_at,
    contrast_of_brain,
    into_mni_of,
    median_of_brain,
    onto_levels,
    scanned,
    voxel_height,
)

MIN_SIZE = 16  # pixels; a smaller section is no axial slice of a head
SCANNED = 0.5  # of a level's brain: a level with less of it is left out
LARGEST_POWER = 2.0  # by which a head's contrast is changed, and 1 over it


class LevelsOfHeadd(MapTransform):
    """Resample a placed image onto the levels to analyse, (1, H, W, D) -> (1, 128, 128, D), from its own voxels.

    `analysed`, (1, 128, 128, D) of bools, is added: the template's brain as far as it was scanned. For a slice that was
    placed by its brain's outline alone it is what lies within that. The scan is counted from its air (`from_air`).

    The meta data get `heights` (MNI z of the levels, mm), `thickness` (of a level, mm), `whole` (whether all levels of
    the brain were asked for), `air` (what was subtracted), `brain_median` (the median of the head's brain above its
    air; for a single slice it is estimated from its level) and `brain_contrast` (`contrast_of_brain`; for a
    single slice the usual one).

    Args:
        keys: key of an image that went through `AlignHeadd`.
        slices: "brain" for all scanned levels of the template's brain; "mid" for the paper's level, MNI z = +23 mm; or
            indices of the scan's own axial slices, counted from the lowest one. A single slice is always taken.

    Raises:
        PhanesInputError: `slices` is unknown, indices lie outside of the scan or the brain, the scan holds no brain, or
            a slice is a segmentation's.
    """

    def __init__(
        self, keys: KeysCollection, slices: str | int | Sequence[int] = "brain", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if isinstance(slices, str) and slices not in ("brain", "mid"):
            gone = " ('all' is gone: brain analyses the whole head)" if slices == "all" else ""
            raise PhanesInputError(
                f"slices is '{slices}': give brain, mid, or a list of slice indices such as [90,95]{gone}."
            )
        self.slices = [slices] if isinstance(slices, int) else slices
        if not isinstance(slices, str) and not all(re.fullmatch(r"-?\d+", str(index)) for index in self.slices):
            raise PhanesInputError(f"slices is {list(self.slices)}: give brain, mid, or a list such as [90,95].")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            if min(image.shape[1:3]) < MIN_SIZE:
                raise PhanesInputError(
                    f"'{_name(image)}' has axial sections of {tuple(image.shape[1:3])} pixels; give an image with at "
                    f"least {MIN_SIZE} pixels in each axial direction."
                )
            d[key], d["analysed"] = self._levels(image)
        return d

    def _levels(self, image: MetaTensor) -> tuple[MetaTensor, MetaTensor]:
        volume, into_mni = image.as_tensor()[0].numpy(), into_mni_of(image, ras_affine(image))
        single, whole = volume.shape[2] == 1, False
        if single:
            refuse_labels(volume, _name(image))
        volume, air = from_air(volume)
        thickness = STEP_MM
        if single:
            heights, thickness = [float(into_mni[2, 3])], voxel_height(into_mni)
        elif self.slices == "brain":
            heights, whole = _scanned_levels(image, into_mni), True
        elif self.slices == "mid":
            heights = [LEVEL_MM]
        else:
            heights, thickness = self._listed(image, into_mni)
        levels = onto_levels(volume, into_mni, heights)
        outline = brain_outline_of(image)
        if outline is None or "alignment_similarity" in image.meta:  # a slice that was fitted to the template
            analysed = brain_at(heights) & scanned(volume.shape, into_mni, heights)
        else:
            analysed = within_outline(outline.tolist(), level_affine(heights[0]), levels.shape)
        if not analysed.any():
            raise PhanesInputError(f"'{_name(image)}' holds no brain at the slices to analyse; choose others.")
        if single:
            median = median_of_brain(levels, analysed) / float(np.interp(heights[0], LEVELS_MM, LEVEL_BRIGHTNESS))
            contrast = USUAL_CONTRAST
        else:
            head, brain = levels, analysed
            if not whole:
                head, brain = onto_levels(volume, into_mni), brain_at(LEVELS_MM) & scanned(volume.shape, into_mni)
            median, contrast = median_of_brain(head, brain), contrast_of_brain(head, brain)
        affine = torch.from_numpy(level_affine(heights[0]))
        meta = {
            **image.meta,
            MetaKeys.AFFINE: affine,
            MetaKeys.SPACE: SpaceKeys.RAS,
            "heights": heights,
            "thickness": thickness,
            "whole": whole,
            "air": air,
            "brain_median": median,
            "brain_contrast": contrast,
        }
        return MetaTensor(torch.from_numpy(levels)[None], meta=meta), MetaTensor(
            torch.from_numpy(analysed)[None], affine=affine
        )

    def _listed(self, image: MetaTensor, into_mni: np.ndarray) -> tuple[list[float], float]:
        """Heights of the slices that the user listed, in the middle of the head, and their thickness."""
        depth = image.shape[-1]
        indices = sorted({int(i) for i in self.slices})
        if not indices or indices[0] < 0 or indices[-1] >= depth:
            raise PhanesInputError(
                f"slices {indices} do not exist in '{_name(image)}', which has the axial slices 0 to {depth - 1}: "
                "choose among these."
            )
        slice_of = np.linalg.inv(into_mni)[2]  # of a point in MNI space
        step = 1.0 / slice_of[2]
        heights = [step * (i - slice_of[3] - slice_of[:2] @ TEMPLATE_CENTRE_XY) for i in indices]
        if heights[0] < LEVELS_MM[0] or heights[-1] > LEVELS_MM[-1]:
            raise PhanesInputError(f"slices {indices} of '{_name(image)}' lie outside of the brain: choose others.")
        return [float(height) for height in heights], float(step)


def _scanned_levels(image: MetaTensor, into_mni: np.ndarray) -> list[float]:
    """All levels from the lowest to the highest one of which enough was scanned."""
    brain = brain_at(LEVELS_MM)
    shares = (brain & scanned(image.shape[1:], into_mni)).sum(axis=(0, 1)) / brain.sum(axis=(0, 1))
    kept = np.flatnonzero(shares >= SCANNED)
    if kept.size == 0:
        raise PhanesInputError(f"'{_name(image)}' holds no level of the brain; give a T1w scan of a head.")
    if kept.size < len(LEVELS_MM):
        add_warning(
            image,
            f"the scan holds the brain from z = {LEVELS_MM[kept[0]]:+.0f} to {LEVELS_MM[kept[-1]]:+.0f} mm only "
            f"(MNI152; whole: {LEVELS_MM[0]:+.0f} to {LEVELS_MM[-1]:+.0f} mm)",
        )
    return list(LEVELS_MM[kept[0] : kept[-1] + 1])


class NormalizeHeadd(MapTransform):
    """Bring a head's brain to the training heads' brightness and contrast, (1, H, W, D) -> same in [0, 1].

    The result is 0.5 (x / median) ** power. Scanners differ in contrast, and the networks would take that for disease:
    the power is the one that gives the brain's 10th and 90th percentile the usual ratio. For a single slice the median
    is that of its own brain, divided by its level's usual share of a head's (`LEVEL_BRIGHTNESS`), and the power is 1.
    The meta data keep `intensity_scale`, one a level, and `intensity_power` for `postprocessing.RestoreUnitsd`.

    Args:
        keys: keys of images that went through `LevelsOfHeadd`.

    Raises:
        PhanesInputError: the brain is blank.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            median = float(image.meta["brain_median"])
            _check_not_blank(image, median > 0 and bool(image.amin() < image.amax()))
            power = USUAL_CONTRAST / float(image.meta["brain_contrast"])
            power = min(max(power, 1 / LARGEST_POWER), LARGEST_POWER)
            scale = torch.full((image.shape[-1],), median * 2 ** (1 / power))
            d[key] = _scaled(image, scale, power)
        return d


class NormalizeSlicesd(MapTransform):
    """Divide each level by its own 98th percentile and clip to [0, 1], as in the training of one-slice networks.

    The percentile is taken over the middle columns that the training slices fill (197 of 233 mm).

    Args:
        keys: keys of images that went through `LevelsOfHeadd`.

    Raises:
        PhanesInputError: every level is blank.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            scale = slice_scale(image.as_tensor())
            low, high = image.amin(dim=(0, 1, 2)), image.amax(dim=(0, 1, 2))
            _check_not_blank(image, bool((scale > 0).any() and (low < high).any()))
            d[key] = _scaled(image, torch.where(scale > 0, scale, 1.0))
        return d


def _check_not_blank(image: MetaTensor, filled: bool) -> None:
    if not filled:
        raise PhanesInputError(
            f"'{_name(image)}' is blank at the slices to analyse; choose others with slices, or check the image."
        )


def _scaled(image: MetaTensor, scale: torch.Tensor, power: float = 1.0) -> MetaTensor:
    """The image divided by the scale of each level (D,), clipped to [0, 1], to a power."""
    if (image.amin(dim=(0, 1, 2)) < -0.1 * scale).any():
        add_warning(image, "intensities below those of the air count as the air's")
    meta = {**image.meta, "intensity_scale": scale.tolist(), "intensity_power": power}
    return MetaTensor((image.as_tensor() / scale).clamp(0.0, 1.0) ** power, meta=meta)


class WithHeightsd(MapTransform):
    """Add a channel with each level's MNI z, mm, (1, H, W, D) -> (2, H, W, D), the networks' input.

    Args:
        keys: keys of images that went through `LevelsOfHeadd`.
        known: MNI z of the levels that the network was trained on, mm.

    Raises:
        PhanesInputError: a level lies more than a level's step beyond them.
    """

    def __init__(
        self, keys: KeysCollection, known: Sequence[float] = LEVELS_MM, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.known = known

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            heights = torch.tensor([float(height) for height in image.meta["heights"]], dtype=image.dtype)
            lowest, highest = float(self.known[0]), float(self.known[-1])
            if heights.min() < lowest - STEP_MM or heights.max() > highest + STEP_MM:
                asked = f"{float(heights.min()):+.0f} to {float(heights.max()):+.0f}"
                raise PhanesInputError(
                    f"'{_name(image)}' is analysed at MNI z = {asked} mm, but this network knows {lowest:+.0f} to "
                    f"{highest:+.0f} mm alone: leave out mid_axial.json."
                )
            planes = heights.expand(image.shape)
            d[key] = MetaTensor(torch.cat([image.as_tensor(), planes]), meta=dict(image.meta))
        return d


def _name(image: MetaTensor) -> str:
    return str(image.meta.get("filename_or_obj", "the image"))


def slice_scale(image: torch.Tensor, percentile: float = 98.0, width: float = 197.0 / 233.0) -> torch.Tensor:
    """Percentile of each slice over its middle columns, (1, H, W, ...) -> (...). Where it is <= 0, the maximum."""
    columns = round(image.shape[2] * width)
    first = (image.shape[2] - columns) // 2
    values = image[0, :, first : first + columns].flatten(0, 1)
    scale = torch.quantile(values, percentile / 100.0, dim=0)
    return torch.where(scale > 0, scale, image[0].amax(dim=(0, 1)))
