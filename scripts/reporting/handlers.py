"""Ignite handlers of the inference run: a case's files when it is done, then the summary and the report."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from tqdm import tqdm

from .. import __version__
from ..cli import fail
from ..inference import CaseEvents
from .pictures import case_figure, save_figure
from .report import write_report
from .results import remove_files, replaced_together, result_names, save_images
from .summary import CaseResult, write_summary

PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom")


class CaseReporter:
    """Writes `<output_dir>/<case>/...` for each case, and `summary.csv` and `report.html` for the run.

    A handler and not a transform, because hosts of the bundle (MONAI Label, MONAI Deploy) run the post-processing
    without an output folder.

    Args:
        output_dir: folder of the results.
        threshold: label threshold, for the picture.
        save: which files to write, by suffix: anomaly, pseudo_healthy, coarse, mask, label, picture.
        report: write report.html.
        about: tables for the report, title -> name -> value.
    """

    def __init__(
        self,
        output_dir: str,
        threshold: float,
        save: Mapping[str, bool] | None = None,
        report: bool = True,
        about: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.threshold = threshold
        self.save = dict(save or {})
        self.report = report
        self.about = dict(about or {})
        self.results: list[CaseResult] = []

    def attach(self, engine: Engine) -> None:
        """Listen to a `CaseEvaluator`."""
        engine.add_event_handler(Events.STARTED, lambda: self.results.clear())
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.case_completed)
        engine.add_event_handler(CaseEvents.CASE_FAILED, self.case_failed)
        engine.add_event_handler(Events.COMPLETED, self.run_completed)

    def case_completed(self, engine: Any) -> None:
        """Write the files of the case whose post-processed images are in `engine.state`."""
        case, path = engine.state.case, engine.state.path
        output: dict[str, Any] = {**engine.state.batch[0], **engine.state.output[0]}
        meta = output["image"].meta
        slices = [int(i) for i in meta["slice_indices"]]
        with replaced_together(self.output_dir / case, result_names(case)) as folder:
            save_images(output, folder, case, self.save)
            if self.save.get("picture", True):
                scales = [float(s) for s in meta["intensity_scale"]]
                save_figure(case_figure(output, slices, scales, self.threshold, case), folder / f"{case}.png")
        voxel = abs(np.linalg.det(np.asarray(output["source"].meta["original_affine"], dtype=float)[:3, :3]))
        self._add(
            CaseResult(
                case=case,
                source=str(path),
                slices=" ".join(map(str, slices)),
                anomaly_score=output["anomaly_score"],
                volume_mm3=float(output["pred"].sum()) * float(voxel),
                warnings=str(meta.get("warnings", "")),
            )
        )

    def case_failed(self, engine: Any) -> None:
        """Note the error, say it, and remove what an earlier run may have left for this case."""
        case = engine.state.case
        remove_files(self.output_dir / case, result_names(case))
        self._add(CaseResult(case, str(engine.state.path), status="failed", error=engine.state.error))
        tqdm.write(f"{case}: {engine.state.error}")

    def run_completed(self) -> None:
        """Write the report."""
        if self.report:
            write_report(self.results, self.output_dir, {**self.about, "Versions": versions()})

    def finish(self) -> None:
        """Say where the results are; end with a non-zero exit status when a case failed.

        Raises:
            SystemExit: at least one case failed (`PhanesInputError` outside the command line).
        """
        failed = sum(result.status != "ok" for result in self.results)
        where = self.output_dir / ("report.html" if self.report else "summary.csv")
        if failed:
            fail(f"{failed} of {len(self.results)} cases failed; the reasons are in {self.output_dir / 'summary.csv'}.")
        print(f"{len(self.results)} cases analysed: {where}")

    def _add(self, result: CaseResult) -> None:
        self.results.append(result)
        write_summary(self.results, self.output_dir / "summary.csv")


def versions() -> dict[str, str]:
    """Versions of this bundle's package, of Python and of the libraries that shape a result."""
    found = {"PHANES": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
