"""Find images: the cases of an inference run and the slices of a training set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import PhanesInputError
from ..common.names import case_name
from ..dicom.selection import SeriesSelection
from ..dicom.series import find_series
from .folders import ACCEPTED, SUFFIXES, look_into, paths_of

ENDINGS = re.compile("(" + "|".join(map(re.escape, sorted((*SUFFIXES, ".dcm"), key=len, reverse=True))) + ")$", re.I)


def case_stem(path: Path) -> str:
    """File name without the ending of an accepted kind, in capitals or not. Of a folder the whole name."""
    return case_name(path.name if path.is_dir() else ENDINGS.sub("", path.name))


def find_cases(
    dataset_dir: str | Path | Sequence[str | Path], selection: SeriesSelection | None = None
) -> list[dict[str, Any]]:
    """All cases below a folder, or the one case of a single file.

    Args:
        dataset_dir: a folder with files of the kinds in `folders.ACCEPTED` at any depth, a single such file, or several
            such paths. Hidden files and folders are passed over. Of a BIDS folder only the raw data's T1w images are
            taken.
        selection: which DICOM series are cases; None takes every series. Its `passed_over` keeps what was not taken.

    Returns:
        One item a case, sorted by path: `{"image": path, "case": name}`. A DICOM series is a case: `image` is its
        folder, or the single file given; `files` lists its files, as of a pair *.hdr and *.img; `note` says what
        should be known about them. Names become folder names. So they are unique without regard to capitals, by the
        parent folders' names or else by a number.

    Raises:
        PhanesInputError: a path does not exist, or there is no case.
    """
    paths = paths_of(dataset_dir)
    found = look_into(paths)
    selection = selection or SeriesSelection()
    series = find_series(found.dicoms)
    decisions = selection.decide(series, named=found.named)
    selection.passed_over = found.passed_over
    crowded = Counter(file.parent for one in series for file in one.files[:1])
    items: list[tuple[str, dict[str, Any]]] = [(case_stem(path), _image(path)) for path in found.images]
    for decision in decisions:
        if decision.chosen:
            one = decision.series
            place = one.files[0] if found.named and len(one.files) == 1 else one.folder
            name = case_stem(place.resolve())
            if crowded[one.files[0].parent] > 1 or any(file.parent != place for file in one.files if place.is_dir()):
                name = f"{name}_series{one.number or series.index(one) + 1}"
            note = "; ".join(filter(None, [decision.warning, one.note]))
            item: dict[str, Any] = {"image": str(place)}
            if place.is_dir():
                item["files"] = [str(file) for file in one.files]
            items.append((name, item | ({"note": note} if note else {})))
    if not items:
        raise PhanesInputError(_nothing_found(str(dataset_dir), selection))
    items.sort(key=lambda pair: (pair[1]["image"], pair[0]))
    names = _unique_names([name for name, _ in items], [Path(item["image"]) for _, item in items], paths)
    return [{"case": name, **item} for name, (_, item) in zip(names, items, strict=True)]


def _image(path: Path) -> dict[str, Any]:
    voxels = [p for end in (".img", ".IMG") if path.suffix.lower() == ".hdr" and (p := path.with_suffix(end)).exists()]
    return {"image": str(path)} | ({"files": [str(path), str(voxels[0])]} if voxels else {})


def _nothing_found(dataset_dir: str, selection: SeriesSelection) -> str:
    decisions = selection.decisions
    reasons = [f"'{d.series.description or d.series.folder.name}' is left out: {d.reason}" for d in decisions]
    reasons += [f"'{path.name}' is left out: {reason}" for path, reason in selection.passed_over]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    seen = f" ({'; '.join(reasons[:3])}{more})" if reasons else ""
    if not decisions:
        return f"No images found in '{dataset_dir}'{seen}: it should hold {ACCEPTED}."
    return (
        f"No T1w series among the {len(decisions)} DICOM series in '{dataset_dir}'{seen}: "
        "choose one with --series_uid, or change the rules with --series_rules."
    )


def _unique_names(names: list[str], paths: list[Path], roots: Sequence[Path]) -> list[str]:
    """Case names that stay distinct on file systems that ignore capitals."""
    names = list(names)
    clashes = {name for name, count in Counter(n.casefold() for n in names).items() if count > 1}
    for i, path in enumerate(paths):
        if names[i].casefold() in clashes:
            root = next((root.parent for root in roots if path.is_relative_to(root)), path.parents[1])
            names[i] = case_name("_".join([*path.relative_to(root).parent.parts, names[i]]))
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
        data_dir: folder with the sub-folders `train`, `val` and `test`. They must share no subject.
        split: name of the sub-folder.

    Returns:
        `[{"image": path, "subject": file name without suffix}, ...]`, sorted by path.

    Raises:
        PhanesInputError: the folder is missing or holds no PNG.
    """
    folder = Path(data_dir).expanduser() / split
    files = sorted(folder.glob("*.png"))
    if not files:
        raise PhanesInputError(f"No slices (*.png) found in '{folder}': data_dir must hold a folder {split} of slices.")
    return [{"image": str(path), "subject": path.stem} for path in files]
