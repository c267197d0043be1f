"""Affine registration of a head to the MNI152 template, from coarse to fine, and its check.

The template is a brain only. A brain alone fits the outline of the scalp nearly as well as that of the brain. So a
stand-in for skull and scalp is put around it first. Every turn of a lattice is correlated with the scan at every shift.
All are refined at 8 mm, and the best at 4 mm by the brain and a thin shell around it. Where that fits badly, scalp or
face misled the stand-in: then the brain alone chooses among all places found at 8 mm.

World coordinates are RAS, in mm. Matrix products run on one thread: parallel sums would differ from run to run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from .fitting import CENTRE, Level, Scan, correlation, fitted, level_of, prepared, template_at

BRAIN_BOX = np.array(list(product((-60.0, 60.0), (-90.0, 60.0), (-40.0, 70.0))))  # mm; its corners

# The search: turns about three axes are a ball in a cubic lattice, 40 degrees wide; scales; shifts of 12 mm.
SEARCH_MM, STEP_DEGREES, RADIUS2 = 12.0, 20.0, 4
SCALES = (0.8, 1.0)
REACH_MM = 96.0  # the stand-in's half width
KEPT, FINALS, DISTINCT_MM = 8, 3, 6.0  # refined further at 8 mm; refined at 4 mm; and not the same place twice
DOUBTFUL, TRIED = 0.45, 24  # a similarity below which the brain chooses, and among how many places


@dataclass(frozen=True)
class Registration:
    """An affine map and how far to trust it.

    Attributes:
        matrix: (4, 4), template world -> image world, mm.
        similarity: correlation of template and registered image within the brain, -1 to 1.
        scales: image mm a template mm along the three principal directions, ascending.
        rotation: degrees between the axes of template and image.
    """

    matrix: NDArray
    similarity: float
    scales: tuple[float, float, float]
    rotation: float


@dataclass(frozen=True)
class Bounds:
    """The limits of a good registration. Outside of these it has failed.

    Attributes:
        similarity: least correlation with the template.
        scales: least and largest scale.
        rotation: largest rotation, degrees.
    """

    similarity: float = 0.35
    scales: tuple[float, float] = (0.6, 1.4)
    rotation: float = 65.0

    def objection(self, found: Registration) -> str:
        """Why the registration is not to be trusted; "" when it is."""
        if not found.similarity >= self.similarity:
            return f"similarity to the template {found.similarity:.2f}, at least {self.similarity:g} wanted"
        if found.scales[0] < self.scales[0] or found.scales[2] > self.scales[1]:
            return f"scales {found.scales[0]:.2f} to {found.scales[2]:.2f}, which no head has"
        if found.rotation > self.rotation:
            return f"rotation of {found.rotation:.0f} degrees"
        return ""


def _starts(scan: Scan) -> list[NDArray]:
    """Matrices of many turns and scales, each at the shift where the stand-in correlates best with the scan.

    Fourier transforms give the correlation at every shift (Padfield, Masked object registration in the Fourier domain,
    2012).
    """
    mm = SEARCH_MM
    sizes = voxel_sizes(scan.affine)
    smooth = ndimage.gaussian_filter(scan.values, np.sqrt(np.maximum((0.45 * mm) ** 2 - sizes**2 / 12, 0)) / sizes)
    corners = apply_affine(scan.affine, np.array(list(product(*((-0.5, n - 0.5) for n in scan.values.shape)))))
    shape = tuple(np.ceil((corners.max(0) - corners.min(0)) / mm).astype(int))
    grid = from_matvec(mm * np.eye(3), corners.min(0) + mm / 2)
    image, covered = (
        part.reshape(shape) for part in Scan(smooth, scan.affine).at(np.indices(shape).reshape(3, -1), grid)
    )
    template = template_at(4)
    head = ndimage.gaussian_filter(template.head, 0.4 * mm / 4)
    weight = ndimage.gaussian_filter(template.near_head.astype(np.float32), 0.3 * mm / 4)
    reach = int(np.ceil(REACH_MM / mm))
    offsets = np.indices((2 * reach + 1,) * 3).reshape(3, -1) - reach
    full = [fft.next_fast_len(int(n) + reach, real=True) for n in shape]
    seen, first, second = (
        fft.rfftn(part.astype(np.float32), full) for part in (covered, covered * image, covered * image**2)
    )

    found = []
    ball = [turn for turn in product(range(-2, 3), repeat=3) if sum(n * n for n in turn) <= RADIUS2]
    for scale, turn in product(SCALES, ball):
        linear = scale * Rotation.from_rotvec(STEP_DEGREES * np.array(turn), degrees=True).as_matrix()
        where = apply_affine(np.linalg.inv(template.affine), (np.linalg.inv(linear) @ offsets * mm).T + CENTRE).T
        t, w = (
            ndimage.map_coordinates(part, where, order=1, mode="constant").reshape((2 * reach + 1,) * 3)
            for part in (head, weight)
        )
        ones, ts, tts = (np.conj(fft.rfftn(part, full)) for part in (w, w * t, w * t * t))
        pairs = ((ones, seen), (ts, seen), (tts, seen), (ones, first), (ones, second), (ts, first))
        n, st, stt, si, sii, sti = (fft.irfftn(a * b, full) for a, b in pairs)
        total = float(w.sum())
        n = np.maximum(n, 1e-3)
        of_template, of_image = (np.maximum(v, 1e-3 * total) for v in (stt - st**2 / n, sii - si**2 / n))
        alike = (sti - st * si / n) / np.sqrt(of_template * of_image) * np.minimum(1.0, n / (0.8 * total))
        alike[n < 0.4 * total] = -1
        middles = np.roll(alike, (reach,) * 3, (0, 1, 2))[tuple(slice(0, k) for k in shape)]
        best = apply_affine(grid, np.unravel_index(int(middles.argmax()), shape))
        found.append(from_matvec(linear, best - linear @ CENTRE))
    return found


def describe(matrix: NDArray, similarity: float) -> Registration:
    """Scales and rotation of a (4, 4) matrix, from its singular values and its polar decomposition."""
    left, scales, right = np.linalg.svd(matrix[:3, :3])
    rotation = left @ right
    angle = 180.0 if np.linalg.det(rotation) < 0 else np.degrees(Rotation.from_matrix(rotation).magnitude())
    large, middle, small = (float(s) for s in scales)
    return Registration(matrix, similarity, (small, middle, large), float(angle))


def similarity_as_it_lies(volume: NDArray, affine: NDArray) -> float:
    """Correlation with the template within the brain, -1 to 1, of an image that claims to be in MNI space.

    Args:
        volume: (X, Y, Z), any storage order and intensity unit.
        affine: (4, 4), voxel -> MNI world, mm.
    """
    scan = prepared(volume, affine).reduced(4.0)
    level = level_of(4, np.eye(4), scan, head=False)
    return correlation(np.eye(4), level, scan, level.inside)


def register(volume: NDArray, affine: NDArray) -> Registration:
    """Find the affine map of the MNI152 template onto a head. The number of threads does not change a bit of it.

    Args:
        volume: (X, Y, Z), any storage order and intensity unit; with or without skull, with or without neck.
        affine: (4, 4), voxel -> world (RAS, mm); may be oblique or sheared.

    Returns:
        The registration, good or bad; `Bounds.objection` tells. Its similarity is -1 when nothing was found.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        scan = prepared(volume, affine)
        middle, coarse = scan.reduced(4.0), scan.reduced(8.0)
        head = level_of(8, np.diag([0.95, 0.95, 0.95, 1.0]), coarse, head=True)

        def refined(starts: Iterable[NDArray], steps: int) -> list[NDArray]:
            fits = [fit for start in starts if (fit := fitted(start, head, coarse, steps, 0.3)) is not None]
            return sorted(fits, key=lambda fit: -correlation(fit, head, coarse))

        def distinct(fits: Iterable[NDArray]) -> list[NDArray]:
            places: list[NDArray] = []
            for fit in fits:
                if all(np.abs(apply_affine(fit - other, BRAIN_BOX)).max() > DISTINCT_MM for other in places):
                    places.append(fit)
            return places

        def judged(place: NDArray, level: Level) -> tuple[float, NDArray, float]:
            """Correlation with brain and shell, map, and correlation within the brain."""
            return correlation(place, level, middle), place, correlation(place, level, middle, level.inside)

        def finals(places: Iterable[NDArray]) -> list[tuple[float, NDArray, float]]:
            levels = [(place, level_of(4, place, middle, head=False)) for place in places]
            fits = [(fitted(place, level, middle, 15, 0.02), level) for place, level in levels]
            return [judged(fit, level) for fit, level in fits if fit is not None]

        coarse_fits = refined(_starts(middle), 8)
        found = finals(distinct(refined(coarse_fits[:KEPT], 12))[:FINALS])
        best = describe(*max(found, key=lambda one: one[0], default=(-2.0, np.eye(4), -1.0))[1:])
        if best.similarity >= DOUBTFUL:
            return best
        tried = [
            judged(place, level_of(4, place, middle, head=False))
            for place in distinct(refined(coarse_fits[:TRIED], 12))
        ]
        tried = sorted(tried, key=lambda one: -one[2])[:FINALS]
        others = [describe(*one[1:]) for one in tried + finals([one[1] for one in tried])]
        heads = [one for one in others if not Bounds(similarity=-1.0).objection(one)]
        return max([best, *heads], key=lambda one: one.similarity)
