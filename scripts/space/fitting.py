"""The affine map at which the template describes a scan best.

Model: the scan's brightness is a polynomial of the template's, times a smooth field (shading of coils), plus noise with
outliers (lesions). Gauss-Newton steps with robust weights find affine map, polynomial and field together. The template
is blurred like the scan, with its slices and gaps. World coordinates are RAS, in mm.
Source of the model: Ashburner and Friston, Multimodal image coregistration and partitioning, NeuroImage 1997.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.measure import block_reduce

from .geometry import foreground
from .template import BRAIN_CUT, read_template

CENTRE = np.array((0.0, -18.0, 8.0))  # mm; the brain's middle, about which rotations and scales are taken
LEVER_MM = 60.0  # an element of the linear part counts like this many mm of shift

# The stand-in for a head: dark skull, bright scalp and air outside the brain, each so many mm thick.
SKULL_MM, SCALP_MM, AIR_MM = 7.0, 7.0, 5.0
SCALP = 0.8  # brightness; the brain's is 0 to 1
FACE_MM = -25.0  # template z below which a head is no longer a brain in a shell

# The fit of the brain. Near base and vertex, the surroundings differ from head to head and would set the height.
SHELL_MM, SHELL = 4.0, 0.25  # around the brain, and its brightness: fluid, skull and a little scalp
FITTED_Z = (-30.0, 50.0)

# Gaussian priors, standard deviations: of the three logarithmic scales about their mean, of that mean, of the field.
SHAPE, SIZE, FIELD = 0.08, 0.15, 0.3
USUAL_SIZE = -0.05  # logarithm of a head's scale to the template
OUTLIER = 5.0  # robust standard deviations
ALIKE_MM3 = 1280.0  # so much of a brain counts as one observation


class Scan(NamedTuple):
    """A volume (X, Y, Z), float32, and its voxel -> world affine."""

    values: NDArray
    affine: NDArray

    def reduced(self, mm: float) -> Scan:
        """Averaged to voxels of about `mm`."""
        pairs = zip(voxel_sizes(self.affine), self.values.shape, strict=True)
        steps = tuple(int(min(max(1, round(mm / size)), n)) for size, n in pairs)
        return Scan(*block_means(self.values, self.affine, steps))

    def at(self, voxels: NDArray, to_world: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
        """Linear interpolation at (3, N) voxels of another grid, (4, 4) voxel -> this world; and which lie inside."""
        into = (np.linalg.inv(self.affine) @ to_world).astype(np.float32)
        where = into[:3, :3] @ voxels + into[:3, 3:]
        limits = np.array(self.values.shape, dtype=np.float32)[:, None] - 0.5
        inside = ((where >= -0.5) & (where <= limits)).all(axis=0)
        return ndimage.map_coordinates(self.values, where, order=1, mode="nearest"), inside


class TemplateAt(NamedTuple):
    """The template at one resolution: brightness as a brain and as a head, (X, Y, Z); voxel -> world; and masks."""

    brain: NDArray
    head: NDArray
    affine: NDArray
    inside: NDArray[np.bool_]
    near_brain: NDArray[np.bool_]
    near_head: NDArray[np.bool_]


class Level(NamedTuple):
    """The template as a fit uses it: N voxels of a grid, and what describes a scan there.

    Attributes:
        affine: (4, 4), voxel -> template world.
        voxels: (3, N).
        values: (N,), the template's brightness.
        basis: (K, N): 1, the brightness squared and cubed, the brightness times each of the field's functions.
        field: (K - 3, N), the first of which is 1.
        slope: (12, N), the brightness's derivative by the linear part (times `LEVER_MM`) and the shift.
        inside: (N,), the brain.
    """

    affine: NDArray
    voxels: NDArray
    values: NDArray
    basis: NDArray
    field: NDArray
    slope: NDArray
    inside: NDArray[np.bool_]


def block_means(values: NDArray, affine: NDArray, steps: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Means of whole blocks of voxels, float32, and their affine."""
    whole = tuple(slice(0, n // step * step) for n, step in zip(values.shape, steps, strict=True))
    grid = affine @ np.diag([*steps, 1.0])
    grid[:3, 3] = apply_affine(affine, (np.array(steps) - 1) / 2)
    return block_reduce(values[whole], steps, np.mean, func_kwargs={"dtype": np.float32}), grid


@lru_cache(maxsize=2)
def template_at(mm: int) -> TemplateAt:
    array, affine = read_template()
    border = 28
    padded = affine.copy()
    padded[:3, 3] -= border
    brain, grid = block_means(np.pad(array, border), padded, (mm,) * 3)
    inside = brain > BRAIN_CUT
    outside = ndimage.distance_transform_edt(~inside, sampling=mm)
    scalp = (outside > SKULL_MM) & (outside <= SKULL_MM + SCALP_MM)
    z = grid[2, 3] + mm * np.arange(brain.shape[2])
    return TemplateAt(
        np.where(inside, brain / 255, SHELL).astype(np.float32),
        np.where(inside, brain / 255, ndimage.gaussian_filter(np.where(scalp, SCALP, 0.0), 1.4 / mm)).astype(
            np.float32
        ),
        grid,
        inside,
        (outside <= SHELL_MM) & (z > FITTED_Z[0]) & (z < FITTED_Z[1]),
        np.where(z > FACE_MM, outside <= SKULL_MM + SCALP_MM + AIR_MM, outside <= 2.0),
    )


def blurred(values: NDArray, mm: float, covariance: NDArray) -> NDArray:
    """Values convolved with the Gaussian of a (3, 3) covariance, mm2."""
    shape = [fft.next_fast_len(n, real=True) for n in values.shape]
    frequencies = (fft.fftfreq(shape[0], mm), fft.fftfreq(shape[1], mm), fft.rfftfreq(shape[2], mm))
    waves = np.meshgrid(*(2 * np.pi * f for f in frequencies), indexing="ij", sparse=True)
    power = sum(covariance[i, j] * waves[i] * waves[j] for i, j in product(range(3), repeat=2))
    out = fft.irfftn(fft.rfftn(values, shape) * np.exp(-0.5 * power).astype(np.float32), shape)
    return out[tuple(slice(0, n) for n in values.shape)]


def level_of(mm: int, matrix: NDArray, scan: Scan, head: bool) -> Level:
    """The template with the blur of the scan that a (4, 4) matrix maps it onto.

    A voxel is a box, or a slice with a gap, and is interpolated linearly. Both together have a quarter of the squared
    size as variance.
    """
    template = template_at(mm)
    axes = np.linalg.inv(matrix[:3, :3]) @ scan.affine[:3, :3]
    variances, directions = np.linalg.eigh(axes @ axes.T / 4 - np.eye(3) * mm**2 / 12)  # the template's own box
    covariance = (directions * np.maximum(variances, 0)) @ directions.T
    values = blurred(template.head if head else template.brain, mm, covariance)
    mask = template.near_head if head else template.near_brain
    voxels = np.argwhere(mask).T.astype(np.float32)
    t = values[mask]
    x = ((apply_affine(template.affine, voxels.T) - CENTRE) / LEVER_MM).T.astype(np.float32)
    order = 2 if head else 3
    powers = sorted((p for p in product(range(order + 1), repeat=3) if sum(p) <= order), key=sum)
    field = np.stack([x[0] ** i * x[1] ** j * x[2] ** k for i, j, k in powers])
    gradient = np.stack([along[mask] for along in np.gradient(values, mm)])
    slope = np.concatenate([(gradient[:, None] * x[None]).reshape(9, -1), gradient])
    basis = np.concatenate([np.ones_like(t)[None], t[None] ** 2, t[None] ** 3, t * field])
    return Level(template.affine, voxels, t, basis, field, slope, template.inside[mask])


def shape_precision() -> NDArray:
    """(9, 9), of the logarithmic strain's elements."""
    mean = np.outer(np.eye(3).ravel(), np.eye(3).ravel()) / 3
    symmetric = (np.eye(9) + np.eye(9)[[0, 3, 6, 1, 4, 7, 2, 5, 8]]) / 2
    return (symmetric - mean) / SHAPE**2 + 3 * mean / SIZE**2


def fitted(start: NDArray, level: Level, scan: Scan, steps: int, tolerance_mm: float) -> NDArray | None:
    """The affine map (4, 4) that describes the scan best, near a starting one. None where the template leaves the scan.

    A step solves for the coefficients of the brightness and for a small affine map of the template's space. The
    template's gradient says how that map changes the brightness.
    """
    count = len(level.basis)
    precision, usual = shape_precision(), USUAL_SIZE * np.eye(3).ravel()
    alike = ALIKE_MM3 / float(np.linalg.det(level.affine[:3, :3]))
    field_prior = np.array([1e-6] * 4 + [1 / FIELD**2] * (count - 4))
    matrix, coefficients = start, None
    for _ in range(steps):
        values, inside = scan.at(level.voxels, matrix @ level.affine)
        if inside.mean() < 0.3:
            return None
        if coefficients is None:
            weighted = level.basis * inside
            normal = (weighted @ level.basis.T).astype(float) + np.diag(0.02 * alike * field_prior)  # a usual variance
            coefficients = np.linalg.solve(normal, weighted @ values)
        residuals = values - coefficients.astype(np.float32) @ level.basis
        deviation = 1.4826 * float(np.median(np.abs(residuals[inside]))) + 1e-6
        weights = inside / (1 + (residuals / (OUTLIER * deviation)) ** 2) ** 2
        _, square, cube, *smooth = coefficients.astype(np.float32)
        steepness = 2 * square * level.values + 3 * cube * level.values**2 + np.array(smooth) @ level.field
        columns = np.concatenate([level.basis, -steepness * level.slope])
        weighted = columns * weights.astype(np.float32)
        scale = deviation**2 * alike
        normal, right = (weighted @ columns.T).astype(float) / scale, (weighted @ values).astype(float) / scale
        normal[np.arange(count), np.arange(count)] += field_prior
        linear = slice(count, count + 9)
        _, stretches, axes = np.linalg.svd(matrix[:3, :3])
        strain = (axes.T * np.log(np.maximum(stretches, 0.1))) @ axes
        normal[linear, linear] += precision / LEVER_MM**2
        right[linear] -= precision @ (strain.ravel() - usual) / LEVER_MM
        normal[np.diag_indices(len(normal))] += 1e-5 * normal.diagonal() + 1e-6
        solution = np.linalg.solve(normal, right)
        coefficients, move = solution[:count], solution[count:]
        move *= min(1.0, 15.0 / float(np.abs(move).max()))  # mm; further, a gradient says little
        turned = np.eye(3) + move[:9].reshape(3, 3) / LEVER_MM
        matrix = matrix @ from_matvec(turned, CENTRE + move[9:] - turned @ CENTRE)
        if np.abs(move).max() < tolerance_mm:
            break
    return matrix


def correlation(matrix: NDArray, level: Level, scan: Scan, region: NDArray[np.bool_] | None = None) -> float:
    """Correlation of template and scan in a region, by default the whole level; -1 when most lies outside."""
    values, inside = scan.at(level.voxels, matrix @ level.affine)
    seen = inside if region is None else inside & region
    if seen.sum() < 0.3 * (inside.size if region is None else region.sum()) or values[seen].std() == 0:
        return -1.0
    return float(np.corrcoef(values[seen], level.values[seen])[0, 1])


def brightest_brain(volume: NDArray, sizes: NDArray) -> float:
    """90th percentile of the voxels deep inside the head. Fat and vessels can be several times as bright."""
    steps = [max(1, round(4.0 / s)) for s in sizes]
    coarse = volume[:: steps[0], :: steps[1], :: steps[2]]
    filled = np.pad(ndimage.binary_fill_holes(foreground(coarse)), 1)
    depth = ndimage.distance_transform_edt(filled, sampling=sizes * steps)[1:-1, 1:-1, 1:-1]
    return float(np.percentile(coarse[depth >= min(20.0, 0.6 * depth.max())], 90))


def prepared(volume: NDArray, affine: NDArray) -> Scan:
    """The image at about 2 mm. The brain has a brightness of about 0 to 1; fat is cut to little more."""
    low, bright = float(volume.min()), brightest_brain(volume, voxel_sizes(affine))
    values = np.clip((volume - low) / max(bright - low, 1e-6), 0.0, 1.25).astype(np.float32)
    return Scan(values, affine).reduced(2.0)
