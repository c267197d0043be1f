"""One row a case: what `summary.csv` and the report's table hold."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..common.files import write_atomically


@dataclass
class CaseResult:
    """The outcome of one case.

    Attributes:
        case: its name, and its folder's.
        source: path of the input.
        status: "ok" or "failed".
        slices: the input's axial slices that hold analysed voxels, counted from the lowest, separated by spaces.
        alignment: mni, header, geometric, none; empty for a single slice (`alignment.AlignHeadd`).
        similarity: correlation with the template within the brain; empty where that is not known.
        guard: ok, unlike the training slices, or not calibrated (`guard.GuardSliced`).
        guard_score: above 1 the slice at the level does not look like a T1w brain there.
        anomaly_score: mean of the anomaly map over the analysed slices, on the network's grid.
        volume_mm3: volume of the label.
        warnings: what a reader should know, separated by semicolons.
        error: why the case failed.
    """

    case: str
    source: str
    status: str = "ok"
    slices: str = ""
    alignment: str = ""
    similarity: float | None = None
    guard: str = ""
    guard_score: float | None = None
    anomaly_score: float | None = None
    volume_mm3: float | None = None
    warnings: str = ""
    error: str = ""


COLUMNS = tuple(field.name for field in fields(CaseResult))


def write_summary(results: Sequence[CaseResult], path: Path) -> None:
    """Write `summary.csv`; numbers with six significant digits, empty where there is none."""

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for result in results:
                writer.writerow([_cell(getattr(result, column)) for column in COLUMNS])

    write_atomically(path, write)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
