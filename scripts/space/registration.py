"""Affine registration of a head to the MNI152 template with SimpleITK, and the check of what came out.

The metric is Mattes mutual information. The template is a brain only, and a brain alone fits the outline of the scalp
nearly as well as that of the brain; so a head is first found with a stand-in for skull and scalp around that brain,
from several starts, of which the correlation within the brain chooses. Then the metric sees the brain and a thin shell
around it, skull and fluid in a head, air around a stripped brain: dark in both, so that one template serves both.

World coordinates are RAS, in mm. Everything runs on one thread: ITK's parallel sums differ from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .geometry import foreground
from .template import BRAIN_CUT, read_template

TEMPLATE_CENTRE = (0.0, -18.0, 8.0)  # mm; the brain's middle, about which rotations and scales are taken
VERTEX_MM = 75.0  # from a head's vertex down to the brain's middle, to begin with

# The stand-in for a head: dark skull, bright scalp and air outside the brain, each so many mm thick.
SKULL_MM, SCALP_MM, AIR_MM = 7.0, 7.0, 5.0
SCALP_INTENSITY = 200.0
FACE_MM = -25.0  # template z below which a head is no longer a brain in a shell
SHELL_MM = 4.0  # around the brain, of the mutual information's mask

SEED = 1  # of the sampling's jitter; ITK's default is the clock
LEVER_MM = 60.0  # a matrix element counts like this many mm of shift; converges in a third of ITK's own scales' steps

# The search for starts, at 8 mm: pitch (nose up is positive), roll and yaw in degrees, scales, and mm up or down.
PITCHES, ROLLS, YAWS = (-20, -10, 0, 10, 20, 30), (-15, 0, 15), (-15, 0, 15)
SCALES, HEIGHTS = (0.8, 0.9, 1.0), (-12, 0, 12)  # the best start of each scale is refined at 6 mm


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
    """What a registration may look like; outside of this it has failed.

    Attributes:
        similarity: least correlation with the template.
        scales: least and largest scale.
        rotation: largest rotation, degrees.
    """

    similarity: float = 0.35
    scales: tuple[float, float] = (0.6, 1.4)
    rotation: float = 45.0

    def objection(self, found: Registration) -> str:
        """Why the registration is not to be trusted; "" when it is."""
        if not found.similarity >= self.similarity:
            return f"similarity to the template {found.similarity:.2f}, at least {self.similarity:g} wanted"
        if found.scales[0] < self.scales[0] or found.scales[2] > self.scales[1]:
            return f"scales {found.scales[0]:.2f} to {found.scales[2]:.2f}, no head's"
        if found.rotation > self.rotation:
            return f"rotation of {found.rotation:.0f} degrees"
        return ""


class _Level(NamedTuple):
    """The template at one resolution: image, mask of the metric, and the brain as a boolean array (z, y, x)."""

    image: sitk.Image
    mask: sitk.Image
    brain: NDArray[np.bool_]


class _Moving(NamedTuple):
    """The image at one resolution, in a box without rotation, and the map from its world into that box."""

    image: sitk.Image
    into_box: NDArray

    def reduced(self, mm: float) -> _Moving:
        """Averaged to voxels of about `mm`."""
        pairs = zip(self.image.GetSpacing(), self.image.GetSize(), strict=True)
        return self._replace(image=sitk.BinShrink(self.image, [min(max(1, round(mm / s)), n) for s, n in pairs]))


@lru_cache(maxsize=1)
def _template_levels() -> dict[int, _Level]:
    """8 and 6 mm: the stand-in for a head. 4 and 2 mm: the brain."""
    array, affine = read_template()
    border = 24
    brain = np.pad(array, border)[::2, ::2, ::2].astype(np.float32)
    outside = ndimage.distance_transform_edt(brain <= BRAIN_CUT, sampling=2)
    scalp = (outside > SKULL_MM) & (outside <= SKULL_MM + SCALP_MM)
    head = np.where(outside > 0, ndimage.gaussian_filter(np.where(scalp, SCALP_INTENSITY, 0.0), 0.7), brain)
    z = affine[2, 3] - border + 2.0 * np.arange(brain.shape[2])
    round_head = np.where(z > FACE_MM, outside <= SKULL_MM + SCALP_MM + AIR_MM, outside <= 2.0)

    def on_grid(values: NDArray, mm: int) -> sitk.Image:
        image = sitk.GetImageFromArray(np.ascontiguousarray(values.T.astype(np.float32)))
        image.SetSpacing([2.0] * 3)
        image.SetOrigin([float(v) - border for v in affine[:3, 3]])
        return sitk.BinShrink(image, [mm // 2] * 3)

    levels = {}
    for mm, values, mask in ((8, head, round_head), (6, head, round_head), (4, brain, outside <= SHELL_MM)):
        inside = sitk.GetArrayFromImage(on_grid(brain > BRAIN_CUT, mm)) > 0.5
        levels[mm] = _Level(on_grid(values, mm), on_grid(mask, mm) > 0.5, inside)
    levels[2] = _Level(on_grid(brain, 2), on_grid(outside <= SHELL_MM, 2) > 0.5, (brain > BRAIN_CUT).T)
    return levels


def _brightest_brain(volume: NDArray, sizes: NDArray) -> float:
    """90th percentile of what lies deep inside the head; fat and vessels can be several times as bright."""
    steps = [max(1, round(4.0 / s)) for s in sizes]
    coarse = volume[:: steps[0], :: steps[1], :: steps[2]]
    filled = np.pad(ndimage.binary_fill_holes(foreground(coarse)), 1)
    depth = ndimage.distance_transform_edt(filled, sampling=sizes * steps)[1:-1, 1:-1, 1:-1]
    deep = coarse[depth >= min(20.0, 0.6 * depth.max())]
    return float(np.percentile(deep, 90))


def _moving(volume: NDArray, affine: NDArray) -> _Moving:
    """The image at about 2 mm. Its box has the voxel sizes and no rotation: ITK knows no shear, a matrix does."""
    sizes = voxel_sizes(affine)
    low, bright = float(volume.min()), _brightest_brain(volume, sizes)
    clipped = np.clip(volume, low, max(low + 1.25 * (bright - low), low + 1e-6)).astype(np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(clipped.T))
    image.SetSpacing([float(v) for v in sizes])
    return _Moving(image, np.diag([*sizes, 1.0]) @ np.linalg.inv(affine)).reduced(2.0)


def _as_sitk(matrix: NDArray, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> sitk.AffineTransform:
    """A (4, 4) matrix as ITK's affine map, whose linear part acts about the centre."""
    transform = sitk.AffineTransform(3)
    transform.SetCenter([float(c) for c in centre])
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((apply_affine(matrix, centre) - centre).tolist())
    return transform


