"""`run.json`, for programs: what a run was made with, what it wrote, and where its time went."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.files import write_atomically
from ..common.provenance import provenance

STEPS = ("read and prepare", "network", "findings", "write")


class Stopwatch:
    """Seconds of each step of each case of this run."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, float]] = {}
        self.started = self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed

    def note(self, case: str, step: str, seconds: float) -> None:
        """Keep the seconds of a step of `STEPS`."""
        self.cases.setdefault(case, {})[step] = round(seconds, 3)


def write_run(
    path: Path,
    settings: Mapping[str, Any],
    calibration: Mapping[str, Any],
    files: Mapping[str, Mapping[str, str]],
    watch: Stopwatch,
) -> None:
    """Write `run.json`.

    Args:
        path: of the file.
        settings: name -> value, as the report shows them.
        calibration: the record, of which the date and the checksum of the weights are kept.
        files: case -> file below the case's folder -> SHA-256, for all cases, finished before or now.
        watch: the seconds of the cases of this run.
    """
    record = {
        **provenance(settings, calibration),
        "seconds": round(time.perf_counter() - watch.started, 3),
        "cases": {case: {"seconds": watch.cases.get(case), "files": dict(names)} for case, names in files.items()},
    }
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
