"""DICOM series of a realistic head for the integration tests: the demo's stroke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.demo import write_demo_input
from tests.dicom.synthetic import PLANES, save, slices


def stroke_series(folder: Path, work: Path, plane: str = "axial", every: int = 3, **changes: Any) -> Path:
    """Write the series to `folder`.

    Args:
        folder: of the files.
        work: where the demo's NIfTI may lie; used again when it is there.
        plane: key of `PLANES`, along the axes of the volume (not "oblique").
        every: which slices, and their distance in mm.
        changes: attributes of all images.
    """
    path = work / "input" / "stroke.nii.gz"
    if not path.is_file():
        write_demo_input(work)
    image = nib.as_closest_canonical(nib.load(path))
    row, column = (np.array(direction, dtype=float) for direction in PLANES[plane])
    ras = np.array([np.cross(row, column), column, row]) * [-1, -1, 1]  # of slices, rows, columns
    axes = np.abs(ras).argmax(axis=1)
    forward = ras[range(3), axes] > 0
    voxels = np.asarray(image.dataobj).transpose(axes)
    voxels = voxels[tuple(slice(None, None, 1 if along else -1) for along in forward)][::every]
    voxels = np.round(voxels / voxels.max() * 1000)
    first = np.zeros(3)
    first[axes] = np.where(forward, 0, np.array(image.shape)[axes] - 1)
    origin = [float(x) for x in (image.affine @ [*first, 1])[:3] * [-1, -1, 1]]
    spacing = (float(every), 1.0, 1.0)
    return save(slices(voxels, plane, spacing, tuple(origin), SeriesDescription="t1_mprage", **changes), folder)
