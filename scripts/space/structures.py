"""Which structure of the brain a place in MNI space belongs to: an atlas on the grid of the levels.

The atlas holds the structure that most of 20 heads have at a place after affine registration. It is as coarse as that:
right about structures, but not about their rims. Left and right are mirror images. Numbers are FreeSurfer's.
Source of the 20 label maps: SynthSeg (Billot et al. 2023), Apache-2.0.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from ..common.errors import PhanesInputError
from .levels import GRID, level_affine
from .registration import Bounds, register

FILE = Path(__file__).with_name("structures.nii.gz")
# Structure: its numbers on the left, on the right (the same where there is one for both sides), and its brightness in a
# T1w image. Parts that are smaller than a registration's error go with what they lie in.
STRUCTURES: dict[str, tuple[tuple[int, ...], tuple[int, ...], float]] = {
    "cerebral white matter": ((2, 77, 78), (41, 79), 1.0),
    "cerebral cortex": ((3,), (42,), 0.65),
    "lateral ventricle": ((4, 5, 30, 31), (43, 44, 62, 63), 0.15),
    "cerebellar white matter": ((7,), (46,), 0.95),
    "cerebellar cortex": ((8,), (47,), 0.65),
    "thalamus": ((10,), (49,), 0.8),
    "caudate nucleus": ((11,), (50,), 0.7),
    "putamen": ((12,), (51,), 0.75),
    "pallidum": ((13,), (52,), 0.85),
    "hippocampus": ((17,), (53,), 0.65),
    "amygdala": ((18,), (54,), 0.65),
    "nucleus accumbens": ((26,), (58,), 0.7),
    "ventral diencephalon": ((28,), (60,), 0.85),
    "brainstem": ((16,), (16,), 0.9),
    "third ventricle": ((14,), (14,), 0.15),
    "fourth ventricle": ((15,), (15,), 0.15),
    "subarachnoid space": ((24,), (24,), 0.15),
}
LEAST_SHARE = 0.01  # of a finding; less is not told


class Share(NamedTuple):
    """How much of a finding lies in a structure.

    Attributes:
        structure: a name of `STRUCTURES`.
        side: left or right; "" for a structure with one part, and where the sides are not known.
        share: of the finding's voxels, 0 to 1.
    """

    structure: str
    side: str
    share: float

    def __str__(self) -> str:
        return f"{self.name} {100 * self.share:.0f} %"

    @property
    def name(self) -> str:
        """The structure with its side, "left thalamus"."""
        return f"{self.side} {self.structure}".strip()


@lru_cache(maxsize=1)
def read_structures() -> NDArray[np.uint8]:
    """The atlas on `levels.GRID`, (H, W, D): a structure's first number in `STRUCTURES`, 0 for none."""
    image: Any = nib.load(FILE)
    atlas = np.asarray(image.dataobj, dtype=np.uint8)
    atlas.setflags(write=False)  # it is shared
    return atlas


def shares(
    labels: NDArray[np.integer], count: int, into_mni: NDArray, *, sides_known: bool = True
) -> list[tuple[Share, ...]]:
    """The structures that each region lies in, the largest share first.

    Args:
        labels: (X, Y, Z), the regions' numbers from 1 to `count`.
        count: of the regions.
        into_mni: (4, 4), voxel -> MNI152 world, mm.
        sides_known: False joins left and right.
    """
    atlas, numbers = read_structures(), np.zeros((count + 1, 256), dtype=int)
    voxels = np.argwhere(labels > 0)
    places = np.round(apply_affine(np.linalg.inv(level_affine()) @ into_mni, voxels)).astype(int)
    inside = ((places >= 0) & (places < GRID)).all(axis=1)
    structure = np.zeros(len(voxels), dtype=int)
    structure[inside] = atlas[tuple(places[inside].T)]
    region = labels[tuple(voxels.T)]
    np.add.at(numbers, (region, structure), 1)
    sizes = np.bincount(region, minlength=count + 1)
    return [_sorted(numbers[n] / max(sizes[n], 1), sides_known) for n in range(1, count + 1)]


