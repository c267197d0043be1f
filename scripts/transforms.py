"""The deterministic preprocessing between a loaded volume and the network, the same in training and inference.

After `CaseLoadImaged` and MONAI's `EnsureChannelFirstd` and `Orientationd(axcodes="PRS")` an image is (1, H, W, D):
rows run anterior -> posterior, columns patient left -> right, slices inferior -> superior. `SelectSlicesd` keeps D of
the slices, `FieldOfViewd` cuts or pads them to a square, `NormalizeSlicesd` brings each to [0, 1], MONAI's `Resized`
to 128x128.
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

from .errors import PhanesInputError
from .geometry import LEVEL_MM, TEMPLATE_CENTRE_XY, estimate_level, head_centre, is_mni, is_template_slice

MIN_SIZE = 16  # pixels; a smaller section is no axial slice of a head


def add_warning(image: MetaTensor, text: str) -> None:
    """Append a sentence to the image's warnings, which end in `summary.csv` and in the report."""
    if text:
        image.meta["warnings"] = "; ".join(filter(None, [str(image.meta.get("warnings", "")), text]))


def spacing_of(image: MetaTensor) -> tuple[float, ...]:
    """mm a voxel along H, W, D."""
    return tuple(float(v) for v in torch.linalg.norm(torch.as_tensor(image.affine)[:3, :3], dim=0))


def nifti_codes(image: MetaTensor) -> list[int]:
    """The header's sform and qform codes; zeros for other formats."""
    return [int(image.meta.get(name, 0)) for name in ("sform_code", "qform_code")]


class SelectSlicesd(MapTransform, InvertibleTransform):
    """Keep the slices to analyse, (1, H, W, D) -> (1, H, W, d); the inverse puts zeros where nothing was analysed.

    The level is MNI z = +23 mm when the header says MNI space, the only slice of a one-slice image, and otherwise
    estimated from the top of the head (`geometry.estimate_level`), with a warning. An alignment transform placed
    before this one hands over an image on the template's grid, and so needs no change here.

    Args:
        keys: keys of oriented images.
        slices: "mid" (the trained level), "all", or indices counted from the lowest axial slice.
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
            indices = self._choose(image)
            affine = torch.as_tensor(image.affine).clone()
            affine[:3, 3] += affine[:3, 2] * indices[0]
            selected = MetaTensor(
                image.as_tensor()[..., indices],
                meta={**image.meta, MetaKeys.AFFINE: affine, "slice_indices": indices},
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

    def _choose(self, image: MetaTensor) -> list[int]:
        """Ascending slice indices; adds a warning to the image where there is something to say."""
        depth, spacing = image.shape[-1], spacing_of(image)
        if depth == 1:
            return [0]
        if not isinstance(self.slices, str):
            indices = sorted({int(i) for i in self.slices})
            if not indices or indices[0] < 0 or indices[-1] >= depth:
                raise PhanesInputError(
                    f"slices {indices} do not exist in '{image.meta.get('filename_or_obj', '')}', "
                    f"which has the axial slices 0 to {depth - 1}."
                )
            return indices
        if self.slices == "all":
            add_warning(image, "slices away from the trained level were analysed")
            return list(range(depth))
        if is_mni(image.affine.numpy(), image.shape[1:], nifti_codes(image)):
            heights = image.affine[2, 3] + image.affine[2, 2] * torch.arange(depth)
            level = int((heights - LEVEL_MM).abs().argmin())
        else:
            level, warning = estimate_level(image[0].numpy(), spacing)
            add_warning(image, warning)
        half = int(self.slab_mm / 2 / spacing[2] + 1e-6)
        return list(range(max(level - half, 0), min(level + half + 1, depth)))


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
        if is_mni(affine, image.shape[1:], nifti_codes(image), in_plane=True):
            target = [*TEMPLATE_CENTRE_XY, affine[2, 3], 1.0]
            centre = tuple(np.linalg.solve(affine, target)[:2])
        elif not spacing_known or is_template_slice(shape, spacing):
            centre = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
        else:
            centre = head_centre(image[0, ..., image.shape[-1] // 2].numpy(), spacing)
        return [round(float(c) - (n - 1) / 2) for c, n in zip(centre, sizes, strict=True)], sizes


class NormalizeSlicesd(MapTransform):
    """Divide each slice by its own 98th percentile and clip to [0, 1], (1, H, W, D) -> same; not undone by `Invertd`.

    The percentile is taken over the middle columns that the training slices fill (197 of 233), so that it does not
    depend on how much air a scan or the padding adds. It is kept as `intensity_scale` (one a slice) in the meta data,
    for `postprocessing.RestoreUnitsd`.

    Args:
        keys: keys of square images.
        percentile: in percent.
        width: share of the columns, in the middle, that the percentile sees.

    Raises:
        PhanesInputError: every slice is blank.
    """

    def __init__(
        self,
        keys: KeysCollection,
        percentile: float = 98.0,
        width: float = 197.0 / 233.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.percentile = percentile
        self.width = width

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image: MetaTensor = d[key]
            scale = slice_scale(image.as_tensor(), self.percentile, self.width)
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


def slice_scale(image: torch.Tensor, percentile: float = 98.0, width: float = 197.0 / 233.0) -> torch.Tensor:
    """Percentile of each slice over its middle columns, (1, H, W, ...) -> (...); the maximum where that is <= 0."""
    columns = round(image.shape[2] * width)
    first = (image.shape[2] - columns) // 2
    values = image[0, :, first : first + columns].flatten(0, 1)
    scale = torch.quantile(values, percentile / 100.0, dim=0)
    return torch.where(scale > 0, scale, image[0].amax(dim=(0, 1)))
