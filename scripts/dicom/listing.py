"""The list of all DICOM series, and of all that was passed over, with the reasons."""

from __future__ import annotations

import csv
from pathlib import Path

from ..common.files import write_atomically
from ..common.names import one_line
from ..common.processes import process_rank
from .selection import SeriesSelection

COLUMNS = ("chosen", "reason", "series_uid", "study_uid", "number", "description", "images", "folder", "note")


def write_series_list(selection: SeriesSelection, output_dir: str, anonymize: bool = False) -> None:
    """Write `<output_dir>/series.csv` in the order found. Nothing is written if there were only images to analyse.

    Args:
        selection: after it has decided.
        output_dir: folder of the results.
        anonymize: write nothing, because descriptions and folders may hold names.
    """
    if anonymize or not (selection.decisions or selection.passed_over) or process_rank() > 0:
        return

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for decision in selection.decisions:
                series = decision.series
                note = "; ".join(filter(None, [decision.warning, series.note]))
                names = (series.uid, series.study_uid, series.number, series.description)
                row = ["yes" if decision.chosen else "no", decision.reason, *names, series.frames, series.folder, note]
                writer.writerow([one_line(str("" if cell is None else cell)) for cell in row])
            for path_left, reason in selection.passed_over:
                row = ["no", reason, "", "", "", path_left.name, "", path_left.parent, ""]
                writer.writerow([one_line(str(cell)) for cell in row])

    path = Path(output_dir) / "series.csv"
    write_atomically(path, write)
    chosen = sum(decision.chosen for decision in selection.decisions)
    if selection.decisions:
        print(f"{chosen} of {len(selection.decisions)} DICOM series chosen: {path}")
    if selection.passed_over:
        first, reason = selection.passed_over[0]
        count = len(selection.passed_over)
        print(f"{count} files or folders not taken, first '{one_line(first.name)}' ({reason}): {path}")
