"""How well the registration finds its level again: heads moved by known affine maps, and the level undone.

The level of the head as it lies is the reference (its own registration; the identity for a head in MNI space). A moved
head is registered; with the movement undone its plane should be the reference's.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from .errors import PhanesInputError
from .geometry import LEVEL_MM, TEMPLATE_CENTRE_XY
from .registration import Bounds, register

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


def level_errors(found: NDArray, reference: NDArray) -> tuple[float, float]:
    """mm (template) and degrees between the trained level under two maps template -> head, (4, 4) each."""
    between = np.linalg.inv(reference) @ found
    height = apply_affine(between, [*TEMPLATE_CENTRE_XY, LEVEL_MM])[2] - LEVEL_MM
    normal = np.linalg.inv(between[:3, :3])[2]
    return abs(float(height)), float(np.degrees(np.arccos(np.clip(normal[2] / np.linalg.norm(normal), -1, 1))))


def run_trials(
    path: str | Path, seeds: Iterable[int], reference: NDArray | None = None, margin_mm: float = MARGIN_MM
) -> list[Trial]:
    """Register one head after each of many movements.

    Args:
        path: a NIfTI volume.
        seeds: of the movements.
        reference: (4, 4), template -> head; None registers the head as it lies.
        margin_mm: air around the head before it moves; 0 lets the movement cut it.

    Raises:
        PhanesInputError: the head as it lies cannot be registered.
    """
    image = nib.as_closest_canonical(nib.load(path))
    volume, affine = np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine)
    bounds = Bounds()
    if reference is None:
        found = register(volume, affine)
        if bounds.objection(found):
            raise PhanesInputError(f"'{path}' cannot be registered as it lies: {bounds.objection(found)}.")
        reference = found.matrix
    middle = np.eye(4)
    middle[:3, 3] = apply_affine(affine, (np.array(volume.shape) - 1) / 2)
    trials = []
    for seed in tqdm(seeds, desc=Path(path).name):
        matrix, rotation, shift, scales = movement(seed)
        matrix = middle @ matrix @ np.linalg.inv(middle)
        head, grid = moved(volume, affine, matrix, margin_mm)
        start = time.perf_counter()
        found = register(head, grid)
        seconds = time.perf_counter() - start
        level, angle = level_errors(found.matrix, matrix @ reference)
        trials.append(
            Trial(
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
        )
    return trials


def registration_trials(
    *volumes: str, trials: int = 100, seed: int = 0, mni: bool = False, margin_mm: float = MARGIN_MM, out: str = ""
) -> None:
    """Move heads by known affine maps and measure how well the slice level is found again.

    Args:
        volumes: NIfTI heads.
        trials: movements of each head.
        seed: the first one's; each further movement has the next.
        mni: the heads lie in MNI space: the reference is the identity, not their own registration.
        margin_mm: air added around a head before it moves; 0 lets the movement cut it off.
        out: a CSV file for all trials.
    """
    if not volumes:
        raise PhanesInputError("registration_trials needs at least one NIfTI volume.")
    found = [
        trial
        for path in volumes
        for trial in run_trials(path, range(seed, seed + trials), np.eye(4) if mni else None, margin_mm)
    ]
    if out:
        with Path(out).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(found[0])))
            writer.writeheader()
            writer.writerows(asdict(trial) for trial in found)
    table = Table(title=f"Level within {MAX_LEVEL_MM:g} mm and {MAX_DEGREES:g} degrees after a known movement")
    for title in (
        "head",
        "recovered",
        "refused",
        "level error, mm: median, 95 %, max",
        "angle: median, 95 %, max",
        "s",
    ):
        table.add_column(title)
    for path in volumes:
        own = [trial for trial in found if trial.head == Path(path).name]
        spread = ["{:.2f}, {:.2f}, {:.2f}".format(*np.percentile([getattr(t, name) for t in own], [50, 95, 100]))
                  for name in ("level_error", "angle_error")]  # fmt: skip
        table.add_row(
            Path(path).name,
            f"{sum(t.recovered for t in own)} of {len(own)}",
            str(sum(bool(t.objection) for t in own)),
            *spread,
            f"{np.median([t.seconds for t in own]):.1f}",
        )
    Console(width=140).print(table)
