"""From an anomaly map to findings: connected regions, numbered by how strong they are, with place and size."""

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

MIDLINE_MM = 3.0  # a centre nearer than this to the midline lies on neither side
TOUCHING = ndimage.generate_binary_structure(3, 3)  # voxels that share a corner belong together


@dataclass(frozen=True)
class Finding:
    """A connected region of the anomaly map above the label's threshold; the columns of `findings.csv`.

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
        structures: that it lies in, with their share; empty without an atlas.
        mean: of the anomaly map.
        peak: of the anomaly map.
        healthy_as_strong: share of the healthy images of the calibration that have a finding with at least this peak;
            None when the calibration did not record them.
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
    structures: str
    mean: float
    peak: float
    healthy_as_strong: float | None


COLUMNS = tuple(field.name for field in fields(Finding))


def regions(anomaly: NDArray, threshold: float, smallest: int) -> tuple[NDArray[np.int32], list[float], list[int]]:
    """Connected regions above a threshold, by falling peak.

    Args:
        anomaly: (X, Y, Z), 0 where nothing was analysed.
        threshold: a voxel belongs to a region when it is above it.
        smallest: voxels of the smallest region that counts.

    Returns:
        Numbers from 1 on, (X, Y, Z), 0 elsewhere; the regions' peaks and numbers of voxels.
    """
    labels, count = ndimage.label(anomaly > threshold, structure=TOUCHING)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = np.flatnonzero(sizes >= smallest)
    peaks = np.asarray(ndimage.maximum(anomaly, labels, index=kept + 1)) if kept.size else np.zeros(0)
    order = np.lexsort((-sizes[kept], -peaks))  # of equal peaks the larger region first
    numbers = np.zeros(count + 1, dtype=np.int32)
    numbers[kept[order] + 1] = np.arange(1, kept.size + 1)
    return numbers[labels], [float(peaks[i]) for i in order], [int(sizes[kept[i]]) for i in order]


def find(
    anomaly: NDArray,
    threshold: float,
    smallest: int,
    affine: NDArray,
    into_mni: NDArray,
    healthy_peaks: Sequence[float] | None = None,
    *,
    spacing_known: bool = True,
    sides_known: bool = True,
) -> tuple[NDArray[np.uint8], list[Finding]]:
    """The findings of a head.

    Args:
        anomaly: (X, Y, Z), 0 where nothing was analysed.
        threshold: of the label.
        smallest: voxels of the smallest finding.
        affine: (4, 4), voxel -> world of the scan, RAS, mm.
        into_mni: (4, 4), voxel -> MNI152 world, mm.
        healthy_peaks: the highest peak of each healthy image of the calibration, 0 for one without a finding.
        spacing_known: whether the input knows the size of its voxels.
        sides_known: whether the input records which side is left.

    Returns:
        The label (X, Y, Z), each finding's number, at most `MAX_NUMBERS`; and all findings, the strongest first.
    """
    labels, peaks, sizes = regions(anomaly, threshold, smallest)
    if not peaks:
        return np.zeros(anomaly.shape, dtype=np.uint8), []
    index = np.arange(1, len(peaks) + 1)
    centres = np.atleast_2d(ndimage.center_of_mass(labels > 0, labels, index))
    means = ndimage.mean(anomaly, labels, index)
    voxel = float(abs(np.linalg.det(np.asarray(affine)[:3, :3])))
    scan, mni = apply_affine(affine, centres), apply_affine(into_mni, centres)
    found = [
        Finding(
            number=i + 1,
            volume_mm3=sizes[i] * voxel if spacing_known else None,
            x_mm=float(scan[i, 0]) if spacing_known else None,
            y_mm=float(scan[i, 1]) if spacing_known else None,
            z_mm=float(scan[i, 2]) if spacing_known else None,
            mni_x_mm=float(mni[i, 0]),
            mni_y_mm=float(mni[i, 1]),
            mni_z_mm=float(mni[i, 2]),
            side=_side(mni[i, 0]) if sides_known else "unknown",
            structures="",
            mean=float(means[i]),
            peak=peaks[i],
            healthy_as_strong=None if healthy_peaks is None else float(np.mean(np.asarray(healthy_peaks) >= peaks[i])),
        )
        for i in range(len(peaks))
    ]
    return np.minimum(labels, MAX_NUMBERS).astype(np.uint8), found


def _side(x_mm: float) -> str:
    if abs(x_mm) < MIDLINE_MM:
        return "midline"
    return "left" if x_mm < 0 else "right"


def sides_known(meta: Mapping[str, Any]) -> bool:
    """Whether an image records which side is left: a PNG does not, nor a NIfTI or Analyze file with both codes 0."""
    if "sform_code" in meta:
        return bool(int(meta["sform_code"]) or int(meta["qform_code"]))
    return bool(meta.get("spacing_known", True))


def write_findings(found: Sequence[Finding], path: Path) -> None:
    """`findings.csv`: a row a finding, numbers with six significant digits, empty where one is not known."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for finding in found:
            values = [getattr(finding, column) for column in COLUMNS]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in values])
