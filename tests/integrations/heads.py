"""DICOM series of a realistic head for the integration tests: the demo's stroke, every third slice, axial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from scripts.demo import write_demo_input
from tests.dicom.synthetic import save, slices


def stroke_series(folder: Path, work: Path, **changes: Any) -> Path:
    """Write the series to `folder`.

    Args:
        folder: of the files.
        work: where the demo's NIfTI may lie; used again when it is there.
        changes: attributes of all images.
    """
    path = work / "input" / "stroke.nii.gz"
    if not path.is_file():
        write_demo_input(work)
    image = nib.as_closest_canonical(nib.load(path))
    voxels = np.asarray(image.dataobj)[..., ::3]
    voxels = np.round(voxels / voxels.max() * 1000)
    rows = voxels[::-1, ::-1].transpose(2, 1, 0)  # (slices, rows to posterior, columns to the patient's left)
    last = image.affine @ [image.shape[0] - 1, image.shape[1] - 1, 0, 1]
    origin = (-float(last[0]), -float(last[1]), float(last[2]))
    return save(slices(rows, "axial", (3.0, 1.0, 1.0), origin, SeriesDescription="t1_mprage", **changes), folder)
