"""The bundle's own inference workflow on fetched series, with DICOM results."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import PhanesInputError, PhanesOutputError
from ..pipeline.workflow import analyse_cases

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A series on disk.

    Attributes:
        case: its name among the results.
        folder: of its files.
        note: a warning of the rules, "" for none.
    """

    case: str
    folder: Path
    note: str = ""


class Workflow:
    """Analyses series as `monai.bundle run inference --dicom_output true` does. Only the cases come from elsewhere.

    Args:
        bundle_root: the bundle's folder.
        overrides: of entries of `inference.json`.
    """

    def __init__(self, bundle_root: str | Path, overrides: Mapping[str, Any] | None = None) -> None:
        self.bundle_root = Path(bundle_root)
        self.overrides = dict(overrides or {})

    def __call__(self, series: Sequence[Fetched], output: Path) -> dict[str, str]:
        """Analyse series. What an interrupted call has finished is not done again.

        Args:
            series: at least one.
            output: gets `<case>/dicom/` for each that succeeds.

        Returns:
            Case -> why it cannot be analysed; "" where it was.

        Raises:
            PhanesInputError: the whole run failed, because the bundle is not whole or the disk is full.
        """
        cases = []
        for one in series:
            files = sorted(str(file) for file in one.folder.iterdir())
            cases.append({"case": one.case, "image": str(one.folder), "files": files, "note": one.note})
        (output / "summary.csv").unlink(missing_ok=True)  # an earlier attempt's
        said = io.StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                given = [{k: v for k, v in case.items() if v} for case in cases]
                analyse_cases(self.bundle_root, given, output, self.overrides)
        except PhanesOutputError:
            raise
        except PhanesInputError as error:
            failures = self._failures(output)
            if not any(failures.get(one.case) for one in series):
                raise
            logger.debug("%s", error)
        finally:
            logger.debug("%s", said.getvalue())
        failures = self._failures(output)
        return {one.case: failures.get(one.case, "gave no result") for one in series}

    @staticmethod
    def _failures(output: Path) -> dict[str, str]:
        try:
            with (output / "summary.csv").open(newline="", encoding="utf-8") as file:
                return {row["case"]: row["error"] for row in csv.DictReader(file)}
        except OSError:
            return {}
