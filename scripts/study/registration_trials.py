"""How well the registration finds a head that a known map has moved and a simulated protocol has scanned.

The registration of the unmoved head is the reference. The moved head is scanned in slices of a given thickness and
distance, and registered. After the movement is undone, the template should lie where the reference has it.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from itertools import product
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
from ..space.geometry import LEVEL_MM, TEMPLATE_CENTRE_XY, foreground
from ..space.registration import Bounds, register
from ..space.template import BRAIN_CUT, read_template
from .evaluation.tables import show

MAX_MM = 3.0  # mean over the brain
NOISE = 0.02  # of the scan's brightness
AIR_MM = 8.0  # around the head
SHOULDERS_MM = 60.0  # below which a neck widens


@dataclass(frozen=True)
class Protocol:
    """How a head lies and is scanned.

    Attributes:
        name: of the table's row.
        axis: the axis that the slices are stacked along: 0 sagittal, 1 coronal, 2 axial.
        thickness: of a slice, mm.
        distance: from one slice to the next, mm.
        turn: least and largest angle, degrees; the axis has any direction.
        scales: range of the scale along each axis, drawn independently.
        cut: mm of the head's top that the scan misses.
        neck: mm of neck and shoulders added below.
    """

    name: str
    axis: int = 2
    thickness: float = 2.0
    distance: float = 2.0
    turn: tuple[float, float] = (0.0, 30.0)
    scales: tuple[float, float] = (1.0, 1.0)
    cut: float = 0.0
    neck: float = 0.0


PROTOCOLS = (
    Protocol("2 mm; turned by up to 20 degrees, scaled by 0.85 to 1.15", turn=(0.0, 20.0), scales=(0.85, 1.15)),
    *(
        Protocol(f"{thickness:g} mm every {distance:g}, {direction}", axis, thickness, distance)
        for (thickness, distance), (axis, direction) in product(
            ((1.0, 1.0), (3.0, 3.0), (5.0, 6.5), (6.0, 7.0), (8.0, 8.0)), enumerate(("sagittal", "coronal", "axial"))
        )
    ),
    Protocol("5 mm every 6.5, axial; turned by 30 degrees", 2, 5.0, 6.5, turn=(30.0, 30.0)),
    Protocol("5 mm every 6.5, axial; 30 mm of the vertex cut off", 2, 5.0, 6.5, turn=(0.0, 15.0), cut=30.0),
    Protocol("2 mm, sagittal; 120 mm of neck", 0, neck=120.0),
    Protocol("5 mm every 6.5, axial; turned by 30, neck, 20 mm cut", 2, 5.0, 6.5, (30.0, 30.0), cut=20.0, neck=120.0),
    Protocol("5 mm every 6.5, axial; turned by 40 degrees", 2, 5.0, 6.5, turn=(40.0, 40.0)),
)


@dataclass(frozen=True)
class Trial:
    """A movement, and what the registration made of the moved head.

    Attributes:
        head: its name.
        protocol: the name of the protocol.
        seed: of the movement.
        rotation: degrees.
        brain_error: mean distance over the brain between the place found and the reference, mm of the scan.
        level_error: height between the two in the middle of the trained slice, mm of the template.
        similarity: of the registration.
        objection: why the registration was refused; "" when it was taken.
        seconds: of the registration, CPU time of all threads.
    """

    head: str
    protocol: str
    seed: int
    rotation: float
    brain_error: float
    level_error: float
    similarity: float
    objection: str
    seconds: float

    @property
    def recovered(self) -> bool:
        """Whether the registration was accepted and is right."""
        return not self.objection and self.brain_error <= MAX_MM


def movement(
    seed: int,
    rotation: tuple[float, float] = (0.0, 20.0),
    shift: float = 30.0,
    scales: tuple[float, float] = (0.85, 1.15),
) -> tuple[NDArray, float]:
    """A random affine map about the origin, (4, 4), and its angle.

    Args:
        seed: of the draw.
        rotation: least and largest angle, degrees; uniform, about an axis of uniform direction.
        shift: largest length, mm; uniform, of uniform direction.
        scales: range of the scale along each axis, drawn independently.
    """
    rng = np.random.default_rng(seed)
    axis, direction = rng.standard_normal((2, 3))
    angle, length = float(rng.uniform(*rotation)), float(rng.uniform(0, shift))
    matrix = np.eye(4)
    turn = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    matrix[:3, :3] = turn @ np.diag(rng.uniform(*scales, 3))
    matrix[:3, 3] = length * direction / np.linalg.norm(direction)
    return matrix, angle


def moved(volume: NDArray, affine: NDArray, matrix: NDArray, margin_mm: float) -> tuple[NDArray, NDArray]:
    """Move a head (X, Y, Z) and resample it linearly on its own grid plus a margin. Also return that grid, (4, 4)."""
    border = np.round(margin_mm / voxel_sizes(affine)).astype(int)
    grid = affine.copy()
    grid[:3, 3] = apply_affine(affine, -border)
    shape = np.array(volume.shape) + 2 * border
    back = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ grid
    return ndimage.affine_transform(volume, back, output_shape=tuple(shape), order=1, cval=float(volume.min())), grid


def block_means(volume: NDArray, affine: NDArray, mm: float) -> tuple[NDArray, NDArray]:
    """Average whole voxels to blocks of at most `mm`. An axis stays as it is where two voxels exceed that."""
    steps = tuple(max(1, int(mm / size)) for size in voxel_sizes(affine))
    whole = tuple(slice(0, n // step * step) for n, step in zip(volume.shape, steps, strict=True))
    grid = affine @ np.diag([*steps, 1.0])
    grid[:3, 3] = apply_affine(affine, (np.array(steps) - 1) / 2)
    return block_reduce(volume[whole], steps, np.mean), grid


def with_neck(volume: NDArray, affine: NDArray, mm: float) -> tuple[NDArray, NDArray]:
    """Add a neck of `mm` below a head (RAS). It repeats the head's low section, and widens as shoulders do."""
    section, height = volume[:, :, 2], float(voxel_sizes(affine)[2])
    middle = (np.array(section.shape) - 1) / 2
    below = []
    for k in range(round(mm / height)):
        shrink = np.eye(2) / (1 + max(0.0, k * height - SHOULDERS_MM) / SHOULDERS_MM)
        below.append(ndimage.affine_transform(section, shrink, middle - shrink @ middle, order=1))
    grid = affine.copy()
    grid[:3, 3] = apply_affine(affine, [0, 0, -len(below)])
    return np.concatenate([np.stack(below[::-1], axis=-1), volume], axis=-1), grid


