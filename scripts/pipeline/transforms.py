"""The deterministic preprocessing between a loaded volume and the network, the same in training and inference.

After `CaseLoadImaged` and MONAI's `EnsureChannelFirstd` and `Orientationd(axcodes="PRS")` an image is (1, H, W, D):
rows run anterior -> posterior, columns patient left -> right, slices inferior -> superior. `alignment.AlignHeadd`
brings a volume to the template's grid, `SelectSlicesd` keeps D of the slices, `FieldOfViewd` cuts or pads them to a
square, `NormalizeSlicesd` brings each to [0, 1], MONAI's `Resized` to 128x128, `CutToOutlined` to the brain of a slice
from an unknown place.
`Invertd` undoes the spatial steps exactly; `postprocessing.RestoreUnitsd` undoes the normalisation where wanted.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Crop, InvertibleTransform, MapTransform, Pad
from monai.utils import MetaKeys, TraceKeys
from numpy.typing import NDArray

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning, nifti_codes, spacing_of
from ..space.geometry import LEVEL_MM, TEMPLATE_CENTRE_XY, estimate_level, head_centre, is_mni, is_template_slice
from ..space.outline import within_outline
from ..space.template import brain_on_grid

NEAR_MM = 10.0  # of the trained level; the networks saw that level only
MIN_BRAIN_MM2 = 2000.0  # of brain in a slice whose intensities it shall set
MIN_SIZE = 16  # pixels; a smaller section is no axial slice of a head


def in_mni_space(image: MetaTensor, in_plane: bool = False) -> bool:
    """True for an image that was aligned to MNI152, or not aligned at all and whose header says that it lies there."""
    alignment = image.meta.get("alignment", "")
    if alignment:
        return alignment in ("mni", "header")
    return is_mni(image.affine.numpy(), image.shape[1:], nifti_codes(image), in_plane)


class SelectSlicesd(MapTransform, InvertibleTransform):
    """Keep the slices to analyse, (1, H, W, D) -> (1, H, W, d); the inverse puts zeros where nothing was analysed.

    The level is MNI z = +23 mm for an image in MNI space, the only slice of a one-slice image, the grid's middle where
    `align: none` asks for it, and otherwise estimated from the top of the head (`geometry.estimate_level`), with a
    warning. The meta data keep `slice_indices`, and `level_slice`, the place of the slice nearest to the level among
    them.

    Args:
        keys: keys of oriented images.
        slices: "mid" (the trained level), "all", or indices counted from the lowest axial slice of the volume as it was
            stored; of a registered volume, the template's slices that pass through these in the middle of the head.
        slab_mm: with "mid", analyse all slices whose centre is within slab_mm / 2 of the level; 0 is one slice.

    Raises:
        PhanesInputError: indices outside the volume, or an image that has no axial slices.
    """

    def __init__(
        self,
        keys: KeysCollection,
        slices: str | int | Sequence[int] = "mid",
        slab_mm: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if isinstance(slices, str) and slices not in ("mid", "all"):
            raise PhanesInputError(f"slices is '{slices}': give mid, all, or a list of slice indices such as [90,95].")
        if slab_mm < 0:
            raise PhanesInputError(f"slab_mm is {slab_mm}: give a thickness in mm, 0 for a single slice.")
        self.slices = [slices] if isinstance(slices, int) else slices
        self.slab_mm = slab_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            if min(image.shape[1:3]) < MIN_SIZE:
                raise PhanesInputError(
                    f"'{image.meta.get('filename_or_obj', key)}' has axial sections of {tuple(image.shape[1:3])} "
                    f"pixels; give an image with at least {MIN_SIZE} pixels in each axial direction."
                )
            level, warning = self._level(image)
            indices = self._choose(image, level)
            if self.slices == "mid":
                add_warning(image, warning)
            if max(abs(index - level) for index in indices) * spacing_of(image)[2] > NEAR_MM:
                add_warning(image, f"slices over {NEAR_MM:g} mm from the trained level: the networks never saw such")
            affine = torch.as_tensor(image.affine).clone()
            affine[:3, 3] += affine[:3, 2] * indices[0]
            selected = MetaTensor(
                image.as_tensor()[..., indices],
                meta={
                    **image.meta,
                    MetaKeys.AFFINE: affine,
                    "slice_indices": indices,
                    "level_slice": int(np.abs(np.array(indices) - level).argmin()),
                },
                applied_operations=list(image.applied_operations),
            )
            self.push_transform(
                selected, orig_size=image.shape[1:], extra_info={"indices": list(indices), "affine": image.affine}
            )
            d[key] = selected
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            info = self.pop_transform(d[key])
            part = d[key].as_tensor()
            whole = part.new_zeros((part.shape[0], *(int(n) for n in info[TraceKeys.ORIG_SIZE])))
            whole[..., [int(i) for i in info[TraceKeys.EXTRA_INFO]["indices"]]] = part
            meta = {**d[key].meta, MetaKeys.AFFINE: info[TraceKeys.EXTRA_INFO]["affine"]}
            d[key] = MetaTensor(whole, meta=meta, applied_operations=d[key].applied_operations)
        return d

    def _level(self, image: MetaTensor) -> tuple[int, str]:
        """Index of the slice at the trained level, and a sentence of warning ("" when there is nothing to say)."""
        depth = image.shape[-1]
        if depth == 1:
            return 0, ""
        if in_mni_space(image):
            heights = image.affine[2, 3] + image.affine[2, 2] * torch.arange(depth)
            return int((heights - LEVEL_MM).abs().argmin()), ""
        if image.meta.get("alignment") == "none":
            return depth // 2, "not aligned: the middle slice stands for the trained level"
        return estimate_level(image[0].numpy(), spacing_of(image))

    def _choose(self, image: MetaTensor, level: int) -> list[int]:
        """Ascending slice indices."""
        depth, spacing = image.shape[-1], spacing_of(image)
        if depth == 1:
            return [0]
        if not isinstance(self.slices, str):
            return self._listed(image)
        if self.slices == "all":
            return list(range(depth))
        half = int(self.slab_mm / 2 / spacing[2] + 1e-6)
        return list(range(max(level - half, 0), min(level + half + 1, depth)))

    def _listed(self, image: MetaTensor) -> list[int]:
        """The slices that the user listed, as indices of this image."""
        name = image.meta.get("filename_or_obj", "")
        depth = int(image.meta.get("native_depth", image.shape[-1]))
        indices = sorted({int(i) for i in self.slices})
        if not indices or indices[0] < 0 or indices[-1] >= depth:
            raise PhanesInputError(
                f"slices {indices} do not exist in '{name}', which has the axial slices 0 to {depth - 1}."
            )
        if "slice_of_level" not in image.meta:
            return indices
        first, step = (float(v) for v in image.meta["slice_of_level"])
        levels = sorted({round((i - first) / step) for i in indices})
        if levels[0] < 0 or levels[-1] >= image.shape[-1]:
            raise PhanesInputError(f"slices {indices} of '{name}' lie outside of the template: choose others.")
        return levels


class FieldOfViewd(MapTransform, InvertibleTransform):
    """Cut or pad each slice to a square field of view, (1, H, W, D) -> (1, h, w, D), filled with the slice's minimum.

    In MNI space the square is the training slices' own; a slice as large as a template's, or without known spacing, is
    centred on its grid (and in the latter case its longer side is the field of view); in a native image the square is
    centred on the head in the middle slice. No pixel is interpolated.

    Args:
        keys: keys of images that went through `SelectSlicesd`.
        size_mm: side of the square in mm; 233 is the training slices' longer side.
    """

    def __init__(self, keys: KeysCollection, size_mm: float = 233.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size_mm = size_mm
        self.crop, self.pad = Crop(), Pad()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            starts, sizes = self._window(image)
            shape = image.shape[1:3]
            keep = [(max(a, 0), min(a + n, full)) for a, n, full in zip(starts, sizes, shape, strict=True)]
            cropped = self.crop(image, tuple(slice(a, b) for a, b in keep))
            border = [(a - start, start + n - b) for (a, b), start, n in zip(keep, starts, sizes, strict=True)]
            # One value pads all slices: shift each slice's minimum to 0, pad with 0, shift back.
            low = cropped.amin(dim=(1, 2), keepdim=True)
            d[key] = self.pad(cropped - low, to_pad=((0, 0), *border, (0, 0)), value=0.0)  # type: ignore[arg-type]
            d[key] += torch.as_tensor(low)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.crop.inverse(self.pad.inverse(d[key]))
        return d

    def _window(self, image: MetaTensor) -> tuple[list[int], list[int]]:
        """First row and column of the square (may be negative), and its height and width in pixels."""
        spacing, shape = spacing_of(image)[:2], tuple(image.shape[1:3])
        spacing_known = image.meta.get("spacing_known", True)
        sizes = [max(round(self.size_mm / s), 1) for s in spacing] if spacing_known else [max(shape)] * 2
        affine = image.affine.numpy().astype(float)
        if in_mni_space(image, in_plane=True):
            target = [*TEMPLATE_CENTRE_XY, affine[2, 3], 1.0]
            centre = tuple(np.linalg.solve(affine, target)[:2])
        elif not spacing_known or is_template_slice(shape, spacing) or image.meta.get("alignment") == "none":
            centre = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
        else:
            centre = head_centre(image[0, ..., image.shape[-1] // 2].numpy(), spacing)
        return [round(float(c) - (n - 1) / 2) for c, n in zip(centre, sizes, strict=True)], sizes


class NormalizeSlicesd(MapTransform):
    """Divide each slice by its own 98th percentile and clip to [0, 1], (1, H, W, D) -> same; not undone by `Invertd`.

    The percentile is taken over the middle columns that the training slices fill (197 of 233), so that it does not
    depend on how much air a scan or the padding adds. It is kept as `intensity_scale` (one a slice) in the meta data,
    for `postprocessing.RestoreUnitsd`.

    In many scans fat is far brighter than in the training slices, and the percentile is the scalp's, not the brain's.
    Where the brain is known (an image aligned to the template) the scale is therefore moved as far as it takes to bring
    the brain's median into the range that it has in the training slices.

    Args:
        keys: keys of square images.
        percentile: in percent.
        width: share of the columns, in the middle, that the percentile sees.
        brain_range: least and largest median of the brain in a normalised slice; None leaves the percentile as it is.

    Raises:
        PhanesInputError: every slice is blank.
    """

    def __init__(
        self,
        keys: KeysCollection,
        percentile: float = 98.0,
        width: float = 197.0 / 233.0,
        brain_range: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.percentile = percentile
        self.width = width
        self.brain_range = brain_range

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            scale = slice_scale(image.as_tensor(), self.percentile, self.width)
            if self.brain_range is not None and image.meta.get("brain_known", False):
                scale = _brought_into_range(scale, image, self.brain_range)
            low, high = image.amin(dim=(0, 1, 2)), image.amax(dim=(0, 1, 2))
            if (scale <= 0).all() or (low == high).all():
                what = "holds nothing above zero" if (low < 0).any() else "is blank"
                raise PhanesInputError(
                    f"'{image.meta.get('filename_or_obj', key)}' {what} at the slices to analyse; choose others with "
                    "slices, or check the image."
                )
            if (low < -0.1 * scale).any():
                add_warning(image, "negative intensities count as 0; T1w images have none")
            d[key] = (image / torch.where(scale > 0, scale, 1.0)).clamp(0.0, 1.0)
            d[key].meta["intensity_scale"] = scale.tolist()
        return d


class CutToOutlined(MapTransform):
    """Set what lies outside of the brain's outline to 0, (1, H, W, D) -> same; images without an outline stay.

    The outline is that of `alignment.AlignHeadd`, of a single slice from an unknown place: scalp and skull there are
    not where those of the training slices are, and would be found abnormal. `Invertd` does not undo it.

    Args:
        keys: keys of preprocessed images.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if "outline" in d[key].meta:
                d[key] = d[key] * torch.from_numpy(brain_of(d[key]))[None].to(d[key].dtype)
        return d