def _sorted(share_of: NDArray[np.float64], sides_known: bool) -> tuple[Share, ...]:
    found = []
    for name, (left, right, _) in STRUCTURES.items():
        parts = [("", left[0])] if left == right else [("left", left[0]), ("right", right[0])]
        if sides_known or left == right:
            found += [Share(name, side, float(share_of[number])) for side, number in parts]
        else:
            found.append(Share(name, "", float(sum(share_of[number] for _, number in parts))))
    return tuple(sorted((one for one in found if one.share >= LEAST_SHARE), key=lambda one: -one.share))


def votes(values: NDArray[np.integer], affine: NDArray) -> NDArray[np.float32]:
    """A label map on the levels after its registration, (S, H, W, D): a share for each number of the atlas.

    For the registration a T1w image without skull is made of the labels.

    Args:
        values: (X, Y, Z), FreeSurfer's numbers.
        affine: (4, 4), voxel -> world (RAS, mm).

    Raises:
        PhanesInputError: the head cannot be registered. The path is left out.
    """
    bright = np.zeros(values.shape, dtype=np.float32)
    for left, right, brightness in STRUCTURES.values():
        bright[np.isin(values, left + right)] = brightness
    found = register(bright, affine)
    if objection := Bounds().objection(found):
        raise PhanesInputError(f"cannot be registered to MNI152 ({objection}); leave it out")
    from_mni = np.linalg.inv(affine) @ found.matrix @ level_affine()
    return np.stack(
        [
            ndimage.affine_transform(np.isin(values, one).astype(np.float32), from_mni, output_shape=GRID, order=1)
            for one in numbers_of_atlas()
        ]
    )


def numbers_of_atlas() -> list[tuple[int, ...]]:
    """The label maps' numbers for each number of the atlas, which is the first of them."""
    return list(dict.fromkeys(side for left, right, _ in STRUCTURES.values() for side in (left, right)))


def joined(mean: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The atlas (H, W, D) from the mean votes of heads and its mirror image. It is empty where most heads are."""
    numbers = numbers_of_atlas()
    other = {one: two for left, right, _ in STRUCTURES.values() for one, two in ((left, right), (right, left))}
    mirror = [numbers.index(other[one]) for one in numbers]
    mean = (mean + mean[mirror, :, ::-1]) / 2  # the levels' columns lie symmetrically about the midline
    nothing = 1.0 - mean.sum(axis=0)
    best = mean.argmax(axis=0)
    atlas = np.array([one[0] for one in numbers], dtype=np.uint8)[best]
    return np.where(mean.max(axis=0) > nothing, atlas, 0).astype(np.uint8)


def write_structures(labels: str, out: str = str(FILE)) -> Path:
    """Make the atlas of structures from label maps of heads.

    Args:
        labels: folder of label maps with FreeSurfer's numbers (NIfTI).
        out: file to write.

    Raises:
        PhanesInputError: there is no label map, or one cannot be registered.
    """
    files = sorted(Path(labels).glob("*.nii*"))
    if not files:
        raise PhanesInputError(f"'{labels}' holds no NIfTI file: give the folder of label maps.")
    total = np.zeros((len(numbers_of_atlas()), *GRID), dtype=np.float32)
    for file in files:
        image: Any = nib.load(file)
        try:
            total += votes(np.asarray(image.dataobj), np.asarray(image.affine))
        except PhanesInputError as error:
            raise PhanesInputError(f"'{file}' {error}.") from error
    path = Path(out)
    atlas = nib.Nifti1Image(joined(total / len(files)), level_affine())
    atlas.header["descrip"] = b"structures, from SynthSeg's label maps, Apache-2.0"
    nib.save(atlas, path)
    return path


if __name__ == "__main__":
    import fire

    fire.Fire(write_structures)