def _as_matrix(transform: sitk.Transform) -> NDArray:
    matrix = np.eye(4)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    for axis in range(3):
        matrix[:3, axis] = transform.TransformPoint(np.eye(3)[axis].tolist()) - matrix[:3, 3]
    return matrix


def _optimised(
    start: NDArray, level: _Level, moving: _Moving, step: float, iterations: int, share: float = 1.0
) -> NDArray:
    """The affine map at the optimum of the mutual information near a starting one, both (4, 4).

    Args:
        start: template world -> image world.
        level: the template.
        moving: the image, at about the same resolution.
        step: first step, mm.
        iterations: at most.
        share: of the mask's voxels that the metric samples.
    """
    transform = _as_sitk(start, TEMPLATE_CENTRE)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    if share < 1.0:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, SEED)
    method.SetMetricFixedMask(level.mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMovingInitialTransform(_as_sitk(moving.into_box))
    method.SetInitialTransform(transform, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(step, 0.01, iterations, 0.7, 1e-6)
    method.SetOptimizerScales([LEVER_MM**2] * 9 + [1.0] * 3)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the method's own number does not reach its metric
    try:
        method.Execute(level.image, moving.image)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return _as_matrix(transform)


def _correlation(matrix: NDArray, level: _Level, moving: _Moving, region: NDArray[np.bool_] | None = None) -> float:
    """Correlation of template and image in a region (default: the brain); -1 when most of it lies outside the image."""
    outside = -1e30
    into = _as_sitk(moving.into_box @ matrix)
    resampled = sitk.GetArrayFromImage(sitk.Resample(moving.image, level.image, into, sitk.sitkLinear, outside))
    region = level.brain if region is None else region
    seen = region & (resampled > 0.5 * outside)
    if seen.sum() < 0.3 * region.sum():
        return -1.0
    values = resampled[seen]
    return float(np.corrcoef(values, sitk.GetArrayFromImage(level.image)[seen])[0, 1]) if values.std() > 0 else -1.0


def _starts(moving: _Moving, scale: float) -> Iterator[NDArray]:
    """Matrices of many rotations and heights about the presumed middle of the brain below the vertex."""
    head = np.argwhere(foreground(sitk.GetArrayFromImage(moving.image).T))
    spacing, origin = np.array(moving.image.GetSpacing()), np.array(moving.image.GetOrigin())
    world = apply_affine(np.linalg.inv(moving.into_box), head * spacing + origin)
    top = float(np.percentile(world[:, 2], 99.95))
    upper = world[world[:, 2] > top - 1.6 * VERTEX_MM]  # without face and neck
    middle = (np.percentile(upper, 1, axis=0) + np.percentile(upper, 99, axis=0)) / 2
    for *angles, height in product(PITCHES, ROLLS, YAWS, HEIGHTS):
        matrix = np.eye(4)
        matrix[:3, :3] = scale * Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        middle[2] = top - VERTEX_MM + height
        matrix[:3, 3] = middle - matrix[:3, :3] @ TEMPLATE_CENTRE
        yield matrix


def describe(matrix: NDArray, similarity: float) -> Registration:
    """Scales and rotation of a (4, 4) matrix, from its singular values and its polar decomposition."""
    left, scales, right = np.linalg.svd(matrix[:3, :3])
    rotation = left @ right
    angle = (
        180.0 if np.linalg.det(rotation) < 0 else np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
    )
    ascending = tuple(float(s) for s in scales[::-1])
    return Registration(matrix, similarity, (ascending[0], ascending[1], ascending[2]), float(angle))


def similarity_as_it_lies(volume: NDArray, affine: NDArray) -> float:
    """Correlation with the template of an image that claims to be in MNI space, within the brain, -1 to 1.

    Args:
        volume: (X, Y, Z), any storage order and intensity unit.
        affine: (4, 4), voxel -> MNI world, mm.
    """
    return _correlation(np.eye(4), _template_levels()[4], _moving(volume, affine).reduced(4.0))


def register(volume: NDArray, affine: NDArray) -> Registration:
    """Find the affine map of the MNI152 template onto a head.

    Of many starts at 8 mm the best of each scale is refined at 6 mm, and of these the one that then fits best at 4 and
    2 mm.

    Args:
        volume: (X, Y, Z), any storage order and intensity unit; with or without skull, with or without neck.
        affine: (4, 4), voxel -> world (RAS, mm); may be oblique or sheared.

    Returns:
        The registration, good or bad: ask `Bounds.objection`. Its similarity is -1 when nothing was found.
    """
    levels = _template_levels()
    moving = {2: _moving(volume, affine)}
    moving |= {mm: moving[2].reduced(mm) for mm in (4, 6, 8)}
    region = sitk.GetArrayFromImage(levels[8].mask) > 0
    best, similarity = np.eye(4), -1.0
    for scale in SCALES:
        start = max(_starts(moving[4], scale), key=lambda matrix: _correlation(matrix, levels[8], moving[8], region))
        try:
            found = _optimised(start, levels[6], moving[6], step=2.0, iterations=100)
        except RuntimeError:  # the template has left the image
            continue
        reached = _correlation(found, levels[4], moving[4])
        if reached > similarity:
            best, similarity = found, reached
    if similarity == -1.0:
        return describe(best, similarity)
    try:
        best = _optimised(best, levels[4], moving[4], step=1.0, iterations=100)
        best = _optimised(best, levels[2], moving[2], step=0.5, iterations=40, share=0.25)
    except RuntimeError:
        return describe(best, -1.0)
    return describe(best, _correlation(best, levels[4], moving[4]))