def scanned(
    volume: NDArray, affine: NDArray, matrix: NDArray, protocol: Protocol, seed: int = 0
) -> tuple[NDArray, NDArray]:
    """A moved head in slices, with noise, on a grid along the world's axes.

    Args:
        volume: (X, Y, Z), RAS.
        affine: (4, 4), voxel -> world, mm.
        matrix: (4, 4), world of the head -> world of the scan.
        protocol: thickness, distance and direction of the slices, what is cut off, and the neck.
        seed: of the noise.
    """
    sizes = voxel_sizes(affine)
    if protocol.neck:
        volume, affine = with_neck(volume, affine, protocol.neck)
    head = apply_affine(matrix @ affine, np.argwhere(foreground(volume))[::7])
    low, high = np.percentile(head, 0.05, axis=0) - AIR_MM, np.percentile(head, 99.95, axis=0) + AIR_MM
    if protocol.cut:
        high[2] -= protocol.cut + AIR_MM
    steps = sizes.copy()
    steps[protocol.axis] = protocol.distance
    grid = np.diag([*steps, 1.0])
    shape = tuple(np.ceil((high - low) / steps).astype(int))
    scan, parts = np.zeros(shape, dtype=np.float32), max(1, round(protocol.thickness))
    for part in range(parts):
        grid[:3, 3] = low
        grid[protocol.axis, 3] += ((part + 0.5) / parts - 0.5) * protocol.thickness
        back = np.linalg.inv(matrix @ affine) @ grid
        scan += ndimage.affine_transform(volume, back, output_shape=shape, order=1) / parts
    grid[:3, 3] = low
    noise = np.random.default_rng(seed).standard_normal(shape)
    return np.abs(scan + NOISE * np.percentile(scan, 99) * noise).astype(np.float32), grid


