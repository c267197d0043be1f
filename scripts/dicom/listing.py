"""The list of all DICOM series that a run found, and what was decided of each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ..reporting.results import write_atomically
from .selection import Decision

COLUMNS = ("chosen", "reason", "series_uid", "study_uid", "number", "description", "images", "folder", "note")


def write_series_list(decisions: Sequence[Decision], path: Path) -> None:
    """Write the list as CSV, in the order found."""

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for decision in decisions:
                series = decision.series
                note = "; ".join(filter(None, [decision.warning, series.note]))
                names = (series.uid, series.study_uid, series.number, series.description)
                writer.writerow(
                    ["yes" if decision.chosen else "no", decision.reason, *names, series.frames, series.folder, note]
                )

    write_atomically(path, write)
