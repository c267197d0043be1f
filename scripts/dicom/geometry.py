"""Whether slices make a volume: in which order and where, or else what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..common.errors import PhanesInputError

SPACING_TOLERANCE = 0.05  # of the slice distance
ROUNDING_MM = 0.1  # some exports round positions to this
ORIENTATION_TOLERANCE = 1e-3  # of a direction cosine, about 0.06 degrees
SAME_PLACE_MM = 0.01


@dataclass(frozen=True)
class Plane:
    """Where one slice lies, in DICOM's terms (LPS, mm).

    Attributes:
        position: (3,) centre of the first pixel.
        orientation: (6,) direction cosines of a row and of a column.
        spacing: mm between rows, between columns.
        shape: rows, columns.
    """

    position: NDArray
    orientation: NDArray
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @property
    def normal(self) -> NDArray:
        """(3,) unit vector across the slice."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class Stack:
    """Equally spaced parallel slices.

    Attributes:
        order: of the planes that were given, against the normal.
        affine: (4, 4) from indices (slice, row, column) to LPS, mm.
        sheared: the slices move sideways, as with a tilted gantry, so the first axis is not across them.
        note: what is not quite regular, "" for nothing.
    """

    order: list[int]
    affine: NDArray
    sheared: bool
    note: str


def check_parallel(planes: Sequence[Plane]) -> None:
    """Refuse slices of different sizes, pixel spacings or orientations (a localizer, mixed series).

    Raises:
        PhanesInputError: they differ. The path is left out.
    """
    shapes = Counter(plane.shape for plane in planes)
    if len(shapes) > 1:
        sizes = ", ".join(f"{columns}x{rows}" for rows, columns in sorted(shapes))
        raise PhanesInputError(
            f"holds images of {len(shapes)} sizes ({sizes}), so several acquisitions in one series; separate them"
        )
    spacings = {tuple(np.round(plane.spacing, 3)) for plane in planes}
    if len(spacings) > 1:
        raise PhanesInputError(
            f"holds images of {len(spacings)} pixel spacings, so several acquisitions in one series; separate them"
        )
    orientations = np.array([plane.orientation for plane in planes])
    if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE:
        count = len(np.unique(np.round(orientations, 2) + 0.0, axis=0))
        raise PhanesInputError(
            f"holds slices of {max(count, 2)} orientations, as a localizer does; give a series of parallel slices"
        )
    row, column = orientations[0, :3], orientations[0, 3:]
    if abs(row @ column) > 0.01 or abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01:
        raise PhanesInputError(
            "has an ImageOrientationPatient that is no pair of perpendicular unit vectors; mend the header"
        )


def places(planes: Sequence[Plane]) -> NDArray[np.int_]:
    """Number of each parallel plane's position along the normal, from 0."""
    distances = np.array([plane.position for plane in planes]) @ planes[0].normal
    order = np.argsort(distances)
    steps = np.diff(distances[order], prepend=distances[order[0]]) >= SAME_PLACE_MM
    numbers = np.empty(len(planes), int)
    numbers[order] = np.cumsum(steps)
    return numbers


def arrange(planes: Sequence[Plane], single_mm: float = 1.0) -> Stack:
    """Order and place of parallel slices, one a position.

    Positions may be off their line by `ROUNDING_MM`. The line need not be across the slices.

    Args:
        planes: in any order; see `check_parallel`.
        single_mm: distance that a slice stands for when there is only one.

    Raises:
        PhanesInputError: slices are missing, unevenly spaced or jump sideways. The path is left out.
    """
    positions, normal = np.array([plane.position for plane in planes]), planes[0].normal
    order = np.argsort(-(positions @ normal), kind="stable")
    positions = positions[order]
    gaps = -np.diff(positions @ normal)
    step = float(np.median(gaps)) if gaps.size else single_mm
    index = np.concatenate([[0], np.cumsum(np.round(gaps / step))])
    vector, origin = -normal * step, positions[0]
    note = ""
    if gaps.size:
        vector, origin = np.polyfit(index, positions, 1)
        off = positions - origin - np.outer(index, vector)
        along = float(np.abs(off @ normal).max())
        if along > max(SPACING_TOLERANCE * step, ROUNDING_MM):
            raise PhanesInputError(
                f"has unevenly spaced slices ({gaps.min():.3g} to {gaps.max():.3g} mm apart); "
                "give a series of equally spaced slices"
            )
        if (lacking := int(index[-1]) + 1 - len(planes)) > 0:
            after, wide = np.argmax(gaps[::-1]) + 1, gaps.max()
            raise PhanesInputError(
                f"lacks {lacking} of {int(index[-1]) + 1} slices (the first gap is {wide:.3g} mm after slice {after}, "
                f"the others are {step:.3g} mm apart); export the series again"
            )
        sideways = float(np.linalg.norm(off - np.outer(off @ normal, normal), axis=1).max())
        if sideways > max(min(planes[0].spacing) / 2, ROUNDING_MM):
            raise PhanesInputError(f"has slices that jump sideways by {sideways:.3g} mm; give the original images")
        if along > SPACING_TOLERANCE * step:
            note = f"slice positions are rounded (off by up to {along:.2g} mm)"
    across = normal * (vector @ normal)
    sheared = float(np.linalg.norm(vector - across)) * index[-1] > min(planes[0].spacing) / 2
    if sheared:
        angle = np.degrees(np.arccos(np.clip(np.linalg.norm(across) / np.linalg.norm(vector), -1, 1)))
        note = f"slices are sheared by {angle:.2g} degrees (a tilted gantry), so it was resampled to a straight volume"
    row = planes[0].orientation[:3] / np.linalg.norm(planes[0].orientation[:3])
    affine = np.eye(4)
    affine[:3, 0] = vector if sheared else across
    affine[:3, 1] = np.cross(normal, row) * planes[0].spacing[0]
    affine[:3, 2] = row * planes[0].spacing[1]
    affine[:3, 3] = origin
    return Stack(order.tolist(), affine, bool(sheared), note)
