"""Finding images: the cases of an inference run and the slices of a training set."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from pydicom.misc import is_dicom

from .errors import PhanesInputError

SUFFIXES = (".nii", ".nii.gz", ".png")
ACCEPTED = "*.nii, *.nii.gz, *.png (one axial slice, anterior up) or folders of DICOM files"


def case_stem(path: Path) -> str:
    """File name without `.nii.gz`, `.nii`, `.png` or `.dcm` (whatever their capitals); a folder's whole name."""
    return path.name if path.is_dir() else re.sub(r"\.(nii\.gz|nii|png|dcm)$", "", path.name, flags=re.IGNORECASE)


def is_dicom_file(path: Path) -> bool:
    """True for a readable file with a DICOM preamble, or with the suffix `.dcm` (files without preamble exist)."""
    if path.suffix.lower() == ".dcm":
        return True
    try:
        return is_dicom(path)
    except OSError:
        return False


def find_cases(dataset_dir: str | Path) -> list[dict[str, str]]:
    """All cases below a folder, or the one case that a single file is.

    Args:
        dataset_dir: a folder holding, at any depth, `*.nii`, `*.nii.gz`, `*.png` or folders of DICOM files (each such
            folder is one series); or a single file of these kinds. Hidden files and folders are passed over.

    Returns:
        One item a case, sorted by path: `{"image": path, "case": name}`. Names are unique without regard to capitals,
        because they become folder names: a clash is made unique by the parent folders' names, then by a number.

    Raises:
        PhanesInputError: the path does not exist, or holds no case.
    """
    root = Path(dataset_dir).expanduser()
    if not str(dataset_dir).strip() or not root.exists():
        raise PhanesInputError(f"dataset_dir '{dataset_dir}' does not exist: give a folder or a file ({ACCEPTED}).")
    if root.is_file():
        paths = [root] if root.name.lower().endswith(SUFFIXES) or is_dicom_file(root) else []
    else:
        paths = _cases_below(root)
    if not paths:
        raise PhanesInputError(f"No images found in dataset_dir '{root}': it should hold {ACCEPTED}.")
    return [
        {"image": str(path), "case": name} for path, name in zip(paths, _unique_names(paths, root.parent), strict=True)
    ]


def _cases_below(root: Path) -> list[Path]:
    """Image files, and folders that directly hold DICOM files, in sorted order."""
    cases: set[Path] = set()
    visited: set[Path] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in visited:  # a link that leads back
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for path in (Path(folder, name) for name in files if not name.startswith(".")):
            if not path.is_file():  # a pipe or a broken link
                continue
            if path.name.lower().endswith(SUFFIXES):
                cases.add(path)
            elif path.parent not in cases and path.name != "DICOMDIR" and is_dicom_file(path):
                cases.add(path.parent)
    return sorted(cases)


def _unique_names(paths: list[Path], base: Path) -> list[str]:
    """Case names that stay distinct on file systems that ignore capitals."""
    names = [case_stem(path) for path in paths]
    clashes = {name for name, count in Counter(n.casefold() for n in names).items() if count > 1}
    for i, path in enumerate(paths):
        if names[i].casefold() in clashes:
            names[i] = "_".join([*path.relative_to(base).parent.parts, names[i]])
    seen: set[str] = set()
    for i, name in enumerate(names):
        unique, n = name, 2
        while unique.casefold() in seen:
            unique, n = f"{name}_{n}", n + 1
        seen.add(unique.casefold())
        names[i] = unique
    return names


def slice_files(data_dir: str | Path, split: str) -> list[dict[str, str]]:
    """The slices of one split of a training set, `<data_dir>/<split>/*.png`.

    Args:
        data_dir: folder with the sub-folders `train`, `val` and `test`; the data sets of these must share no subject.
        split: name of the sub-folder.

    Returns:
        `[{"image": path, "subject": file name without suffix}, ...]`, sorted by path.

    Raises:
        PhanesInputError: the folder is missing or holds no PNG.
    """
    folder = Path(data_dir).expanduser() / split
    files = sorted(folder.glob("*.png"))
    if not files:
        raise PhanesInputError(f"No slices (*.png) found in '{folder}': data_dir should hold {split}/.")
    return [{"image": str(path), "subject": path.stem} for path in files]
