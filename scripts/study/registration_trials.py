"""How well the registration finds its level again: heads moved by known affine maps, and the level undone.

The level of the head as it lies is the reference (its own registration; the identity for a head in MNI space). A moved
head is registered; with the movement undone its plane should be the reference's.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.measure import block_reduce
from tqdm import tqdm

from ..common.errors import PhanesInputError
from ..space.geometry import LEVEL_MM, TEMPLATE_CENTRE_XY
from ..space.registration import Bounds, register
from .evaluation.tables import show

MAX_LEVEL_MM, MAX_DEGREES = 2.0, 2.0
MARGIN_MM = 45.0  # air added around the head, so that moving it cuts nothing off


@dataclass(frozen=True)
class Trial:
    """A movement, and what the registration made of the moved head.

    Attributes:
        head, seed: which head, and the seed of its movement.
        rotation: degrees, about an axis of any direction.
        shift: mm, in any direction.
        scales: along x, y and z, separated by spaces.
        level_error: mm of the template between the level found and the reference, in the middle of the slice.
        angle_error: degrees between the two planes.
        similarity: of the registration.
        objection: why the registration was refused; "" when it was taken.
        seconds: of the registration.
    """

    head: str
    seed: int
    rotation: float
    shift: float
    scales: str
    level_error: float
    angle_error: float
    similarity: float
    objection: str
    seconds: float

    @property
    def recovered(self) -> bool:
        """Level and angle are within the limits, and the registration was taken."""
        return not self.objection and self.level_error <= MAX_LEVEL_MM and self.angle_error <= MAX_DEGREES


def movement(
    seed: int, rotation: float = 20.0, shift: float = 30.0, scales: tuple[float, float] = (0.85, 1.15)
) -> tuple[NDArray, float, float, NDArray]:
    """A random affine map about the origin, (4, 4), with its angle, the length of its shift, and its three scales.

    Args:
        seed: of the draw.
        rotation: largest angle, degrees; uniform, about an axis of uniform direction.
        shift: largest length, mm; uniform, of uniform direction.
        scales: range of the scale along each axis, drawn independently.
    """
    rng = np.random.default_rng(seed)
    axis, direction = rng.standard_normal((2, 3))
    angle, length = float(rng.uniform(0, rotation)), float(rng.uniform(0, shift))
    factors = rng.uniform(*scales, 3)
    matrix = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    matrix[:3, :3] = turn @ np.diag(factors)
    matrix[:3, 3] = length * direction / np.linalg.norm(direction)
    return matrix, angle, length, factors


def moved(volume: NDArray, affine: NDArray, matrix: NDArray, margin_mm: float) -> tuple[NDArray, NDArray]:
    """The head on a grid of the same voxels with a margin, after moving it about the grid's middle; linear."""
    border = np.round(margin_mm / voxel_sizes(affine)).astype(int)
    grid = affine.copy()
    grid[:3, 3] = apply_affine(affine, -border)
    shape = np.array(volume.shape) + 2 * border
    back = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ grid
    return ndimage.affine_transform(volume, back, output_shape=tuple(shape), order=1, cval=float(volume.min())), grid


