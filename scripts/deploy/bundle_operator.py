"""MONAI Deploy operator: the bundle's own inference workflow on the selected series, with DICOM results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from scripts.common.errors import PhanesInputError
from scripts.pipeline.workflow import analyse_cases

from .series_selector_operator import files_of


class BundleOperator(Operator):
    """Runs `inference.json` as `monai.bundle run` does. Only the cases come from elsewhere.

    Reading, checks, pre- and post-processing, network and writers are the bundle's, so the results are the same.
    For each series, `<output>/<case>/` holds the picture and `dicom/` the segmentation, parametric map, derived MR
    series, secondary capture and structured report; `summary.csv` lists the cases.

    Named input: `study_selected_series_list`.

    Args:
        fragment: the application.
        bundle: the bundle's folder.
        output: folder of the results.
        overrides: entries of `inference.json`: id -> value.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, bundle: Path, output: Path, overrides: Mapping[str, Any], **kwargs: Any
    ) -> None:
        self.bundle = bundle
        self.output = output
        self.overrides = dict(overrides)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("study_selected_series_list")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies = op_input.receive("study_selected_series_list")
        series = [selected.series for study in studies for selected in study.selected_series]
        if not series:
            raise PhanesInputError("No T1w head series in the input: the log says why each series was left out.")
        cases = [self._case(number, one) for number, one in enumerate(series, start=1)]
        analyse_cases(self.bundle, cases, self.output, self.overrides)
        logging.info("%d series analysed: %s", len(series), self.output)

    @staticmethod
    def _case(number: int, series: Any) -> dict[str, Any]:
        files = sorted(str(file) for file in files_of(series))
        return {"case": f"series{number}", "image": str(Path(files[0]).parent), "files": files}
