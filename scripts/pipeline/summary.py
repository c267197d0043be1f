"""One row a case: the content of `summary.csv` and of the report's table."""

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
        slices: the input's axial slices that hold analysed voxels, counted from the lowest, as ranges such as 12-170.
        alignment: mni, header, slice, outline (`alignment.AlignHeadd`).
        similarity: correlation with the template within the brain; empty where that is not known.
        guard: ok, no T1w head, or not judged (`guard.GuardLevelsd`).
        contrast: how much brighter white matter is than grey, as a share of the white; empty where not judged.
        anomaly_score: mean of the anomaly map over the brain's analysed part, on the network's grid.
        healthy_below: share of the calibration's healthy images whose anomaly score is lower; empty when not recorded.
        findings: their number.
        volume_mm3: of all findings together; empty where the input does not know the size of its voxels.
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
    contrast: float | None = None
    anomaly_score: float | None = None
    healthy_below: float | None = None
    findings: int | None = None
    volume_mm3: float | None = None
    warnings: str = ""
    error: str = ""


COLUMNS = tuple(field.name for field in fields(CaseResult))


def write_summary(results: Sequence[CaseResult], path: Path) -> None:
    """Write `summary.csv`. Numbers have six significant digits; missing ones are empty."""

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
