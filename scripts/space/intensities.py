"""What a scan's numbers mean, whatever they are counted from: its padding, its air, and whether they are intensities.

Nothing here looks at a header: what says so there is read by `dicom.read`.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..common.errors import PhanesInputError

AIR_PERCENTILE = 0.5  # of a scan's voxels; its least value without ringing. 0 in all raw heads that were tried
PADDED = 0.005  # least share of the voxels that padding fills
GAP = 0.5  # between padding and the image, in units of the image's range
NEXT = 0.01  # of the whole range: a nearer value is the next one
FILLED, BELOW_SHARE, BELOW = 0.2, 0.005, 0.02  # what fills the surroundings in the middle of the range: share of it,
# and share of what lies below it by so much of the range
LABELS = 12  # so many values at most are a segmentation's
FLAT, FLAT_SLICE = 0.15, 0.4  # share of a volume's and a slice's tissue that equals all its neighbours; in T1w images
# up to 0.03, in label maps from 0.25 and from 0.5


def from_air(volume: NDArray) -> tuple[NDArray[np.float32], float]:
    """A scan counted from its air, which becomes about 0; padding becomes 0. The same plus a constant is the same.

    Args:
        volume: (X, Y, Z), any storage order and unit.

    Returns:
        The scan, and what was subtracted.
    """
    values = np.asarray(volume, dtype=np.float32)
    padding = padding_of(values)
    if not padding.any():
        air = float(np.percentile(values, AIR_PERCENTILE))
        return (values if air == 0.0 else values - np.float32(air)), air
    air = float(np.percentile(values[~padding], AIR_PERCENTILE))
    return np.where(padding, np.float32(0.0), values - np.float32(air)), air


def padding_of(volume: NDArray) -> NDArray[np.bool_]:
    """Where a scan holds a value that means "nothing here", (X, Y, Z).

    That is: an extreme that many voxels share, far from all others; a negative one where nothing else is negative; or
    what fills the surroundings to the last corner while parts of the scan lie below it. A least value of 0 never is.
    """
    padding = np.zeros(volume.shape, dtype=bool)
    for end in (np.min, np.max):
        here = volume == end(volume)
        if here.mean() >= PADDED:
            padding |= here & _is_apart(volume, here, ~(here | padding))
    corner = float(volume[0, 0, 0])
    if corner > volume.min() and all(float(volume[where]) == corner for where in product((0, -1), repeat=3)):
        here = (volume == corner) & ~padding
        others = volume[~(padding | here)]
        if here.mean() >= FILLED and others.size:
            low = corner - BELOW * float(np.ptp(others))
            if (others < low).sum() >= BELOW_SHARE * volume.size:
                pieces, _ = ndimage.label(here)
                padding |= np.isin(pieces, [pieces[where] for where in product((0, -1), repeat=3)])
    return padding


def _is_apart(volume: NDArray, here: NDArray[np.bool_], rest: NDArray[np.bool_]) -> bool:
    """An extreme that voxels hold `here` is none of the `rest`'s values."""
    if not rest.any():
        return False
    value = float(volume[here][0])
    low, largest = float(np.min(volume, where=rest, initial=np.inf)), float(np.max(volume, where=rest, initial=-np.inf))
    gap = low - value if value < low else value - largest
    if value < 0.0 <= low:
        return True
    if value == 0.0 < low or gap < NEXT * (largest - low):
        return False
    return gap > GAP * (float(np.percentile(volume[rest], 99.9)) - low)


def refuse_labels(volume: NDArray, name: str) -> None:
    """Refuse what holds regions of one value each: a segmentation, a mask.

    Args:
        volume: (X, Y, Z), any storage order.
        name: of the image, for the sentence.

    Raises:
        PhanesInputError: it does.
    """
    middle = volume[tuple(slice(n // 5, n - n // 5) for n in volume.shape)]
    inner = tuple(slice(1, -1) if n > 2 else slice(None) for n in middle.shape)
    flat = np.ones(middle[inner].shape, dtype=bool)
    for axis in (axis for axis, n in enumerate(middle.shape) if n > 2):
        same = np.diff(middle, axis=axis) == 0
        ends = (slice(None, -1), slice(1, None))
        for end in ends:
            flat &= same[tuple(end if a == axis else inner[a] for a in range(3))]
    tissue = middle[inner] != volume[0, 0, 0]
    unsaturated = tissue & (middle[inner] < middle.max())
    if unsaturated.sum() > 0.05 * tissue.sum():
        tissue = unsaturated
    few = 1 < len(np.unique(middle[::2, ::2, ::2])) <= LABELS
    if few or (tissue.any() and flat[tissue].mean() > (FLAT if min(volume.shape) > 2 else FLAT_SLICE)):
        raise PhanesInputError(
            f"'{name}' holds regions of one value each, as a segmentation or a mask does; give the T1w image."
        )
