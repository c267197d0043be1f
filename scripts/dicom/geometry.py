"""Do these slices make a volume? If not, what is wrong with them, in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from .headers import header_number, header_values

SPACING_TOLERANCE = 0.05  # of the slice distance
ORIENTATION_TOLERANCE = 1e-3  # of a direction cosine, about 0.06 degrees
NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")


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


def planes_of(images: Sequence[Dataset]) -> list[Plane] | str:
    """One plane for each image, or each frame of a multi-frame object; a sentence when their place is not known."""
    planes = []
    for image in images:
        frames = header_number(image, "NumberOfFrames") or 1
        described = max(len(image.get("PerFrameFunctionalGroupsSequence") or []), 1)
        for frame in range(frames):
            if frame == described:  # before a billion of them is looked for
                return f"claims {frames} frames but says of {described} where they lie; give the original images"
            found = {name: np.asarray(header_values(image, name, frame), dtype=float) for name in NEEDED}
            missing = [name for name, values in found.items() if not values.size]
            if missing:
                return f"lacks {missing[0]}: its slices have no known place in the patient; give the original images"
            planes.append(
                Plane(
                    found["ImagePositionPatient"],
                    found["ImageOrientationPatient"],
                    (float(found["PixelSpacing"][0]), float(found["PixelSpacing"][1])),
                    (int(found["Rows"][0]), int(found["Columns"][0])),
                )
            )
    return planes


def stack_problem(planes: Sequence[Plane]) -> str:
    """What keeps parallel, equally spaced slices from being what these are; "" when nothing does.

    In this order: different sizes, pixel spacings or orientations (a localizer, mixed series); several images at one
    position (echoes, time points, repeated slices); missing slices; uneven spacing; slices that move sideways from one
    to the next (as with a tilted gantry), by more than half a pixel over the stack.
    """
    shapes = Counter(plane.shape for plane in planes)
    if len(shapes) > 1:
        sizes = ", ".join(f"{columns}x{rows}" for rows, columns in sorted(shapes))
        return f"holds images of {len(shapes)} sizes ({sizes}), so several acquisitions in one series; separate them"
    spacings = {tuple(np.round(plane.spacing, 3)) for plane in planes}
    if len(spacings) > 1:
        return f"holds images of {len(spacings)} pixel spacings, so several acquisitions in one series; separate them"
    orientations = np.array([plane.orientation for plane in planes])
    if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE:
        count = len(np.unique(np.round(orientations, 2) + 0.0, axis=0))
        return f"holds slices of {max(count, 2)} orientations, as a localizer does; give a series of parallel slices"
    row, column = orientations[0, :3], orientations[0, 3:]
    if abs(row @ column) > 0.01 or abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01:
        return "has an ImageOrientationPatient that is no pair of perpendicular unit vectors; mend the header"
    return _distance_problem(planes, np.cross(row, column))


def _distance_problem(planes: Sequence[Plane], normal: NDArray) -> str:
    positions = np.array([plane.position for plane in planes])
    distances = positions @ normal
    order = np.argsort(distances)
    gaps = np.diff(distances[order])
    if not gaps.size:
        return ""
    together = gaps < 0.01
    if together.any():
        places = len(planes) - int(together.sum())
        return (
            f"holds {len(planes)} images at {places} slice positions (echoes, time points or repeated slices); "
            "give one image a position"
        )
    step = float(np.median(gaps))
    steps = np.round(gaps / step)
    whole = np.abs(gaps - steps * step) <= SPACING_TOLERANCE * step * np.maximum(steps, 1)
    if whole.all() and (steps > 1).any():
        wide = int(np.argmax(gaps))
        return (
            f"lacks {int((steps - 1).sum())} of {int(steps.sum()) + 1} slices (the first gap is {gaps[wide]:.3g} mm "
            f"after slice {wide + 1}, the others are {step:.3g} mm apart); export the series again"
        )
    if not whole.all():
        return (
            f"has unevenly spaced slices ({gaps.min():.3g} to {gaps.max():.3g} mm apart); "
            "give a series of equally spaced slices"
        )
    in_plane = positions - np.outer(distances, normal)
    drift = float(np.linalg.norm(in_plane - in_plane[order[0]], axis=1).max())
    if drift > min(planes[0].spacing) / 2:
        angle = np.degrees(np.arctan2(drift, distances[order[-1]] - distances[order[0]]))
        return (
            f"is sheared: its slices move sideways by {drift:.3g} mm over the stack ({angle:.2g} degrees, as with a "
            "tilted gantry); resample it to a straight volume"
        )
    return ""
