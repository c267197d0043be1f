"""What both evaluations share: which rows, how they end, and the report that they write."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...common.cli import fail
from ...common.errors import PhanesInputError
from ...common.versions import versions
from .scoring import Result
from .store import ResultStore, to_plain, write_text
from .summary import Cell
from .tables import Line, to_csv

logger = logging.getLogger(__name__)


class Report(ABC):
    """An evaluation that keeps its results and writes a report of them to `output_dir`.

        results/<set>[-<seed>]/<system>.json, .npz   one result each, found again when the evaluation is restarted
        table.md, table.csv, record.json             the tables; versions and checksums

    A system that cannot run costs its own rows only: the others get theirs, and `run` raises at the end.

    Args:
        title: of the report.
        output_dir: made when it is not there.
        packages: whose versions the record holds.
    """

    def __init__(self, title: str, output_dir: str | Path, packages: Sequence[str]) -> None:
        self.title = title
        self.output_dir = Path(output_dir)
        self.packages = packages
        self.store = ResultStore(self.output_dir / "results")

    def run(self) -> list[Cell]:
        """Evaluate, report, and return the numbers of the tables.

        Raises:
            SystemExit: one sentence on the command line (`PhanesInputError` elsewhere). The system or set is unknown,
                there is nothing to evaluate on, or a system could not run. In the last case the report of the others
                has been written.
        """
        try:
            cells, failed, total = self._evaluate()
        except PhanesInputError as error:
            fail(str(error))
        if failed:
            fail(f"{len(failed)} of {total} systems could not run. " + " ".join(failed.values()))
        return cells

    @abstractmethod
    def _evaluate(self) -> tuple[list[Cell], dict[str, str], int]:
        """The cells, the systems that could not run with their reasons, and how many were asked for."""

    def write(
        self,
        text: list[str],
        cells: Sequence[Cell],
        lines: Mapping[str, Line],
        spread: str,
        record: Mapping[str, Any],
        failed: Mapping[str, str],
        paper: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    ) -> None:
        """Write tables and record.

        Args:
            text: sections of table.md.
            cells: all numbers.
            lines: the systems.
            spread: what the deviations are over.
            record: what is worth keeping, plain values.
            failed: systems left out, and why.
            paper: see `tables.to_csv`.
        """
        left_out = [f"Left out: {key} ({reason})\n" for key, reason in failed.items()]
        write_text(self.output_dir / "table.md", "\n".join([f"# {self.title}\n", *text, *left_out]))
        write_text(self.output_dir / "table.csv", to_csv(cells, lines, spread, paper))
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        whole = {"title": self.title, "date": date, "versions": versions(self.packages), "left_out": failed, **record}
        write_text(self.output_dir / "record.json", json.dumps(to_plain(whole), indent=1))
        logger.info("Tables and record written to %s", self.output_dir)


def chosen_keys(what: str, wanted: Sequence[str] | str | None, known: Iterable[str]) -> list[str]:
    """Keys from an option, a list or one string with commas; None for all.

    Args:
        what: the option's name.
        wanted: its value.
        known: keys to choose from.

    Raises:
        PhanesInputError: an unknown one, or none.
    """
    there = list(known)
    names = [name.strip() for name in wanted.split(",")] if isinstance(wanted, str) else wanted
    keys = there if names is None else list(names)
    if not keys or not set(keys) <= set(there):
        raise PhanesInputError(f"{what} is {keys}: choose among {', '.join(there)}.")
    return keys


def mean_seconds(group: Mapping[tuple[str, int | None, str], Result], system: str, entry: str) -> float:
    """A system's mean time over the results, from this entry of their records; NaN for maps that were read."""
    times = [result.record[entry] for (_, _, key), result in group.items() if key == system]
    return float("nan") if None in times or not times else sum(times) / len(times)
