"""What a scan's numbers mean: its padding, its air, and whether they are intensities at all.

The air of most scans is dark. In quotients of two images, such as MP2RAGE's, it is noise as bright as tissue.

Headers are not looked at here. `dicom.read` reads what they say of padding.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold

from ..common.errors import PhanesInputError

AIR_PERCENTILE = 0.5  # of a scan's voxels; its least value without ringing. 0 in all raw heads that were tried
PADDED, VALUES = 0.005, 3  # least share of the voxels that a padding value fills; and so many values at each end
GAP = 0.5  # between padding and the image, in units of the image's range
NEXT = 0.01  # of the whole range: a nearer value is the next one
FILLED, BELOW_SHARE, BELOW = 0.2, 0.005, 0.02  # what fills the surroundings in the middle of the range: share of it,
# and share of what lies below it by so much of the range
CORNER = 0.08  # of each side: the blocks in which noise is looked for
NOISY, WHITE = 0.12, 0.8  # least standard deviation there, of the scan's range (other scans: at most 0.05); and least
# independence of neighbours: 1 in noise, about 0.5 in tissue
STEEP = 0.5  # of the noise's standard deviation: a larger step between neighbours is noise or an edge
ROUGH = (0.5, 0.6)  # share of steep steps around a voxel of noise, and somewhere in each piece of it; of such noise 0.7
LABELS = 12  # so many values at most are a segmentation's
FLAT, FLAT_SLICE = 0.15, 0.4  # share of a volume's and a slice's tissue that equals all its neighbours; in T1w images
# up to 0.03, in label maps from 0.25 and from 0.5


def from_air(volume: NDArray) -> tuple[NDArray[np.float32], float]:
    """A scan counted from its air: air becomes about 0, even if it is noise, and padding 0.

    A constant added to the scan changes nothing.

    Args:
        volume: (X, Y, Z), any storage order and unit.

    Returns:
        The scan, and what was subtracted.
    """
    values = np.asarray(volume, dtype=np.float32)
    padding, noise = padding_of(values), noise_of(values)
    air = float(np.percentile(values[~padding] if padding.any() else values, AIR_PERCENTILE))
    if not (air or padding.any() or noise.any()):
        return values, air
    return np.where(padding | noise, np.float32(0.0), values - np.float32(air)), air


def padding_of(volume: NDArray) -> NDArray[np.bool_]:
    """Where a scan holds a value that means "nothing here", (X, Y, Z).

    Such values are extremes that many voxels share, far from all others. Or one is negative where nothing else is. Or
    it fills the surroundings to the last corner, while parts of the scan lie below it. A least value of 0 is none.
    """
    padding = np.zeros(volume.shape, dtype=bool)
    for end in (np.min, np.max):
        found, here, rest = padding, padding, ~padding
        for _ in range(VALUES):  # the outermost value, then the next one
            shared = rest & (volume == end(volume[rest])) if rest.any() else rest
            if shared.mean() < PADDED:
                break
            here, rest = here | shared, rest & ~shared
            if _is_apart(volume, shared, rest):
                found = here
        padding = found
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
    """Whether the extreme value `here` lies apart from the values of the `rest`."""
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


def noise_of(volume: NDArray) -> NDArray[np.bool_]:
    """Where a scan's air is noise as bright as tissue, (X, Y, Z); nowhere when the corners do not show such noise.

    From voxel to voxel noise changes more often, and more, than any tissue.
    """
    axes = [axis for axis, n in enumerate(volume.shape) if n > 2]
    sides = [max(2, int(CORNER * n)) for n in volume.shape]
    seen: list[tuple[float, float]] = []
    for ends in product((False, True), repeat=3):
        block = volume[tuple(slice(-n, None) if end else slice(n) for n, end in zip(sides, ends, strict=True))]
        variance = float(block.var())
        steps = [float((np.diff(block, axis=axis) ** 2).mean()) / 2 for axis in axes]
        seen.append((variance**0.5, float(np.mean(steps)) / variance if variance and steps else 0.0))
    deviation, white = np.median(seen, axis=0)
    low, high = np.percentile(volume[::2, ::2, ::2], (1, 99))
    rough = np.zeros(volume.shape, dtype=np.float32)
    if white < WHITE or deviation < NOISY * (high - low):
        return rough > 0
    for axis in axes:
        steep = (np.abs(np.diff(volume, axis=axis)) > STEEP * deviation).astype(np.float32) / 2
        for side in ((0, 1), (1, 0)):
            rough += np.pad(steep, [side if a == axis else (0, 0) for a in range(3)], mode="edge")
    window = [3 if axis in axes else 1 for axis in range(3)]
    return apply_hysteresis_threshold(ndimage.uniform_filter(rough / len(axes), window), *ROUGH)


def refuse_labels(volume: NDArray, name: str) -> None:
    """Refuse an image with regions of one value each: a segmentation or a mask.

    Args:
        volume: (X, Y, Z), any storage order.
        name: of the image, for the sentence.

    Raises:
        PhanesInputError: the image is one.
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