def brain_of(image: MetaTensor) -> NDArray[np.bool_]:
    """Where the brain of an aligned image is, (H, W, D): within its own outline, or else the template's brain."""
    affine, shape = image.affine.numpy().astype(float), tuple(image.shape[1:])
    outline = image.meta.get("outline")
    return brain_on_grid(affine, shape) if outline is None else within_outline(outline, affine, shape)


def _brought_into_range(scale: torch.Tensor, image: MetaTensor, brain_range: Sequence[float]) -> torch.Tensor:
    """Scales (D,) at which the brain's median lies in the range; slices with less than 20 cm2 of brain keep theirs."""
    brain = brain_of(image)
    pixel = spacing_of(image)[0] * spacing_of(image)[1]
    found = scale.clone()
    for k in range(image.shape[-1]):
        if brain[..., k].sum() * pixel >= MIN_BRAIN_MM2:
            median = float(image.as_tensor()[0, ..., k][torch.from_numpy(brain[..., k])].median())
            if median > 0:
                found[k] = scale[k].clamp(median / float(brain_range[1]), median / float(brain_range[0]))
    return found


def slice_scale(image: torch.Tensor, percentile: float = 98.0, width: float = 197.0 / 233.0) -> torch.Tensor:
    """Percentile of each slice over its middle columns, (1, H, W, ...) -> (...); the maximum where that is <= 0."""
    columns = round(image.shape[2] * width)
    first = (image.shape[2] - columns) // 2
    values = image[0, :, first : first + columns].flatten(0, 1)
    scale = torch.quantile(values, percentile / 100.0, dim=0)
    return torch.where(scale > 0, scale, image[0].amax(dim=(0, 1)))
