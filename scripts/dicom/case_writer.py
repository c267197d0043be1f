"""The DICOM results of each case of an inference run, called by the run's reporter (`--dicom_output true`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import PhanesInputError
from ..common.provenance import provenance
from .concepts import MAX_NUMBERS, Findings, Region, Software
from .output import write_dicom_results

ARRAYS = {"pred": "label", "anomaly": "anomaly", "pseudo_healthy": "pseudo_healthy", "analysed": "analysed"}


class DicomCaseWriter:
    """Writes a case's post-processed images as DICOM, when the case is a DICOM series.

    Args:
        cases: items of `find_cases`, which name each case's files.
        calibration: the record of the calibration, which names the weights.
        settings: kept in the objects, name -> value; the same as in run.json.
        enabled: False writes nothing.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        calibration: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ) -> None:
        self.enabled = enabled
        self.cases = {case["case"]: case for case in cases}
        self.software = Software(provenance(settings or {}, calibration))

    def note(self, output: Mapping[str, Any]) -> str:
        """A warning for the summary, "" when there is nothing to say."""
        return "no DICOM results: the source is not DICOM" if self.enabled and not is_dicom(output) else ""

    def __call__(self, case: str, output: Mapping[str, Any], folder: Path) -> None:
        """Write the objects of one case to `<folder>/dicom`, where its source is DICOM.

        Args:
            case: its name.
            output: the post-processed images on the native grid, (1, X, Y, Z) each.
            folder: of the case's results, which holds its picture.

        Raises:
            PhanesInputError: the series lacks what a valid object needs.
        """
        if not self.enabled or not is_dicom(output):
            return
        item = self.cases[case]
        picture = folder / f"{case}.png"
        try:
            write_dicom_results(
                item.get("files") or item["image"],
                {name: np.asarray(output[key][0]) for key, name in ARRAYS.items()},
                Findings(
                    float(output["anomaly_score"]),
                    float(output["threshold"]),
                    regions(output["findings"]),
                    output["healthy_below"],
                ),
                folder / "dicom",
                pictures=[picture] if picture.is_file() else [],
                software=self.software,
                affine=np.asarray(output["source"].meta["original_affine"], dtype=float),
            )
        except PhanesInputError as error:
            raise PhanesInputError(f"'{item['image']}' {error}; leave --dicom_output out.") from error


def regions(found: Sequence[Any]) -> list[Region]:
    """The label's numbers from a case's findings (`pipeline.findings.Finding`), the strongest first."""
    own, shared = (found, []) if len(found) <= MAX_NUMBERS else (found[: MAX_NUMBERS - 1], found[MAX_NUMBERS - 1 :])
    named = [(f"Finding {one.number}", [one]) for one in own]
    if shared:
        named.append((f"Findings {shared[0].number} to {shared[-1].number}", list(shared)))
    return [
        Region(
            name,
            sum(one.volume_mm3 for one in part),
            part[0].mean,
            part[0].peak,
            part[0].healthy_as_strong,
            part[0].healthy_as_strong_and_large,
            part[0].structures if len(part) == 1 else (),
        )
        for name, part in named
    ]


def is_dicom(output: Mapping[str, Any]) -> bool:
    """True for a case that was read from DICOM files."""
    return str(output["source"].meta.get("format", "")) == "DICOM"
