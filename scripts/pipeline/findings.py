"""From an anomaly map to findings: connected regions, numbered by strength, with place and size."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from ..dicom.concepts import MAX_NUMBERS
from ..space.structures import Share, shares
from .thresholds import Thresholds

MIDLINE_MM = 3.0  # a centre nearer than this to the midline lies on neither side
TOUCHING = ndimage.generate_binary_structure(3, 3)  # voxels that share a corner belong together


@dataclass(frozen=True)
class Finding:
    """A connected region of the anomaly map above the label's threshold. The attributes are columns of `findings.csv`.

    Attributes:
        number: 1 is the strongest; its value in the label is at most `MAX_NUMBERS`.
        volume_mm3: None where the input does not know the size of its voxels.
        x_mm: of the centre in the scan's world, RAS; None where the input has none.
        y_mm: see there.
        z_mm: see there.
        mni_x_mm: of the centre in MNI152 space.
        mni_y_mm: see there.
        mni_z_mm: see there.
        side: left, right or midline of the patient; unknown where the input does not record its orientation.
        structures: where it lies, the largest share first (`space.structures`). None where its height is not known.
        mean: of the anomaly map.
        peak: of the anomaly map.
        healthy_as_strong: share of the healthy images of the calibration that have a finding with at least this peak;
            None when the calibration did not record them.
        healthy_as_strong_and_large: likewise, one finding with at least this peak and at least this size.
    """

    number: int
    volume_mm3: float | None
    x_mm: float | None
    y_mm: float | None
    z_mm: float | None
    mni_x_mm: float
    mni_y_mm: float
    mni_z_mm: float
    side: str
    structures: tuple[Share, ...]
    mean: float
    peak: float
    healthy_as_strong: float | None
    healthy_as_strong_and_large: float | None


COLUMNS = tuple(field.name for field in fields(Finding))


def regions(
    anomaly: NDArray, threshold: float, smallest: int, peak_share: float = 0.0
) -> tuple[NDArray[np.int32], list[float], list[int]]:
    """Connected regions above a threshold, by falling peak.

    Args:
        anomaly: (X, Y, Z), 0 where nothing was analysed.
        threshold: a voxel belongs to a region when it is above it.
        smallest: voxels of the smallest region that counts.
        peak_share: a voxel of a region is also above this share of the peak: around a strong anomaly the map falls off
            slowly.

    Returns:
        Numbers from 1 on, (X, Y, Z), 0 elsewhere; the regions' peaks; their numbers of voxels.
    """
    labels, count = ndimage.label(anomaly > threshold, structure=TOUCHING)
    if peak_share > 0 and count:
        least = peak_share * _peaks(anomaly, labels, count)
        labels, count = ndimage.label((labels > 0) & (anomaly > least[labels]), structure=TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = np.flatnonzero(sizes >= smallest)
    peaks = _peaks(anomaly, labels, count)[kept + 1]
    order = np.lexsort((-sizes[kept], -peaks))  # of equal peaks the larger region first
    numbers = np.zeros(count + 1, dtype=np.int32)
    numbers[kept[order] + 1] = np.arange(1, kept.size + 1)
    return numbers[labels], [float(peaks[i]) for i in order], [int(sizes[kept[i]]) for i in order]


def _peaks(anomaly: NDArray, labels: NDArray[np.integer], count: int) -> NDArray:
    """The largest value of each region from 0, no region, to `count`. `ndimage.maximum` sorts the whole volume."""
    inside = labels > 0
    peaks = np.zeros(count + 1, dtype=anomaly.dtype)
    np.maximum.at(peaks, labels[inside], anomaly[inside])
    return peaks


def find(
    anomaly: NDArray,
    limits: Thresholds,
    voxel: float,
    affine: NDArray,
    into_mni: NDArray,
    *,
    spacing_known: bool = True,
    thickness_known: bool = True,
    sides_known: bool = True,
    height_known: bool = True,
) -> tuple[NDArray[np.uint8], list[Finding]]:
    """The findings of a head.

    Args:
        anomaly: (X, Y, Z), 0 where nothing was analysed.
        limits: what makes a finding, and the healthy images to compare it with.
        voxel: size of a voxel in the unit of the limits' sizes.
        affine: (4, 4), voxel -> world of the scan, RAS, mm.
        into_mni: (4, 4), voxel -> MNI152 world, mm.
        spacing_known: whether the input knows the size of its voxels.
        thickness_known: whether it knows how thick its slices are. Otherwise findings have no volume.
        sides_known: whether the input records which side is left.
        height_known: whether the MNI height is known; that of a single slice from an unknown place is not.

    Returns:
        The label (X, Y, Z) with each finding's number, at most `MAX_NUMBERS`, and all findings, the strongest first.
    """
    labels, peaks, sizes = regions(anomaly, limits.label, int(np.ceil(limits.smallest / voxel)), limits.peak_share)
    if not peaks:
        return np.zeros(anomaly.shape, dtype=np.uint8), []
    index = np.arange(1, len(peaks) + 1)
    centres = np.atleast_2d(ndimage.center_of_mass(labels > 0, labels, index))
    means = ndimage.mean(anomaly, labels, index)
    mm3 = float(abs(np.linalg.det(np.asarray(affine)[:3, :3])))
    scan, mni = apply_affine(affine, centres), apply_affine(into_mni, centres)
    lies_in = shares(labels, len(peaks), into_mni, sides_known=sides_known) if height_known else [()] * len(peaks)
    found = [
        Finding(
            number=i + 1,
            volume_mm3=sizes[i] * mm3 if spacing_known and thickness_known else None,
            x_mm=float(scan[i, 0]) if spacing_known else None,
            y_mm=float(scan[i, 1]) if spacing_known else None,
            z_mm=float(scan[i, 2]) if spacing_known else None,
            mni_x_mm=float(mni[i, 0]),
            mni_y_mm=float(mni[i, 1]),
            mni_z_mm=float(mni[i, 2]),
            side=_side(mni[i, 0]) if sides_known else "unknown",
            structures=lies_in[i],
            mean=float(means[i]),
            peak=peaks[i],
            healthy_as_strong=limits.healthy_with(peaks[i]),
            healthy_as_strong_and_large=limits.healthy_with(peaks[i], sizes[i] * voxel),
        )
        for i in range(len(peaks))
    ]
    return np.minimum(labels, MAX_NUMBERS).astype(np.uint8), found


def _side(x_mm: float) -> str:
    if abs(x_mm) < MIDLINE_MM:
        return "midline"
    return "left" if x_mm < 0 else "right"


def sides_known(meta: Mapping[str, Any]) -> bool:
    """Whether an image records which side is left. PNG does not, and no NIfTI or Analyze file with both codes 0."""
    if "sform_code" in meta:
        return bool(int(meta["sform_code"]) or int(meta["qform_code"]))
    return bool(meta.get("spacing_known", True))


def write_findings(found: Sequence[Finding], path: Path) -> None:
    """Write `findings.csv`: a row a finding, numbers with six significant digits. Unknown ones are empty.

    Structures are written as `left thalamus 62 %; left putamen 30 %`.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for finding in found:
            writer.writerow([_cell(getattr(finding, column)) for column in COLUMNS])


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
