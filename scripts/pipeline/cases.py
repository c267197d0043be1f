"""Finding images: the cases of an inference run and the slices of a training set."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ..common.errors import PhanesInputError
from ..common.names import case_name
from ..dicom.headers import is_dicom_file
from ..dicom.selection import Decision, SeriesSelection
from ..dicom.series import find_series

SUFFIXES = (".nii", ".nii.gz", ".png")
RECORDS = ".phanes"  # folder in an output folder
ACCEPTED = "*.nii, *.nii.gz, *.png (one axial slice, anterior up) or folders of DICOM files"


def case_stem(path: Path) -> str:
    """File name without `.nii.gz`, `.nii`, `.png` or `.dcm` (whatever their capitals); a folder's whole name."""
    stem = path.name if path.is_dir() else re.sub(r"\.(nii\.gz|nii|png|dcm)$", "", path.name, flags=re.IGNORECASE)
    return case_name(stem)


def find_cases(dataset_dir: str | Path, selection: SeriesSelection | None = None) -> list[dict[str, Any]]:
    """All cases below a folder, or the one case that a single file is.

    Args:
        dataset_dir: a folder holding, at any depth, `*.nii`, `*.nii.gz`, `*.png` or DICOM files; or a single file of
            these kinds. Hidden files and folders are passed over.
        selection: which DICOM series are cases; None takes every series.

    Returns:
        One item a case, sorted by path: `{"image": path, "case": name}`. A DICOM series is a case; its `image` is the
        folder it lies in (or the single file given), and `files` lists its files; `note` is there when something about
        them should be known. Names are unique without regard to capitals, because they become folder names: a clash is
        made unique by the parent folders' names, then by a number.

    Raises:
        PhanesInputError: the path does not exist, or holds no case.
    """
    root = Path(dataset_dir).expanduser()
    if not str(dataset_dir).strip() or not root.exists():
        raise PhanesInputError(f"dataset_dir '{dataset_dir}' does not exist: give a folder or a file ({ACCEPTED}).")
    images, dicoms = _files_below(root) if root.is_dir() else _one_file(root)
    selection = selection or SeriesSelection()
    series = find_series(dicoms)
    decisions = selection.decide(series, named=root.is_file())
    crowded = Counter(file.parent for one in series for file in one.files[:1])
    items: list[tuple[str, dict[str, Any]]] = [(case_stem(path), {"image": str(path)}) for path in images]
    for decision in decisions:
        if decision.chosen:
            one = decision.series
            place = root if root.is_file() else one.folder
            name = case_stem(place.resolve())
            if crowded[one.files[0].parent] > 1 or any(file.parent != place for file in one.files if place.is_dir()):
                name = f"{name}_series{one.number or series.index(one) + 1}"
            note = "; ".join(filter(None, [decision.warning, one.note]))
            item: dict[str, Any] = {"image": str(place)}
            if place.is_dir():
                item["files"] = [str(file) for file in one.files]
            items.append((name, item | ({"note": note} if note else {})))
    if not items:
        raise PhanesInputError(_nothing_found(root, decisions))
    items.sort(key=lambda pair: (pair[1]["image"], pair[0]))
    names = _unique_names([name for name, _ in items], [Path(item["image"]) for _, item in items], root.parent)
    return [{"case": name, **item} for name, (_, item) in zip(names, items, strict=True)]


def _one_file(path: Path) -> tuple[list[Path], list[Path]]:
    if path.name.lower().endswith(SUFFIXES):
        return [path], []
    return [], [path] if is_dicom_file(path) else []


def _files_below(root: Path) -> tuple[list[Path], list[Path]]:
    """Image files and DICOM files, in sorted order.

    What only looks like an image (a folder or a pipe called `x.nii.gz`, a broken link, a folder without permission)
    counts, too: reading it says what it is. Folders of earlier results are passed over.
    """
    images: list[Path] = []
    dicoms: list[Path] = []
    visited: set[Path] = set()
    folders: list[Path] = []
    closed: list[Path] = []
    for name, subfolders, files in os.walk(
        root, followlinks=True, onerror=lambda error: closed.append(Path(error.filename))
    ):
        folder = Path(name)
        if folder.resolve() in visited or is_output(folder):  # visited: a link that leads back
            subfolders.clear()
            continue
        visited.add(folder.resolve())
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        folders += [folder / name for name in subfolders if name.lower().endswith(SUFFIXES)]
        for path in (folder / name for name in files if not name.startswith(".")):
            if path.name.lower().endswith(SUFFIXES):
                images.append(path)
            elif path.name != "DICOMDIR" and path.is_file() and is_dicom_file(path):
                dicoms.append(path)
    full = {parent for path in (*images, *dicoms) for parent in path.parents}
    return sorted({*images, *closed, *(folder for folder in folders if folder not in full)}), sorted(dicoms)


def is_output(folder: Path) -> bool:
    """True for a folder of results: the records that a run keeps there are a mark."""
    return (folder / RECORDS).is_dir()


def _nothing_found(root: Path, decisions: list[Decision]) -> str:
    if not decisions:
        return f"No images found in dataset_dir '{root}': it should hold {ACCEPTED}."
    reasons = [f"'{d.series.description or d.series.folder.name}' is left out: {d.reason}" for d in decisions[:3]]
    more = f"; and {len(decisions) - 3} more" if len(decisions) > 3 else ""
    return (
        f"No T1w series among the {len(decisions)} DICOM series in dataset_dir '{root}' ({'; '.join(reasons)}{more}): "
        "choose one with --series_uid, or change the rules with --series_rules."
    )


def _unique_names(names: list[str], paths: list[Path], base: Path) -> list[str]:
    """Case names that stay distinct on file systems that ignore capitals."""
    names = list(names)
    clashes = {name for name, count in Counter(n.casefold() for n in names).items() if count > 1}
    for i, path in enumerate(paths):
        if names[i].casefold() in clashes:
            names[i] = case_name("_".join([*path.relative_to(base).parent.parts, names[i]]))
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
