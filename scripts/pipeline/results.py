"""Results of a case on disk: written to a temporary folder, moved into place when complete."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from ..common.errors import PhanesInputError, PhanesOutputError
from .limits import is_sheared
from .readers import nifti_header, quiet_libraries

# key of an image in the pipeline -> (suffix of its file, data type on disk)
IMAGES: dict[str, tuple[str, type]] = {
    "anomaly": ("anomaly", np.float32),
    "pseudo_healthy": ("pseudo_healthy", np.float32),
    "coarse": ("coarse", np.float32),
    "mask": ("mask", np.uint8),
    "pred": ("label", np.uint8),
}


def result_names(case: str) -> list[str]:
    """Names of all files and folders that a case can have."""
    others = [f"{case}_findings.csv", f"{case}.png", f"{case}.html", "dicom"]
    return [f"{case}_{suffix}.nii.gz" for suffix, _ in IMAGES.values()] + others


@contextmanager
def replaced_together(folder: Path, known: list[str], partial_root: Path | None = None) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends well, and vanishes otherwise.

    If `folder` exists, the files move into it one by one, each by an atomic rename. Old files with `known` names that
    were not written again are removed, so that old and new results never mix. Other files stay.

    Args:
        folder: where the files go; made when missing, removed when it ends empty.
        known: names that belong to this case.
        partial_root: where the temporary folder is made, on the same file system; default: beside `folder`.

    Raises:
        PhanesOutputError: `folder` is a link, which could lead anywhere.
    """
    partial = (partial_root or folder.parent) / (folder.name if partial_root else f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.is_symlink():
            raise PhanesOutputError(f"'{folder}' is a link; results are only written to real folders: remove it.")
        written = sorted(partial.iterdir())
        if not folder.exists() and written:
            partial.rename(folder)
        else:
            for path in written:
                if path.is_dir():  # a folder cannot be renamed onto a full one
                    shutil.rmtree(folder / path.name, ignore_errors=True)
                path.replace(folder / path.name)
            remove_files(folder, [name for name in known if name not in {path.name for path in written}])
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_files(folder: Path, names: list[str]) -> None:
    """Remove the named files and folders, and the folder itself if that leaves it empty."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def save_nifti(image: MetaTensor, path: Path, dtype: type) -> None:
    """Write one (1, X, Y, Z) image on the grid of its source: the same shape and affine, bit for bit.

    A NIfTI source's header gives shape, sform, qform, their codes and units. The free-text fields stay empty: they may
    name a person. Other sources get the affine they were read with.
    """
    array: NDArray = np.ascontiguousarray(image.as_tensor()[0].cpu().numpy().astype(dtype))
    source = Path(str(image.meta.get("filename_or_obj", "")))
    nifti = None
    if source.name.lower().endswith((".nii", ".nii.gz")) and source.is_file():
        nifti = _like(source, array, dtype)
    if nifti is None:
        nifti = nib.Nifti1Image(array, np.asarray(image.meta["original_affine"], dtype=np.float64))
    nib.save(nifti, path)


def _like(source: Path, array: NDArray, dtype: type) -> Any:
    """The array under the input's header. None when the input was sheared: the array lies on a straight grid then."""
    try:
        with quiet_libraries():
            kind, unchecked = nifti_header(source)
            header = kind.header_class(unchecked.binaryblock, unchecked.endianness)
    except (OSError, EOFError, ValueError, zlib.error, nib.spatialimages.HeaderDataError) as error:  # it may be gone
        raise PhanesInputError(f"'{source}' changed or vanished while it was analysed; run again.") from error
    if is_sheared(header.get_best_affine()):
        return None
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = np.nan, np.nan
    header["cal_max"], header["cal_min"] = 0, 0
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header:
            header[field] = b""
    header["intent_code"] = 0
    return kind(array.reshape(header.get_data_shape()), None, header)


def save_images(output: Mapping[str, MetaTensor], folder: Path, case: str, save: Mapping[str, bool]) -> None:
    """Write the images of a case that `save` asks for, by their usual names."""
    for key, (suffix, dtype) in IMAGES.items():
        if save.get(suffix, True):
            save_nifti(output[key], folder / f"{case}_{suffix}.nii.gz", dtype)
