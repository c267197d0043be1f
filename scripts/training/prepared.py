"""Prepared heads and slices on disk: 8-bit NIfTI on the grid of levels, in units of the brain's median."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..common.errors import PhanesInputError
from ..common.files import write_atomically
from ..space.geometry import NIFTI_MNI152
from ..space.levels import LEVELS_MM, SIZE, STEP_MM, level_affine

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


def write_prepared(path: Path, levels: NDArray, first_mm: float = LEVELS_MM[0]) -> None:
    """Store a head, or some of its levels.

    Args:
        path: `<subject>.nii.gz`.
        levels: (H, W, D) on the grid of levels, in units of the brain's median; what is below 0 becomes 0.
        first_mm: MNI z of the lowest level.
    """
    stored = np.clip(np.round(np.asarray(levels, dtype=np.float64) * BRAIN_VALUE), 0, 255).astype(np.uint8)
    image = nib.Nifti1Image(stored, level_affine(first_mm))
    image.header.set_sform(level_affine(first_mm), code=NIFTI_MNI152)
    image.header.set_qform(level_affine(first_mm), code=NIFTI_MNI152)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"T1w head, brain median {BRAIN_VALUE}"
    write_nifti(path, image)


def heights_of(path: str | Path) -> tuple[float, ...]:
    """MNI z of the levels that a prepared file holds, mm.

    Raises:
        PhanesInputError: the file is not a prepared head.
    """
    return _read(path)[1]


def read_prepared(path: str | Path, heights: Sequence[float] = LEVELS_MM) -> NDArray[np.float32]:
    """Some levels of a prepared head: (H, W, D), in units of the brain's median, 0 to 2.55.

    Args:
        path: the file; it may hold more levels.
        heights: MNI z of the levels, mm.

    Raises:
        PhanesInputError: the file is not a prepared head, or lacks one of the levels.
    """
    values, there = _read(path)
    try:
        wanted = [there.index(float(z)) for z in heights]
    except ValueError:
        raise PhanesInputError(
            f"'{path}' lacks one of the levels {heights[0]:+g} to {heights[-1]:+g} mm: leave it out, or choose "
            "other levels_mm."
        ) from None
    return values[..., wanted].astype(np.float32) / np.float32(BRAIN_VALUE)


def _read(path: str | Path) -> tuple[NDArray[np.uint8], tuple[float, ...]]:
    """The stored values (H, W, D), and the levels' MNI z."""
    try:
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj)
    except (OSError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise PhanesInputError(f"'{path}' cannot be read as a prepared head: run prepare again.") from error
    first = round(float(image.affine[2, 3]), 3)
    on_grid = np.allclose(image.affine, level_affine(first), atol=1e-3)
    if values.ndim != 3 or values.shape[:2] != (SIZE, SIZE) or values.dtype != np.uint8 or not on_grid:
        raise PhanesInputError(f"'{path}' is not on the grid of levels: make it with `python -m scripts prepare`.")
    return values, tuple(first + STEP_MM * k for k in range(values.shape[2]))


def write_nifti(path: Path, image: nib.Nifti1Image) -> None:
    """Write `*.nii.gz`, whole or not at all; the same image always gives the same bytes."""
    content = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    write_atomically(path, lambda partial: partial.write_bytes(content), shared=True)
