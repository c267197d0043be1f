"""DICOM series for the integration tests: of any volume, and of a realistic head, the demo's stroke."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np

from scripts.release import demo
from tests.dicom.synthetic import PLANES, save, slices


def series_of(image: nib.Nifti1Image, folder: Path, plane: str = "axial", every: int = 1, **changes: Any) -> Path:
    """Write a volume as a series, scaled to [0, 1000]; returns the folder.

    Args:
        image: its axes along those of the patient.
        folder: of the files.
        plane: key of `PLANES`, but for "oblique".
        every: which slices.
        changes: attributes of all images.
    """
    image = nib.as_closest_canonical(image)
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
    between, rows, columns = (float(x) for x in np.array(image.header.get_zooms())[axes])
    return save(slices(voxels, plane, (between * every, rows, columns), tuple(origin), **changes), folder)


def stroke_series(folder: Path, work: Path, plane: str = "axial", **changes: Any) -> Path:
    """Write every third slice of the demo's head, its stroke at the paper's level, as a series; returns the folder.

    Args:
        folder: of the files.
        work: where the demo's NIfTI may lie; used again when it is there.
        plane: key of `PLANES`, but for "oblique".
        changes: attributes of all images.
    """
    path = work / "input" / "stroke.nii.gz"
    if not path.is_file():
        with patch.object(demo, "LESION_CENTRE", (42.0, -22.0, 24.0)):
            demo.write_demo_input(work)
    return series_of(nib.load(path), folder, plane, 3, **{"SeriesDescription": "t1_mprage", **changes})
