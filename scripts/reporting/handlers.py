"""Ignite handlers of the inference run: a case's files when it is done, then the summary and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from tqdm import tqdm

from ..common.anonymous import without_names
from ..common.cli import fail
from ..common.metadata import add_warning
from ..common.names import one_line
from ..common.processes import process_rank, total
from ..common.versions import versions
from ..dicom.case_writer import DicomCaseWriter
from ..pipeline.findings import write_findings
from ..pipeline.inference import CaseEvaluator, CaseEvents
from ..pipeline.records import CaseRecords
from ..pipeline.results import save_images
from ..pipeline.run_record import STEPS, Stopwatch, write_run
from ..pipeline.summary import CaseResult, write_summary
from .pictures import analysed_slices, case_figure, ranges, save_figure
from .report import write_case_page, write_report
from .view import case_view


class CaseReporter:
    """Writes `<output_dir>/<case>/...` for each case, and `summary.csv`, `run.json` and `report.html` for the run.

    It is a handler and not a transform: hosts of the bundle (MONAI Label, MONAI Deploy) run the post-processing without
    an output folder.

    Args:
        output_dir: folder of the results.
        save: which files to write: suffix -> yes or no. Suffixes are anomaly, pseudo_healthy, coarse, mask, label,
            findings, picture and view (the case's page).
        report: write report.html, from the cases' pages.
        about: tables for the report, title -> name -> value.
        cases: all cases of the run, in the summary's order, those that were finished before among them.
        records: where the ends of the cases are noted.
        dicom: writes `<case>/dicom/`; None for no DICOM objects.
        anonymize: leave out paths. The cases have anonymous names already.
    """

    def __init__(
        self,
        output_dir: str,
        save: Mapping[str, bool] | None = None,
        report: bool = True,
        about: Mapping[str, Mapping[str, object]] | None = None,
        *,
        cases: Sequence[Mapping[str, Any]],
        records: CaseRecords,
        dicom: DicomCaseWriter | None = None,
        anonymize: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.save = dict(save or {})
        self.report = report
        self.about = dict(about or {})
        self.told = {**self.about, "Versions": versions()}
        self.cases = {item["case"]: item for item in cases}
        self.records = records
        self.ended = 0  # cases of this run
        self.bar: tqdm | None = None
        self.watch = Stopwatch()
        self.summary_due = 0
        self.dicom = dicom
        self.anonymize = anonymize

    def attach(self, engine: Engine) -> None:
        """Listen to a `CaseEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_STARTED, lambda: self.watch.lap())
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.network_completed)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.case_completed)
        engine.add_event_handler(CaseEvents.CASE_FAILED, self.case_failed)

    def started(self, engine: Engine) -> None:
        """Show how many cases there are, before the first one is done."""
        self.bar = tqdm(total=engine.state.epoch_length, desc="Cases", disable=process_rank() > 0)

    def network_completed(self, engine: Any) -> None:
        """Note the time that preprocessing and network took."""
        case = engine.state.case
        self.watch.note(case, STEPS[0], engine.state.seconds)
        self.watch.note(case, STEPS[1], self.watch.lap())

    def case_completed(self, engine: Any) -> None:
        """Write the files of the case whose post-processed images are in `engine.state`."""
        case, path = engine.state.case, engine.state.path
        self.watch.note(case, STEPS[2], self.watch.lap())
        output: dict[str, Any] = {**engine.state.batch[0], **engine.state.output[0]}
        meta = output["image"].meta

        def write(folder: Path) -> None:
            save_images(output, folder, case, self.save)
            if self.save.get("findings", True):
                write_findings(output["findings"], folder / f"{case}_findings.csv")
            if self.save.get("view", True):
                write_case_page(result, case_view(output), folder, self.told)
            if self.save.get("picture", True):
                save_figure(case_figure(output, case), folder / f"{case}.png")
            if self.dicom is not None:
                self.dicom(case, output, folder)

        if self.dicom is not None:
            add_warning(output["image"], self.dicom.note(output))
        add_warning(output["image"], getattr(engine.inferer, "fallback", ""))
        volumes = [finding.volume_mm3 for finding in output["findings"]]
        known = all(output["source"].meta.get(f"{name}_known", True) for name in ("spacing", "thickness"))
        result = CaseResult(
            case=case,
            source=self._shown(str(path)),
            slices=ranges(analysed_slices(output["analysed"], output["source"])),
            alignment=str(meta.get("alignment", "")),
            similarity=float(meta["alignment_similarity"]) if "alignment_similarity" in meta else None,
            guard=str(output.get("guard", "")),
            contrast=output.get("contrast"),
            anomaly_score=output["anomaly_score"],
            healthy_below=output["healthy_below"],
            findings=len(output["findings"]),
            volume_mm3=float(sum(volumes)) if known else None,
            warnings=self._said(case, str(meta.get("warnings", ""))),
        )
        self.records.replace(self.cases[case], result, engine.state.signature, write)
        self.watch.note(case, STEPS[3], self.watch.lap())
        self._case_ended()

    def case_failed(self, engine: Any) -> None:
        """Note the error, and print it."""
        case = engine.state.case
        error = self._said(case, engine.state.error)
        self.records.failed(CaseResult(case, self._shown(engine.state.path), status="failed", error=error))
        tqdm.write(f"{case}: {error}")
        self._case_ended()

    def _shown(self, path: str) -> str:
        return "" if self.anonymize else one_line(path)

    def _said(self, case: str, text: str) -> str:
        return one_line(without_names(text, self.cases[case]) if self.anonymize else text)

    def finish(self) -> None:
        """Write the summary and the report, and say where they are. The exit status is not 0 when a case failed.

        Raises:
            SystemExit: at least one case failed (`PhanesInputError` outside the command line).
        """
        if self.bar is not None:
            self.bar.close()
        results = self._write_summary()
        with self.records.writing():
            files = {case: self.records.files(case) for case in self.cases}
            settings, calibration = (self.about.get(title, {}) for title in ("Settings", "Calibration"))
            write_run(self.output_dir / "run.json", settings, calibration, files, self.watch)
            if self.report:
                write_report(results, self.output_dir, self.told)
        failed = sum(result.status != "ok" for result in results)
        where = self.output_dir / ("report.html" if self.report else "summary.csv")
        cases = "1 case" if len(results) == 1 else f"{len(results)} cases"
        if failed:
            reasons = self.output_dir / "summary.csv"
            if failed < len(results):
                fail(f"{failed} of {cases} failed; the reasons are in {reasons}, the others' results in {where}.")
            fail(f"{failed} of {cases} failed; the reasons are in {reasons}.")
        before = len(results) - self.ended
        print(f"{cases} analysed{f' ({before} of them before)' if before else ''}: {where}")

    def _case_ended(self) -> None:
        """Keep the summary up to date, after ever more cases, so that the work stays linear in their number."""
        self.ended += 1
        if self.bar is not None:
            self.bar.update()
        if process_rank() == 0 and self.ended >= self.summary_due:
            self.summary_due = self.ended + 1 + self.ended // 10
            self._write_summary()

    def _write_summary(self) -> list[CaseResult]:
        results = self.records.results(self.cases.values())
        with self.records.writing():
            write_summary(results, self.output_dir / "summary.csv")
        return results


def run_cases(evaluator: CaseEvaluator, reporter: CaseReporter) -> None:
    """Analyse the unfinished cases, then let the reporter end the run.

    With several processes (multi_gpu_inference.json) each analyses its share. The first ends the run for all.

    Args:
        evaluator: its data loader holds the unfinished cases, perhaps none.
        reporter: writes the results and the pages over all cases.
    """
    try:
        if evaluator.state.epoch_length:
            evaluator.run()
        reporter.ended = total(reporter.ended)  # waits for the other processes
        if process_rank() == 0:
            reporter.finish()
    finally:
        reporter.records.close()
