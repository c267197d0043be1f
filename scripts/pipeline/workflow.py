"""The bundle's own inference workflow, run from Python on cases that come from elsewhere, with DICOM results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from ..common.errors import PhanesInputError


def analyse_cases(
    bundle_root: str | Path,
    cases: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Run `inference.json` as `monai.bundle run inference --dicom_output true` does; only the cases are given.

    So reading, checks, pre- and post-processing, network and writers are the bundle's, and the results are the same.

    Args:
        bundle_root: the bundle's folder.
        cases: `{"case": name, "image": path}` each, of a DICOM series also `files` and `note` (`data.find_cases`).
        output_dir: gets `<case>/dicom/` for each case that succeeds, and `summary.csv`.
        overrides: of entries of `inference.json`.

    Raises:
        PhanesInputError: a case, or the run as a whole, failed; an override of what the other arguments give.
    """
    given = {"output_dir": str(output_dir), "cases": [dict(case) for case in cases], "dicom_output": True}
    overrides = overrides or {}
    if taken := sorted(given.keys() & overrides.keys()):
        raise PhanesInputError(f"{', '.join(taken)}: not among the entries that can be overridden here.")
    workflow = ConfigWorkflow(
        config_file=str(Path(bundle_root) / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        **{"bundle_root": str(bundle_root), **overrides, **given},
    )
    workflow.initialize()
    try:
        workflow.run()
    finally:
        workflow.finalize()
