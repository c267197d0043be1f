"""MONAI Deploy operator: the T1w head series of the loaded studies, by the bundle's own rules."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries

from scripts.dicom.selection import SeriesSelection
from scripts.dicom.series import find_series


class RuleSeriesSelectorOperator(Operator):
    """Takes the place of the SDK's selector, whose rules cannot say what must not match.

    Named input: `dicom_study_list`, of `DICOMDataLoaderOperator`. Named output: `study_selected_series_list`, a
    `StudySelectedSeries` for each study that has a T1w head series.

    Args:
        fragment: the application.
        rules: JSON file of the rule set.
    """

    def __init__(self, fragment: Fragment, *args: Any, rules: Path, **kwargs: Any) -> None:
        self.selection = SeriesSelection(rules)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("dicom_study_list")
        spec.output("study_selected_series_list").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies = op_input.receive("dicom_study_list")
        members = {
            str(series.SeriesInstanceUID): (study, series) for study in studies for series in study.get_all_series()
        }
        files = [file for _, series in members.values() for file in files_of(series)]
        selected: dict[str, StudySelectedSeries] = {}
        for decision in self.selection.decide(find_series(files)):
            said = "taken" if decision.chosen else "left out"
            logging.info("series '%s' is %s: %s", decision.series.description, said, decision.reason)
            if decision.chosen and decision.series.uid in members:
                study, series = members[decision.series.uid]
                one = selected.setdefault(str(study.StudyInstanceUID), StudySelectedSeries(study))
                one.add_selected_series(SelectedSeries("T1w head", series))
        op_output.emit(list(selected.values()), "study_selected_series_list")


def files_of(series: Any) -> list[Path]:
    """The files a `DICOMSeries` of the SDK was loaded from."""
    return [Path(instance.get_native_sop_instance().filename) for instance in series.get_sop_instances()]