def block_means(volume: NDArray, affine: NDArray, mm: float) -> tuple[NDArray, NDArray]:
    """The head in voxels of at most `mm`, each the mean of whole ones; as it is where its own are no smaller."""
    steps = tuple(max(1, int(mm / size)) for size in voxel_sizes(affine))
    whole = tuple(slice(0, n // step * step) for n, step in zip(volume.shape, steps, strict=True))
    grid = affine @ np.diag([*steps, 1.0])
    grid[:3, 3] = apply_affine(affine, (np.array(steps) - 1) / 2)
    return block_reduce(volume[whole], steps, np.mean), grid


def level_errors(found: NDArray, reference: NDArray) -> tuple[float, float]:
    """mm (template) and degrees between the trained level under two maps template -> head, (4, 4) each."""
    between = np.linalg.inv(reference) @ found
    height = apply_affine(between, [*TEMPLATE_CENTRE_XY, LEVEL_MM])[2] - LEVEL_MM
    normal = np.linalg.inv(between[:3, :3])[2]
    return abs(float(height)), float(np.degrees(np.arccos(np.clip(normal[2] / np.linalg.norm(normal), -1, 1))))


def run_trials(
    path: str | Path,
    seeds: Iterable[int],
    reference: NDArray | None = None,
    margin_mm: float = MARGIN_MM,
    voxel_mm: float = 0.0,
) -> Iterator[Trial]:
    """Register one head after each of many movements.

    Args:
        path: a NIfTI volume.
        seeds: of the movements.
        reference: (4, 4), template -> head; None registers the head as it lies.
        margin_mm: air around the head before it moves; 0 lets the movement cut it.
        voxel_mm: the head is first averaged to voxels of at most this size, as the registration itself begins.

    Raises:
        PhanesInputError: the head as it lies cannot be registered.
    """
    image = nib.as_closest_canonical(nib.load(path))
    volume, affine = np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine)
    volume, affine = block_means(volume, affine, voxel_mm)
    bounds = Bounds()
    if reference is None:
        found = register(volume, affine)
        if bounds.objection(found):
            raise PhanesInputError(f"'{path}' cannot be registered as it lies: {bounds.objection(found)}.")
        reference = found.matrix
    middle = np.eye(4)
    middle[:3, 3] = apply_affine(affine, (np.array(volume.shape) - 1) / 2)
    for seed in tqdm(seeds, desc=Path(path).name):
        matrix, rotation, shift, scales = movement(seed)
        matrix = middle @ matrix @ np.linalg.inv(middle)
        head, grid = moved(volume, affine, matrix, margin_mm)
        start = time.perf_counter()
        found = register(head, grid)
        seconds = time.perf_counter() - start
        level, angle = level_errors(found.matrix, matrix @ reference)
        yield Trial(
            Path(path).name,
            seed,
            rotation,
            shift,
            " ".join(f"{s:.3f}" for s in scales),
            level,
            angle,
            found.similarity,
            bounds.objection(found),
            seconds,
        )


def registration_trials(
    *volumes: str,
    trials: int = 100,
    seed: int = 0,
    mni: bool = False,
    margin_mm: float = MARGIN_MM,
    voxel_mm: float = 0.0,
    out: str = "",
) -> None:
    """Move heads by known affine maps and measure how well the slice level is found again.

    Args:
        volumes: NIfTI heads.
        trials: movements of each head.
        seed: the first one's; each further movement has the next.
        mni: the heads lie in MNI space: the reference is the identity, not their own registration.
        margin_mm: air added around a head before it moves; 0 lets the movement cut it off.
        voxel_mm: average each head to voxels of at most this size first; faster. 0 leaves it as it is.
        out: a CSV file of all trials, written as they end.
    """
    if not volumes:
        raise PhanesInputError("registration_trials needs at least one NIfTI volume.")
    reference = np.eye(4) if mni else None
    found = []
    with Path(out).open("w", newline="", encoding="utf-8") if out else nullcontext() as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Trial)]) if file else None
        if writer and file:
            writer.writeheader()
        for path in volumes:
            for trial in run_trials(path, range(seed, seed + trials), reference, margin_mm, voxel_mm):
                found.append(trial)
                if writer and file:
                    writer.writerow(asdict(trial))
                    file.flush()
    rows = []
    for path in volumes:
        own = [trial for trial in found if trial.head == Path(path).name]
        spread = ["{:.2f}, {:.2f}, {:.2f}".format(*np.percentile([getattr(t, name) for t in own], [50, 95, 100]))
                  for name in ("level_error", "angle_error")]  # fmt: skip
        counts = [f"{sum(t.recovered for t in own)} of {len(own)}", str(sum(bool(t.objection) for t in own))]
        rows.append([Path(path).name, *counts, *spread, f"{np.median([t.seconds for t in own]):.1f}"])
    headings = ["head", "recovered", "refused", "level error, mm: median, 95 %, max", "angle: median, 95 %, max", "s"]
    show(f"Level within {MAX_LEVEL_MM:g} mm and {MAX_DEGREES:g} degrees after a known movement", headings, rows)