def errors(found: NDArray, reference: NDArray) -> tuple[float, float]:
    """Differences of two maps template -> head, (4, 4) each.

    Returns:
        The mean distance over the brain, mm of the head; the difference in height at the trained level, mm of the
        template.
    """
    template, affine = read_template()
    brain = apply_affine(affine, 8 * np.argwhere(template[::8, ::8, ::8] > BRAIN_CUT))
    apart = np.linalg.norm(apply_affine(found, brain) - apply_affine(reference, brain), axis=1)
    height = apply_affine(np.linalg.inv(reference) @ found, [*TEMPLATE_CENTRE_XY, LEVEL_MM])[2] - LEVEL_MM
    return float(apart.mean()), abs(float(height))


def run_trials(
    path: str | Path, seed: int, protocols: Iterable[Protocol] = PROTOCOLS, reference: NDArray | None = None
) -> Iterator[Trial]:
    """Register one head after a movement for each protocol.

    Args:
        path: a NIfTI volume.
        seed: of the first movement; each further one has the next.
        protocols: how it is scanned.
        reference: (4, 4), template -> head; None registers the head as it lies.

    Raises:
        PhanesInputError: the head as it lies cannot be registered.
    """
    image = nib.as_closest_canonical(nib.load(path))
    volume, affine = block_means(np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine), 2.0)
    bounds = Bounds()
    if reference is None:
        as_it_lies = register(volume, affine)
        if bounds.objection(as_it_lies):
            raise PhanesInputError(
                f"'{path}' cannot be registered as it lies ({bounds.objection(as_it_lies)}): leave it out."
            )
        reference = as_it_lies.matrix
    middle = np.eye(4)
    middle[:3, 3] = apply_affine(affine, (np.array(volume.shape) - 1) / 2)
    for number, protocol in enumerate(tqdm(protocols, desc=Path(path).name), start=seed):
        matrix, rotation = movement(number, protocol.turn, scales=protocol.scales)
        matrix = middle @ matrix @ np.linalg.inv(middle)
        scan, grid = scanned(volume, affine, matrix, protocol, number)
        start = time.process_time()
        found = register(scan, grid)
        seconds = time.process_time() - start
        brain, level = errors(found.matrix, matrix @ reference)
        objection = bounds.objection(found)
        yield Trial(
            Path(path).name, protocol.name, number, rotation, brain, level, found.similarity, objection, seconds
        )


def registration_trials(*volumes: str, seed: int = 0, out: str = "") -> None:
    """Move heads by known maps, scan them by each protocol, and measure how well they are found again.

    Args:
        volumes: NIfTI heads.
        seed: of the first movement of the first head.
        out: a CSV file of all trials, written as they end.
    """
    if not volumes:
        raise PhanesInputError("No volume was given: registration_trials needs at least one NIfTI file.")
    found: list[Trial] = []
    with Path(out).open("w", newline="", encoding="utf-8") if out else nullcontext() as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Trial)]) if file else None
        if writer:
            writer.writeheader()
        for number, path in enumerate(volumes):
            for trial in run_trials(path, seed + number * len(PROTOCOLS)):
                found.append(trial)
                if writer and file:
                    writer.writerow(asdict(trial))
                    file.flush()
    rows = []
    for protocol in PROTOCOLS:
        own = [trial for trial in found if trial.protocol == protocol.name]
        spread = ["{:.2f}, {:.2f}".format(*np.percentile([getattr(t, name) for t in own], [50, 100]))
                  for name in ("brain_error", "level_error")]  # fmt: skip
        counts = [f"{sum(t.recovered for t in own)} of {len(own)}", str(sum(bool(t.objection) for t in own))]
        medians = [f"{np.median([t.similarity for t in own]):.2f}", f"{np.median([t.seconds for t in own]):.1f}"]
        rows.append([protocol.name, *counts, *spread, *medians])
    headings = ["scan", "found", "refused", "brain, mm: median, max", "level, mm: median, max", "similarity", "CPU s"]
    show(f"Heads found again within {MAX_MM:g} mm, mean over the brain", headings, rows)
