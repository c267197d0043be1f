"""The DICOM results of each case of an inference run, called by the run's reporter (`--dicom_output true`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ..common.errors import PhanesInputError
from ..common.options import as_bool
from ..space.alignment import analysed_thickness
from .concepts import Findings, Software
from .output import write_dicom_results

ARRAYS = {"pred": "label", "anomaly": "anomaly", "pseudo_healthy": "pseudo_healthy", "analysed": "analysed"}


class DicomCaseWriter:
    """Writes a case's post-processed images as DICOM, when the case is a DICOM series.

    Args:
        cases: items of `data.find_cases`, which name each case's files.
        threshold: label threshold.
        calibration: the record of the calibration; its expected false-positive volume is reported when its own label
            threshold is used.
        parameters: settings to keep in the objects, name to value.
        enabled: False writes nothing.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        threshold: float,
        calibration: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ) -> None:
        self.enabled = as_bool("dicom_output", enabled)
        self.cases = {case["case"]: case for case in cases}
        self.threshold = threshold
        self.calibration = calibration
        self.software = Software(
            weights=str(calibration.get("weights_sha256", "")),
            parameters={name: str(value) for name, value in (parameters or {}).items()},
        )

    def note(self, output: Mapping[str, Any]) -> str:
        """A warning for the summary, "" when there is nothing to say."""
        return "no DICOM results: the source is not DICOM" if self.enabled and not is_dicom(output) else ""

    def __call__(self, case: str, output: Mapping[str, Any], folder: Path) -> None:
        """Write the objects of one case to `<folder>/dicom`, where its source is DICOM.

        Args:
            case: its name.
            output: the post-processed images on the native grid, (1, X, Y, Z) each.
            folder: of the case's results; its picture is taken from there.

        Raises:
            PhanesInputError: the series lacks what a valid object needs.
        """
        if not self.enabled or not is_dicom(output):
            return
        item = self.cases[case]
        picture = folder / f"{case}.png"
        image: MetaTensor = output["image"]
        slices = len(image.meta["slice_indices"])
        thickness = analysed_thickness(image)
        expected = self.calibration.get("expected_false_positive_volume_mm3_per_slice")
        calibrated = self.threshold == self.calibration.get("label_threshold")
        try:
            write_dicom_results(
                item.get("files") or item["image"],
                {name: np.asarray(output[key][0]) for key, name in ARRAYS.items()},
                Findings(
                    anomaly_score=float(output["anomaly_score"]),
                    threshold=self.threshold,
                    slices=slices,
                    thickness_mm=thickness,
                    # The record's volume is that of slices 1 mm thick.
                    expected_mm3=float(expected) * thickness if expected is not None and calibrated else None,
                ),
                folder / "dicom",
                pictures=[picture] if picture.is_file() else [],
                software=self.software,
                affine=np.asarray(output["source"].meta["original_affine"], dtype=float),
            )
        except PhanesInputError as error:
            raise PhanesInputError(f"'{item['image']}' {error}; leave --dicom_output out.") from error


def is_dicom(output: Mapping[str, Any]) -> bool:
    """True for a case that was read from DICOM files."""
    return str(output["source"].meta.get("format", "")) == "DICOM"
