"""Is an image a T1w head, the right way up? It is compared with the template where it was placed; no network is asked.

Four numbers over the brain decide: how like the template the image is, how like the template upside down, how much
brighter white matter is than grey, and how much is black. In T2w, FLAIR and proton density images white matter is
darker; in CT they are equal; a map of one tissue is black elsewhere. The numbers are no findings: another scanner's
contrast moves them as much as a large lesion does.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning
from ..space.levels import PIXEL_MM, nearest_level
from ..space.resampling import onto_levels
from ..space.template import BRAIN_CUT, read_template

# Chosen on 34 heads of nine scanners or more (docs/alignment.md). Least likeness of a head and of a slice; contrast.
LIKENESS = {True: 0.3, False: 0.15}
CONTRAST = (0.02, 0.6)
BLACK, MOST_BLACK = (
    0.05,
    0.1,
)  # of the brightest tenth; and the largest share of a brain below (up to 0.03 in those heads)
WHITE, GREY = 0.8, (0.5, 0.66)  # the template's brightness there; pure white matter is 0.88
GREY_PERCENTILE = 65  # of the brightness there: half of these pixels hold fluid too
MIN_TISSUE_MM2 = 300.0  # of each in an image that is judged
SMOOTHING = 1.0  # pixels and levels


class Look(NamedTuple):
    """What an image shows where the template's brain lies.

    Attributes:
        likeness: correlation with the template.
        upside_down: correlation with the template turned upside down, anterior to posterior.
        contrast: of white and grey matter: their difference, in units of the white.
        black: share of the brain as dark as air.
    """

    likeness: float
    upside_down: float
    contrast: float
    black: float


@lru_cache(maxsize=1)
def template_levels() -> NDArray[np.float32]:
    """The template on the whole grid of levels, (H, W, D), 0 to 1."""
    template, affine = read_template()
    return onto_levels(template.astype(np.float32), affine) / np.float32(255)


def look_at(image: NDArray, brain: NDArray[np.bool_], heights: Sequence[float]) -> Look | None:
    """What levels show, (H, W, D) each. None where too little tissue is in sight.

    Args:
        image: any unit, counted from its air.
        brain: what of it is brain.
        heights: MNI z of the levels, mm.
    """
    template = template_levels()[..., [nearest_level(height) for height in heights]]
    smooth = gaussian_filter(
        np.asarray(image, dtype=np.float32), (SMOOTHING, SMOOTHING, SMOOTHING * (image.shape[2] > 1))
    )
    inside = brain & (template > BRAIN_CUT / 255)
    white, grey = inside & (template > WHITE), inside & (template > GREY[0]) & (template < GREY[1])
    if min(white.sum(), grey.sum()) * PIXEL_MM**2 < MIN_TISSUE_MM2:
        return None
    turned = template[::-1]
    both = brain & (turned > BRAIN_CUT / 255)
    light, dark = float(np.median(smooth[white])), float(np.percentile(smooth[grey], GREY_PERCENTILE))
    return Look(
        _correlation(smooth[inside], template[inside]),
        _correlation(smooth[both], turned[both]),
        (light - dark) / light if light > 0 else -1.0,
        float((image[inside] < BLACK * np.percentile(image[inside], 90)).mean()),
    )


def _correlation(a: NDArray, b: NDArray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() > 0 and b.std() > 0 else 0.0


def objection(look: Look, whole: bool) -> str:
    """Why this is no T1w head (`whole`) or slice; "" when nothing speaks against it."""
    if look.contrast < CONTRAST[0]:
        return "white matter is not brighter than grey matter: T2w, FLAIR, CT or another kind of image?"
    if look.contrast > CONTRAST[1]:
        return "grey matter is far darker than white matter: a map of white matter?"
    if look.likeness <= look.upside_down:
        return "it is more like a head upside down"
    if look.black > MOST_BLACK:
        return "much of the brain is black: a map of one tissue?"
    if look.likeness < LIKENESS[whole]:
        return f"its likeness to the template is {look.likeness:.2f}, at least {LIKENESS[whole]:g} is usual"
    return ""


class GuardLevelsd(Transform):
    """Warn of (or refuse) an image that is no T1w head.

    It runs on the network's grid, (1, H, W, D). It sets `guard` to "ok", "no T1w head" or "not judged" (too little
    brain), and `contrast` to that of white and grey matter, None where it was not judged.

    Args:
        strict: refuse instead of warning.
        ref_key: key of the preprocessed input.

    Raises:
        PhanesInputError: with `strict`, when the image is no T1w head.
    """

    def __init__(self, strict: bool = False, ref_key: str = "image") -> None:
        self.strict = strict
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image = d[self.ref_key]
        levels = torch.as_tensor(image).detach().cpu()[0].float().numpy()
        brain = torch.as_tensor(d["analysed"]).cpu()[0].bool().numpy()
        look = look_at(levels, brain, [float(height) for height in image.meta["heights"]])
        d["guard"], d["contrast"] = "not judged", None
        if look is None:
            return d
        reason = objection(look, bool(image.meta["whole"]))
        d["guard"], d["contrast"] = ("no T1w head" if reason else "ok"), look.contrast
        if reason:
            if self.strict:
                name = image.meta.get("filename_or_obj", "the image")
                raise PhanesInputError(
                    f"'{name}' does not look like a T1w head ({reason}); look at it, or leave --strict out."
                )
            add_warning(image, f"does not look like a T1w head ({reason})")
        return d
