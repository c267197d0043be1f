"""Bring a head to the template's grid, and what was found there back onto the voxels it came from.

Runs between MONAI's `Orientationd(axcodes="PRS")` and `SelectSlicesd`, which then finds the trained level by its
coordinates. What was done is kept in the image's meta data under `alignment`:

- `mni`: registered to MNI152 and resampled onto the template's 1 mm grid;
- `header`: the header says MNI space and the head does lie there: taken as it is, nothing is interpolated;
- `geometric`: no registration, and no MNI header; the level comes from the distance to the vertex, the centre from the
  head's outline;
- `none`: likewise; the grid's middle is the head's;
- `outline`: a single slice that lies on no template's grid: centred and scaled by the brain's outline, which
  `transforms.CutToOutlined` goes by;
- empty: a single slice on a template's grid, which is taken as it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import MetaKeys, TraceKeys
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning, nifti_codes, spacing_of
from .geometry import LEVEL_MM, is_mni, is_template_slice
from .outline import assumed_pixel_mm, brain_outline, into_slice
from .registration import Bounds, Registration, describe, register, similarity_as_it_lies
from .template import GRID_AFFINE, GRID_SHAPE

ALIGNMENTS = ("mni", "geometric", "none")
BLOCK = 32  # planes of voxels that are brought back at a time
MIN_EXTENT_MM = 60.0  # of a scan that can be registered, in each direction; a brain is some 130 mm high


class AlignHeadd(MapTransform, InvertibleTransform):
    """Align a volume to MNI152, (C, H, W, D) on its own grid -> (C, 233, 197, 189) on the template's, or as it is.

    The first channel is what is registered; all are resampled, linearly, with the channel's minimum outside of the
    scan. The inverse puts each voxel's value back where its centre lies in an analysed slice; see `onto_grid`.

    Args:
        keys: keys of oriented images.
        align: "mni", "geometric" or "none", for volumes of several slices. A single slice that lies on a template's
            grid is taken as it is, another goes by its brain's outline (`outline.py`) except with "none".
        similarity: least correlation with the template within the brain; below it a registration has failed.
        sure_similarity: below this one it is taken with a warning.
        header_similarity: the correlation from which on a header that says MNI space is believed without registration.
        scales: least and largest scale, image mm a template mm.
        rotation: largest rotation, degrees.

    A registration that fails becomes `geometric`, with a warning; where the header says MNI space, `header`.

    Raises:
        PhanesInputError: an unknown `align`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        align: str = "mni",
        similarity: float = Bounds.similarity,
        sure_similarity: float = 0.5,
        header_similarity: float = 0.6,
        scales: Sequence[float] = Bounds.scales,
        rotation: float = Bounds.rotation,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if align not in ALIGNMENTS:
            raise PhanesInputError(f"align is '{align}': give {', '.join(ALIGNMENTS[:-1])} or {ALIGNMENTS[-1]}.")
        self.align = align
        self.bounds = Bounds(similarity, (float(scales[0]), float(scales[1])), rotation)
        self.sure_similarity = sure_similarity
        self.header_similarity = header_similarity

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._aligned(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            info = self.pop_transform(d[key])
            extra = info[TraceKeys.EXTRA_INFO]
            if not extra["into_grid"]:
                continue
            image: MetaTensor = d[key]
            values = onto_grid(
                image.as_tensor().numpy(),
                [int(i) for i in image.meta["slice_indices"]],
                np.array(extra["into_grid"]),
                tuple(int(n) for n in info[TraceKeys.ORIG_SIZE]),
                nearest=extra["mode"] == "nearest",
            )
            meta = {**image.meta, MetaKeys.AFFINE: torch.tensor(extra["affine"], dtype=torch.float64)}
            d[key] = MetaTensor(torch.from_numpy(values), meta=meta, applied_operations=image.applied_operations)
        return d

    def _aligned(self, image: MetaTensor) -> MetaTensor:
        if image.shape[-1] == 1:
            return self._single_slice(image)
        volume, affine = image.as_tensor()[0].numpy(), image.affine.numpy().astype(np.float64)
        claims_mni = is_mni(affine, image.shape[1:], nifti_codes(image))
        found, done = None, self.align
        if self.align != "mni":
            done = "header" if claims_mni else self.align
        else:
            done, found = self._choose(image, volume, _settled(affine), claims_mni)
        if done != "mni" or found is None:
            aligned = _as_it_is(image)
            into_grid: list = []
        else:
            aligned, into_grid = self._resampled(image, _settled(affine), found)
        aligned.meta["alignment"] = done
        if found is not None:
            aligned.meta["alignment_similarity"] = found.similarity
            aligned.meta["brain_known"] = found.similarity >= self.bounds.similarity
        return self._recorded(aligned, image, into_grid)

    def _recorded(self, aligned: MetaTensor, image: MetaTensor, into_grid: list) -> MetaTensor:
        """The aligned image, which now knows how to be brought back."""
        extra = {"into_grid": into_grid, "affine": image.affine.tolist(), "mode": "bilinear"}
        self.push_transform(aligned, orig_size=image.shape[1:], extra_info=extra)
        return aligned

    def _single_slice(self, image: MetaTensor) -> MetaTensor:
        affine = image.affine.numpy().astype(np.float64)
        spacing_known = image.meta.get("spacing_known", True)
        spacing, shape = spacing_of(image)[:2], image.shape[1:3]
        in_place = is_mni(affine, image.shape[1:], nifti_codes(image), in_plane=True)
        aligned = _as_it_is(image)
        aligned.meta["alignment"] = ""
        into_grid: list = []
        if self.align != "none" and not in_place and not is_template_slice(shape, spacing):
            pixels = image.as_tensor()[0, ..., 0].numpy()
            if not spacing_known:
                spacing = (assumed_pixel_mm(pixels),) * 2
            outline = brain_outline(pixels, spacing)
            if outline is None:
                add_warning(aligned, "no brain's outline found: taken as it lies")
            else:
                aligned, into_grid = self._outlined(image, outline, spacing)
        return self._recorded(aligned, image, into_grid)

    @staticmethod
    def _outlined(image: MetaTensor, outline: NDArray, spacing: Sequence[float]) -> tuple[MetaTensor, list]:
        """The slice on the template's grid, and its brain's outline there in the meta data."""
        to_square = np.diag([1.0, spacing[1] / spacing[0], 1.0])  # pixels as high as wide
        into = np.linalg.inv(to_square) @ into_slice(apply_affine(to_square, outline))
        affine = GRID_AFFINE.copy()
        affine[2, 3] = LEVEL_MM
        from_grid = np.eye(4)
        from_grid[np.ix_([0, 1], [0, 1, 3])] = into[:2] @ affine[np.ix_([0, 1, 3], [0, 1, 3])]
        shape = (*GRID_SHAPE[:2], 1)
        values = np.stack(
            [
                ndimage.affine_transform(channel, from_grid, output_shape=shape, order=1, cval=channel.min())
                for channel in image.as_tensor().numpy()
            ]
        )
        meta = {**image.meta, MetaKeys.AFFINE: torch.from_numpy(affine), "alignment": "outline"}
        meta |= {
            "outline": apply_affine(np.linalg.inv(into), outline).tolist(),
            "brain_known": True,
            "spacing_known": True,
        }
        # One slice stands for its own thickness, whatever was done in its plane.
        meta |= {"slice_mm": spacing_of(image)[2], "voxel_slices": 1.0}
        aligned = MetaTensor(torch.from_numpy(values), meta=meta, applied_operations=list(image.applied_operations))
        return aligned, np.linalg.inv(from_grid).tolist()

    def _choose(
        self, image: MetaTensor, volume: NDArray, affine: NDArray, claims_mni: bool
    ) -> tuple[str, Registration | None]:
        """What is done for `align: mni`, and the registration it rests on."""
        as_it_lies = describe(np.eye(4), similarity_as_it_lies(volume, affine)) if claims_mni else None
        if as_it_lies is not None and as_it_lies.similarity >= self.header_similarity:
            return "header", as_it_lies
        extent = float((np.array(image.shape[1:]) * voxel_sizes(affine)).min())
        if extent < MIN_EXTENT_MM:
            objection, found = f"the scan covers only {extent:.0f} mm", None
        else:
            found = register(volume, affine)
            objection = self.bounds.objection(found)
        if as_it_lies is not None and (found is None or objection or found.similarity <= as_it_lies.similarity):
            add_warning(image, f"the header says MNI space, but the similarity is only {as_it_lies.similarity:.2f}")
            return "header", as_it_lies
        if objection or found is None:
            add_warning(image, f"not registered to MNI152 ({objection})")
            return "geometric", None
        if as_it_lies is not None:
            add_warning(image, "registered although the header says MNI space: the brain does not fill the template's")
        if found.similarity < self.sure_similarity:
            add_warning(image, f"similarity to the template only {found.similarity:.2f}: check the level")
        return "mni", found

    @staticmethod
    def _resampled(image: MetaTensor, affine: NDArray, found: Registration) -> tuple[MetaTensor, list]:
        from_grid = np.linalg.inv(affine) @ found.matrix @ GRID_AFFINE
        values = np.stack(
            [
                ndimage.affine_transform(channel, from_grid, output_shape=GRID_SHAPE, order=1, cval=channel.min())
                for channel in image.as_tensor().numpy()
            ]
        )
        meta = {**image.meta, MetaKeys.AFFINE: torch.from_numpy(GRID_AFFINE.copy())}
        # Where the middle axis of the template passes through the scan: slice = first + step * template slice.
        row, column = (GRID_SHAPE[0] - 1) / 2, (GRID_SHAPE[1] - 1) / 2
        meta["slice_of_level"] = [float(from_grid[2] @ [row, column, 0, 1]), float(from_grid[2, 2])]
        meta["native_depth"] = int(image.shape[-1])
        into_grid = np.linalg.inv(from_grid)
        per_mm = float(np.linalg.norm(into_grid[2, :3] @ np.linalg.inv(affine[:3, :3])))  # slices a mm of the scan
        meta["slice_mm"], meta["voxel_slices"] = 1.0 / per_mm, _slices_of_a_voxel(into_grid)
        aligned = MetaTensor(torch.from_numpy(values), meta=meta, applied_operations=list(image.applied_operations))
        return aligned, into_grid.tolist()


def _as_it_is(image: MetaTensor) -> MetaTensor:
    """The same voxels with meta data of their own."""
    return MetaTensor(image, meta=dict(image.meta), applied_operations=list(image.applied_operations))


def _settled(affine: NDArray) -> NDArray:
    """A (4, 4) affine without the last bits, in which storage orders of one scan differ; off by 0.005 mm at most."""
    settled = np.round(affine, 5)
    settled[:3, 3] = np.round(affine[:3, 3], 2)
    return settled


def analysed_thickness(image: MetaTensor) -> float:
    """mm of the scan that the analysed slices of a preprocessed image stand for: at least the thickness of a voxel."""
    slices = [int(i) for i in image.meta["slice_indices"]]
    if "slice_mm" not in image.meta:
        return len(slices) * float(np.linalg.norm(np.asarray(image.affine)[:3, 2]))
    voxel, slice_mm = float(image.meta["voxel_slices"]), float(image.meta["slice_mm"])
    return slice_mm * sum(max(float(len(slab)), voxel) for slab in _slabs(slices))


def _slices_of_a_voxel(into_grid: NDArray) -> float:
    """How many slices a voxel of another grid crosses, along its axis that crosses them most steeply."""
    return float(np.abs(into_grid[2, :3]).max())


def _slabs(slices: Sequence[int]) -> list[NDArray]:
    """Ascending slices as runs of neighbours."""
    return np.split(np.asarray(slices), np.flatnonzero(np.diff(slices) > 1) + 1)


def onto_grid(
    values: NDArray, slices: Sequence[int], into_grid: NDArray, shape: tuple[int, ...], nearest: bool = False
) -> NDArray:
    """Values of analysed slices on another grid; 0 where that grid's voxels do not lie in one of these slices.

    A voxel belongs to a slab of n neighbouring slices when its centre lies within n / 2 slices of the slab's middle; to
    one thinner than a voxel, when the slab's middle is nearer to this voxel than to the next one along the axis that
    crosses slices most steeply. So a slab keeps its thickness, and is neither torn nor doubled, however it is tilted.
    Its value is that of the nearest slice.

    Args:
        values: (C, H, W, D); only `slices` of it are read.
        slices: ascending indices along D.
        into_grid: (4, 4), voxel of the other grid -> voxel of `values`.
        shape: the other grid's three voxel counts.
        nearest: in-plane nearest neighbour instead of bilinear interpolation.

    Returns:
        (C, *shape), float32.
    """
    found = np.zeros((values.shape[0], *shape), dtype=np.float32)
    chosen = np.asarray(slices)
    middles = (chosen[1:] + chosen[:-1]) / 2
    slabs = _slabs(slices)
    middle = np.repeat([(slab[0] + slab[-1]) / 2 for slab in slabs], [len(slab) for slab in slabs])
    voxel = _slices_of_a_voxel(into_grid)
    half = np.repeat([max(len(slab), voxel) / 2 for slab in slabs], [len(slab) for slab in slabs])
    height, width = values.shape[1:3]
    for first in range(0, shape[0], BLOCK):  # bounds the memory
        block = found[:, first : first + BLOCK]
        i, j, k = np.ogrid[first : first + block.shape[1], 0 : shape[1], 0 : shape[2]]
        level = into_grid[2, 0] * i + into_grid[2, 1] * j + into_grid[2, 2] * k + into_grid[2, 3]
        level = np.round(level, 6)  # the rim of a slice lies on one side, whatever the rounding
        own = np.searchsorted(middles, level, side="right")  # the nearest of the chosen slices
        offset = level - middle[own]
        where = np.nonzero((offset >= -half[own]) & (offset < half[own]))
        voxels = np.stack([where[0] + first, *where[1:], np.ones(where[0].size)])
        row, column = into_grid[:2] @ voxels
        inside = (row >= -0.5) & (row < height - 0.5) & (column >= -0.5) & (column < width - 0.5)
        where = tuple(axis[inside] for axis in where)
        points = np.stack([row[inside], column[inside]])
        of_slice = own[where]
        for n in np.unique(of_slice):
            here = of_slice == n
            target = tuple(axis[here] for axis in where)
            for channel in range(values.shape[0]):
                block[channel][target] = ndimage.map_coordinates(
                    values[channel, ..., chosen[n]], points[:, here], order=0 if nearest else 1, mode="nearest"
                )
    return found
