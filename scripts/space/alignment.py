"""Where a head lies in MNI space: registration of volumes, placing of single slices. Nothing is resampled here.

The image's meta data get `placing`, (4, 4), world of the scan -> MNI152 world, mm (RAS+), and `alignment`, how it was
found:

- `mni`: registered to MNI152;
- `header`: the header says MNI space, and the head lies there;
- `outline`: a single slice on no template's grid. The brain's outline centres and scales it; from there it is fitted to
  the template's levels;
- `slice`: a single slice that lies on a template's grid already.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning, nifti_codes, ras_affine, spacing_of
from .geometry import LEVEL_MM, TEMPLATE_CENTRE_XY, head_centre, is_mni, is_template_slice
from .intensities import from_air, refuse_labels
from .levels import LEVELS_MM
from .outline import assumed_pixel_mm, brain_outline, into_slice
from .registration import Bounds, Registration, describe, register, similarity_as_it_lies
from .resampling import settled
from .single_slice import place_slice

MIN_EXTENT_MM = 60.0  # of a scan that can be registered, in each direction; a brain is some 130 mm high
SURE_SIMILARITY = 0.45  # below it a registration is taken with a warning; 20 healthy heads reach 0.66 to 0.76, eight
# with tumours 0.48 to 0.81, wrong places up to 0.42
RIM_MM = 3.0  # around the outline; a skull is 7 mm thick
HEADER_SIMILARITY = 0.65  # from which on a header that says MNI space is believed without registration


class AlignHeadd(MapTransform):
    """Find where an oriented image (1, H, W, D) lies in MNI space. Its voxels stay as they are.

    Sets `placing` and `alignment` in the meta data. Volumes also get `alignment_similarity`, the correlation with the
    template within the brain. Single slices that were placed by it get `outline`, the brain's in MNI x and y, mm.

    Args:
        keys: keys of images that went through `Orientationd(axcodes="PRS")`.

    Raises:
        PhanesInputError: a volume cannot be registered, or is a segmentation.
    """

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = MetaTensor(d[key], meta=dict(d[key].meta))
            if image.shape[-1] == 1:
                _place_slice(image)
            else:
                _place_volume(image)
            d[key] = image
        return d


def _place_volume(image: MetaTensor) -> None:
    volume, affine = image.as_tensor()[0].numpy(), settled(ras_affine(image))
    refuse_labels(volume, str(image.meta.get("filename_or_obj", "the image")))
    volume, _ = from_air(volume)
    as_it_lies = None
    if is_mni(ras_affine(image), image.shape[1:], nifti_codes(image)):
        as_it_lies = describe(np.eye(4), similarity_as_it_lies(volume, affine))
    if as_it_lies is not None and as_it_lies.similarity >= HEADER_SIMILARITY:
        _note(image, "header", as_it_lies)
        return
    found, objection = _registered(volume, affine)
    if as_it_lies is not None and (found is None or objection or found.similarity <= as_it_lies.similarity):
        add_warning(
            image,
            f"the header says MNI space, but the similarity is only {as_it_lies.similarity:.2f}: "
            "check where the findings lie",
        )
        _note(image, "header", as_it_lies)
        return
    if found is None or objection:
        raise PhanesInputError(
            f"'{image.meta.get('filename_or_obj', 'the image')}' cannot be registered to MNI152 ({objection}); give a "
            "T1w scan of a whole head, or a single slice."
        )
    if as_it_lies is not None:
        add_warning(image, "registered although the header says MNI space: the brain does not fill the template's")
    if found.similarity < SURE_SIMILARITY:
        add_warning(image, f"similarity to the template only {found.similarity:.2f}: check where the findings lie")
    _note(image, "mni", found)


def _registered(volume: NDArray, affine: NDArray) -> tuple[Registration | None, str]:
    """The registration, and what speaks against it; "" for nothing."""
    extent = float((np.array(volume.shape) * voxel_sizes(affine)).min())
    if extent < MIN_EXTENT_MM:
        return None, f"it covers only {extent:.0f} mm of the head"
    found = register(volume, affine)
    return found, Bounds().objection(found)


def _note(image: MetaTensor, how: str, found: Registration) -> None:
    image.meta["alignment"] = how
    image.meta["alignment_similarity"] = found.similarity
    image.meta["placing"] = np.linalg.inv(found.matrix)


def _place_slice(image: MetaTensor) -> None:
    affine = ras_affine(image)
    spacing, shape = spacing_of(image), image.shape[1:3]
    image.meta["alignment"] = "slice"
    if is_mni(affine, image.shape[1:], nifti_codes(image), in_plane=True):
        height = float(affine[2, 3])
        into_mni = affine.copy()
        into_mni[2, 3] = height if LEVELS_MM[0] <= height <= LEVELS_MM[-1] else LEVEL_MM
    elif is_template_slice(shape, spacing[:2]):
        into_mni = _centred(((shape[0] - 1) / 2, (shape[1] - 1) / 2), spacing)
    else:
        into_mni = _by_outline(image, spacing)
    image.meta["placing"] = into_mni @ np.linalg.inv(affine)


def _by_outline(image: MetaTensor, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """`into_mni` of a slice from an unknown place, which gets an `outline` where its brain shows one."""
    pixels = from_air(image.as_tensor()[0].numpy())[0][..., 0]
    mm = spacing[:2] if image.meta.get("spacing_known", True) else (assumed_pixel_mm(pixels),) * 2
    outline = brain_outline(pixels, mm)
    if outline is None:
        add_warning(image, "no outline of a brain was found: the slice is analysed as it lies")
        return _centred(head_centre(pixels, mm), (*mm, spacing[2]))
    to_square = np.diag([1.0, mm[1] / mm[0], 1.0])  # pixels as high as wide
    from_plane = np.linalg.inv(to_square) @ into_slice(apply_affine(to_square, outline))
    into_plane = np.linalg.inv(from_plane)  # (row, column, 1) -> (x, y, 1)
    image.meta["alignment"] = "outline"
    image.meta["outline"] = apply_affine(into_plane, outline)
    into_mni = np.diag([1.0, 1.0, spacing[2], 1.0])
    into_mni[np.ix_([0, 1], [0, 1, 3])] = into_plane[:2]
    into_mni[2, 3] = LEVEL_MM
    beside = ndimage.distance_transform_edt(~polygon2mask(pixels.shape, outline), sampling=mm)
    brain = np.where(beside <= RIM_MM, pixels, 0.0)  # scalp would pass for the rim of a larger brain
    placed = place_slice(brain, mm, [into_mni, _centred(head_centre(pixels, mm), (*mm, spacing[2]))])
    if placed is not None and placed[1] >= Bounds.similarity:
        into_mni, image.meta["alignment_similarity"] = placed
        into_plane = into_mni[np.ix_([0, 1, 3], [0, 1, 3])]
        image.meta["outline"] = apply_affine(into_plane, outline)
    return into_mni


def _centred(centre: tuple[float, float], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """`into_mni` of a slice at the paper's level whose pixel `centre` lies in the middle of the field of view."""
    return np.array(
        [
            [0.0, spacing[1], 0.0, TEMPLATE_CENTRE_XY[0] - spacing[1] * centre[1]],
            [-spacing[0], 0.0, 0.0, TEMPLATE_CENTRE_XY[1] + spacing[0] * centre[0]],
            [0.0, 0.0, spacing[2], LEVEL_MM],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def brain_outline_of(image: MetaTensor) -> NDArray | None:
    """The outline (N, 2), MNI x and y in mm, of a slice that was placed by it."""
    outline = image.meta.get("outline")
    return None if outline is None else torch.as_tensor(outline).numpy().reshape(-1, 2)
