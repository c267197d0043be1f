"""Prepared heads on disk: 8-bit NIfTI on the grid of levels. Brightness is in units of the brain's median."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..common.errors import PhanesInputError
from ..common.files import write_atomically
from ..space.geometry import NIFTI_MNI152
from ..space.levels import GRID, level_affine

BRAIN_VALUE = 100  # the stored value of the brain's median
BRIGHTEST = 255 / BRAIN_VALUE  # in units of that median; brighter voxels are cut off here


def prepared_files(folder: str | Path) -> list[Path]:
    """The prepared heads of a folder, by name.

    Raises:
        PhanesInputError: there are none.
    """
    files = sorted(Path(folder).glob("*.nii.gz"))
    if not files:
        raise PhanesInputError(
            f"No prepared heads (*.nii.gz) in '{folder}': make them with `python -m scripts prepare`."
        )
    return files


def write_prepared(path: Path, levels: NDArray) -> None:
    """Store a head.

    Args:
        path: `<subject>.nii.gz`.
        levels: (H, W, D) on the grid of levels, in units of the brain's median; what is below 0 becomes 0.
    """
    stored = np.clip(np.round(np.asarray(levels, dtype=np.float64) * BRAIN_VALUE), 0, 255).astype(np.uint8)
    image = nib.Nifti1Image(stored, level_affine())
    image.header.set_sform(level_affine(), code=NIFTI_MNI152)
    image.header.set_qform(level_affine(), code=NIFTI_MNI152)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"T1w head, brain median {BRAIN_VALUE}"
    write_nifti(path, image)


def read_prepared(path: str | Path) -> NDArray[np.float32]:
    """(H, W, D) on the grid of levels, in units of the brain's median, 0 to 2.55.

    Raises:
        PhanesInputError: the file is not a prepared head.
    """
    try:
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
    except (OSError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise PhanesInputError(f"'{path}' cannot be read as a prepared head: run prepare again.") from error
    if values.shape != GRID or values.dtype != np.uint8 or not np.allclose(image.affine, level_affine(), atol=1e-3):
        raise PhanesInputError(f"'{path}' is not on the grid of levels: make it with `python -m scripts prepare`.")
    return values.astype(np.float32) / np.float32(BRAIN_VALUE)


def write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write `*.nii.gz`, whole or not at all; the same image always gives the same bytes."""
    content = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    write_atomically(path, lambda partial: partial.write_bytes(content), shared=True)
