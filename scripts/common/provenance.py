"""What made the results: the same words for `run.json` and for every DICOM object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .versions import versions


def provenance(settings: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, settings as text, SHA-256 of the weights, date of the calibration. What is not recorded is None."""
    return {
        "versions": versions(),
        "settings": {name: str(value) for name, value in settings.items()},
        "weights_sha256": calibration.get("weights_sha256"),
        "calibrated": calibration.get("date"),
    }
