"""Raw healthy heads to training data: registered, resampled onto the grid of levels, checked, and shown on one sheet.

Registration, resampling and the steps before them are those of inference. So heads look alike in training and in use.
Single slices are taken too; each is stored as the level at which it lies.
"""

from __future__ import annotations

import csv
import logging
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd
from tqdm import tqdm

from ..common.errors import PhanesInputError
from ..common.files import sha256_of_file, write_atomically
from ..common.fingerprint import fingerprint
from ..common.names import one_line
from ..common.sources import source_files
from ..pipeline.cases import find_cases
from ..pipeline.inference import sentence_of
from ..pipeline.readers import CaseLoadImaged
from ..pipeline.transforms import LevelsOfHeadd
from ..space.alignment import AlignHeadd
from ..space.intensities import from_air
from ..space.levels import LEVELS_MM, brain_of_levels, nearest_level
from ..space.registration import describe
from ..space.resampling import into_mni_of, median_of_brain, onto_levels, scanned
from .contact_sheet import write_contact_sheets
from .prepared import BRIGHTEST, write_prepared

SPLITS = ("train", "val")
TABLE = "prepare.csv"
LEAST_SCANNED = 0.98  # share of the template's brain that a scan must hold; the rest would be learnt as air
MANY_BRIGHT = 0.01  # share of the brain's voxels that are too bright for 8 bits; more makes a warning

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A line of `prepare.csv`.

    Attributes:
        split: the folder that the head lies in, `train` or `val`; `train` where there are no such folders.
        subject: name of the prepared file, without `.nii.gz`.
        status: `prepared` or `failed`.
        similarity: correlation with the template within the brain.
        scales: image mm for one template mm along the three principal directions, ascending.
        rotation: degrees.
        scanned_percent: percent of the template's brain that the scan holds.
        brain_median: the brain's median in the scan's own units; it is stored as `prepared.BRAIN_VALUE`.
        warnings: what to look at.
        error: why it failed.
        source: the raw image.
        source_checksum: of the image's contents, without the names of its files.
    """

    split: str
    subject: str
    status: str = ""
    similarity: str = ""
    scales: str = ""
    rotation: str = ""
    scanned_percent: str = ""
    brain_median: str = ""
    warnings: str = ""
    error: str = ""
    source: str = ""
    source_checksum: str = ""

    @property
    def file(self) -> Path:
        """Path of the prepared head, in the folder of all heads."""
        return Path(self.split) / f"{self.subject}.nii.gz"


def prepare(heads: str, out: str, workers: int = 0) -> None:
    """Turn raw healthy heads into training data: OUT/train and OUT/val, or OUT/train alone where HEADS is not split.

    OUT/prepare.csv has a row for each head. OUT/contact_sheet.png shows all heads with the template's outline: look at
    it. A head that fails is named and left out. A second run goes on where the first was stopped.

    Args:
        heads: folder of T1w heads of healthy people, in any orientation, resolution and format that inference takes;
            or of single axial slices.
        out: folder; made when missing.
        workers: processes; 0 for one a core.

    Raises:
        PhanesInputError: there are no heads, or some failed; the others have then been prepared.
    """
    folder = Path(out).expanduser()
    tasks = _tasks(Path(heads).expanduser())
    kept = {(row.split, row.subject): row for row in read_table(folder)}
    rows = _refuse_copies([(_asked(split, item), item) for split, item in tasks])
    todo = []
    for row, item in rows:
        known = kept.get((row.split, row.subject))
        if row.error or known is None or known.source_checksum != row.source_checksum or known.status != "prepared":
            kept[row.split, row.subject] = row
            if not row.error:
                todo.append((row, item, folder))
        elif not (folder / known.file).exists():
            todo.append((row, item, folder))
    asked = {(row.split, row.subject) for row, _ in rows}
    with tqdm(total=len(rows), initial=len(rows) - len(todo), unit="head", dynamic_ncols=True) as bar:
        for done in _each(todo, workers or len(os.sched_getaffinity(0))):
            kept[done.split, done.subject] = done
            _write_table(folder, kept.values())
            bar.update()
            if done.error:
                bar.write(f"{done.subject} left out: {done.error}")
    _write_table(folder, kept.values())
    there = [row for row in kept.values() if row.status == "prepared"]
    sheets = write_contact_sheets(
        folder, [(folder / row.file, _caption(row)) for row in sorted(there, key=_worst_first)]
    )
    failed = [row for key, row in kept.items() if key in asked and row.status == "failed"]
    print(f"{len(asked) - len(failed)} of {len(asked)} heads prepared in {folder}; look at {', '.join(sheets)}.")
    if failed:
        reasons = " ".join(f"{row.subject}: {row.error}" for row in failed[:5])
        more = f" And {len(failed) - 5} more, see {TABLE}." if len(failed) > 5 else ""
        raise PhanesInputError(f"{len(failed)} of {len(asked)} heads failed and are left out. {reasons}{more}")


def prepare_head(row: Row, item: dict[str, Any], folder: Path) -> Row:
    """Prepare one head: load, orient, register, resample, check, write.

    Args:
        row: split and subject.
        item: of `find_cases`.
        folder: of all prepared heads.

    Returns:
        The head's row, `prepared` or `failed`; nothing is raised for a head that fails.
    """
    torch.set_num_threads(1)  # there is a process a core
    found: dict[str, str] = {}
    try:
        image = Compose(
            [
                CaseLoadImaged("image"),
                EnsureChannelFirstd("image"),
                Orientationd("image", axcodes="PRS", labels=None),
                AlignHeadd("image"),
            ]
        )(dict(item))["image"]
        found = _described(image)
        levels, first_mm, measured, bright = _on_levels(image)
        found |= measured
        write_prepared(folder / row.file, levels, first_mm)
    except Exception as error:  # whatever is wrong with one head, the others go on
        logger.debug("head %s", row.subject, exc_info=True)
        return replace(row, **found, status="failed", error=one_line(sentence_of(error)))
    warnings = "; ".join(filter(None, [one_line(str(image.meta.get("warnings", ""))), bright]))
    return replace(row, **found, status="prepared", warnings=warnings)


def _described(image: MetaTensor) -> dict[str, str]:
    if "alignment_similarity" not in image.meta:  # a slice that was made in the template's place
        return {}
    placing = np.asarray(image.meta["placing"], dtype=float).reshape(4, 4)
    found = describe(np.linalg.inv(placing), float(image.meta["alignment_similarity"]))
    return {
        "similarity": f"{found.similarity:.3f}",
        "scales": " ".join(f"{scale:.3f}" for scale in found.scales),
        "rotation": f"{found.rotation:.1f}",
    }


def _on_levels(image: MetaTensor) -> tuple[np.ndarray, float, dict[str, str], str]:
    """The head in units of its brain's median, the lowest level's MNI z, what was measured, a warning ("" for none)."""
    if image.shape[-1] == 1:
        placed = LevelsOfHeadd("image")({"image": image})
        levels, there = (placed[key].as_tensor()[0].numpy() for key in ("image", "analysed"))
        (height,), median = placed["image"].meta["heights"], placed["image"].meta["brain_median"]
        first_mm = LEVELS_MM[nearest_level(height)]
        brain = brain_of_levels([first_mm])
    else:
        volume, into_mni = from_air(image.as_tensor()[0].numpy())[0], into_mni_of(image, image.affine.numpy())
        brain, first_mm = brain_of_levels(), LEVELS_MM[0]
        there = brain & scanned(volume.shape, into_mni)
        levels = onto_levels(volume, into_mni)
        median = median_of_brain(levels, there) if there.any() else 0.0
    share = there.sum() / brain.sum()
    if share < LEAST_SCANNED:
        raise PhanesInputError(f"The scan holds only {100 * share:.0f} % of the brain; give whole heads.")
    if not median > 0:
        raise PhanesInputError("The brain is blank, or mostly negative; give a T1w image with positive intensities.")
    bright = float((levels[brain] > BRIGHTEST * median).mean())
    warning = f"{100 * bright:.1f} % of the brain is brighter than 8 bits hold" if bright > MANY_BRIGHT else ""
    measured = {"scanned_percent": f"{100 * share:.1f}", "brain_median": f"{median:.4g}"}
    return levels / np.float32(median), first_mm, measured, warning


def _tasks(heads: Path) -> list[tuple[str, dict[str, Any]]]:
    """(split, item of `find_cases`) of every head; what lies beside the folders of the splits is named."""
    splits = [split for split in SPLITS if (heads / split).is_dir()]
    if not splits:
        return [(SPLITS[0], item) for item in find_cases(heads)]
    others = sorted(path.name for path in heads.iterdir() if path.name not in splits and not path.name.startswith("."))
    if others:
        print(f"Not taken in '{heads}', because it has {' and '.join(splits)}: {', '.join(map(one_line, others))}.")
    return [(split, item) for split in splits for item in find_cases(heads / split)]


def _asked(split: str, item: dict[str, Any]) -> Row:
    row = Row(split, item["case"], source=one_line(str(item["image"])))
    try:
        return replace(row, source_checksum=fingerprint(sorted(map(sha256_of_file, source_files(item)))))
    except OSError as error:
        return replace(row, status="failed", error=f"It cannot be read: {error.strerror}.")


def _refuse_copies(rows: Sequence[tuple[Row, dict[str, Any]]]) -> list[tuple[Row, dict[str, Any]]]:
    """A head that was there already, under whatever name, fails: in `val` it would be one that training has seen."""
    first: dict[str, Row] = {}
    checked = []
    for row, item in rows:
        known = first.setdefault(row.source_checksum or f"{row.split}/{row.subject}", row)
        if known is not row:
            error = f"It is the same image as {Path(known.split) / known.subject}."
            row = replace(row, status="failed", error=error)
        checked.append((row, item))
    return checked


def _each(tasks: Sequence[tuple[Row, dict[str, Any], Path]], workers: int) -> Iterable[Row]:
    """Rows as they get ready."""
    if workers == 1 or len(tasks) < 2:
        yield from (prepare_head(*task) for task in tasks)
        return
    with ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        futures: dict[Future[Row], Row] = {pool.submit(prepare_head, *task): task[0] for task in tasks}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                error = "A worker process ended, perhaps for want of memory: run again with fewer --workers."
                yield replace(futures[future], status="failed", error=error)


def read_table(folder: Path) -> list[Row]:
    """The rows of an earlier run in this folder; none without one.

    Raises:
        PhanesInputError: it is no such table.
    """
    file = folder / TABLE
    if not file.exists():
        return []
    names = [field.name for field in fields(Row)]
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if reader.fieldnames != names:
            raise PhanesInputError(f"'{file}' is not a table of prepare: move it away, or choose another folder.")
        return [Row(**{name: row[name] or "" for name in names}) for row in reader]


def _write_table(folder: Path, rows: Iterable[Row]) -> None:
    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: (row.split, row.subject)))

    write_atomically(folder / TABLE, write)


def _worst_first(row: Row) -> float:
    return float(row.similarity or 0)


def _caption(row: Row) -> str:
    return f"{row.subject}  {row.similarity}" + ("  !" if row.warnings else "")
