"""Results of a case on disk: written to a temporary folder, moved into place when complete."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

# key of an image in the pipeline -> (suffix of its file, data type on disk)
IMAGES: dict[str, tuple[str, type]] = {
    "anomaly": ("anomaly", np.float32),
    "pseudo_healthy": ("pseudo_healthy", np.float32),
    "coarse": ("coarse", np.float32),
    "mask": ("mask", np.uint8),
    "pred": ("label", np.uint8),
}


def result_names(case: str) -> list[str]:
    """Names of all files that a case can have."""
    return [f"{case}_{suffix}.nii.gz" for suffix, _ in IMAGES.values()] + [f"{case}.png"]


@contextmanager
def replaced_together(folder: Path, known: list[str]) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block ends well, and vanish when it does not.

    Either way files of the `known` names from an earlier run are gone afterwards, so that old results never stand
    beside new ones. Each move is an atomic rename on one file system.

    Args:
        folder: where the files shall be; made when missing, removed when it ends empty.
        known: names that belong to this case.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", suffix=".partial", dir=folder.parent))
    try:
        yield partial
        folder.mkdir(exist_ok=True)
        written = sorted(partial.iterdir())
        for path in written:
            path.replace(folder / path.name)
        remove_files(folder, [name for name in known if name not in {path.name for path in written}])
    except BaseException:
        remove_files(folder, known)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_files(folder: Path, names: list[str]) -> None:
    """Remove the named files, and the folder if that leaves it empty."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_nifti(image: MetaTensor, path: Path, dtype: type) -> None:
    """One (1, X, Y, Z) image on the grid of the file it was made from: same shape and affine, bit for bit.

    For a NIfTI source its header gives shape, sform, qform, their codes and units; the free-text fields, which may
    name a person, are left empty. Other sources get the affine they were read with.
    """
    array: NDArray = np.ascontiguousarray(image.as_tensor()[0].cpu().numpy().astype(dtype))
    source = Path(str(image.meta.get("filename_or_obj", "")))
    if source.name.lower().endswith((".nii", ".nii.gz")) and source.is_file():
        nifti = _like(nib.load(source), array, dtype)
    else:
        nifti = nib.Nifti1Image(array, np.asarray(image.meta["original_affine"], dtype=np.float64))
    nib.save(nifti, path)


def _like(source: Any, array: NDArray, dtype: type) -> nib.Nifti1Image:
    header = source.header.copy()
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = np.nan, np.nan
    header["cal_max"], header["cal_min"] = 0, 0
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header:
            header[field] = b""
    header["intent_code"] = 0
    header.extensions = type(header.extensions)()
    return type(source)(array.reshape(source.shape), None, header)


def save_images(output: Mapping[str, MetaTensor], folder: Path, case: str, save: Mapping[str, bool]) -> None:
    """All images of a case that `save` asks for, by the names of the output contract."""
    for key, (suffix, dtype) in IMAGES.items():
        if save.get(suffix, True):
            save_nifti(output[key], folder / f"{case}_{suffix}.nii.gz", dtype)
