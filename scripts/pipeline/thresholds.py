"""The thresholds of the label and its findings, from the calibration's record or from the user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..common.errors import PhanesInputError

KINDS = ("heads", "slices")  # whole heads have one calibration, single slices and `slices: mid` another


@dataclass(frozen=True)
class Thresholds:
    """What makes a finding.

    Attributes:
        label: a voxel belongs to a finding when the anomaly map is above it.
        smallest: size of the smallest finding: mm3 in a head, mm2 (in MNI152 space) in a slice.
        healthy_peaks: the highest peak of each healthy image, 0 for one without a finding; None when not recorded.
        healthy_scores: the anomaly score of each; None when not recorded.
        healthy_findings: peak and size of each finding of each; None when not recorded.
        peak_share: a voxel of a finding is also above this share of its peak; 0 with a threshold of the user's own.
    """

    label: float
    smallest: float = 0.0
    healthy_peaks: tuple[float, ...] | None = None
    healthy_scores: tuple[float, ...] | None = None
    healthy_findings: tuple[tuple[tuple[float, float], ...], ...] | None = None
    peak_share: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any], kind: str, override: float | str | None = None) -> Thresholds:
        """The thresholds of `heads` or `slices`, with the user's own label threshold, if given.

        Raises:
            PhanesInputError: the override is no number >= 0, or the calibration lacks this kind.
        """
        if kind not in calibration:
            raise PhanesInputError(
                f"The calibration has no threshold for {kind}: run calibrate_heads.json over healthy {kind}, too."
            )
        record = calibration[kind]
        label = label_threshold(override, float(record["label_threshold"]))
        peaks, scores, found = (record.get(f"healthy_{name}") for name in ("peaks", "scores", "findings"))
        return cls(
            label,
            float(record.get("smallest", 0.0)),
            None if peaks is None else tuple(map(float, peaks)),
            None if scores is None else tuple(map(float, scores)),
            None if found is None else tuple(tuple((float(p), float(s)) for p, s in one) for one in found),
            float(record.get("peak_share", 0.0)) if calibrated(override) else 0.0,
        )

    def healthy_below(self, score: float) -> float | None:
        """Share of the healthy images whose anomaly score is lower; None when not recorded."""
        if not self.healthy_scores:
            return None
        return sum(one < score for one in self.healthy_scores) / len(self.healthy_scores)

    def healthy_with(self, peak: float, size: float | None = None) -> float | None:
        """Share of the healthy images with a finding as strong, and as large if a size is given.

        None when that is not recorded.
        """
        if size is None:
            peaks = self.healthy_peaks
            return sum(one >= peak for one in peaks) / len(peaks) if peaks else None
        found = self.healthy_findings
        return sum(any(p >= peak and s >= size for p, s in one) for one in found) / len(found) if found else None


def calibrated(override: float | str | None) -> bool:
    """Whether the user left the label threshold to the calibration."""
    return override is None or str(override).strip().lower() == "calibrated"


def label_threshold(override: float | str | None, found: float) -> float:
    """The label threshold: the user's, or the calibrated one.

    Args:
        override: a number >= 0, also as text (a host's options panel). `calibrated` or None takes the calibration's.
        found: the calibration's.

    Raises:
        PhanesInputError: the override is no such number.
    """
    if override is None or calibrated(override):
        return found
    try:
        threshold = float(override)
    except ValueError:
        threshold = math.nan
    if isinstance(override, bool) or not 0 <= threshold < math.inf:
        raise PhanesInputError(f"label_threshold is {override!r}: give a number >= 0, or leave it out.")
    return threshold
