"""Does a slice look like those the networks were trained on? A score from what the networks compute anyway.

Five numbers of a slice and its reconstruction; healthy slices, with and without skull, are one cloud each. The score is
the Mahalanobis distance to the nearer cloud, in units of that cloud's threshold: above 1 a slice is unlike the training
slices. A slice that is better reconstructed, less masked or smoother than they are is not. It is no finding: another
scanner, another contrast or another level move it as much as a large lesion.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning, slices_at_level
from ..common.options import as_bool
from ..method.filters import gaussian_filter

# The order of `slice_features`; kept in the record, which is refused when it was made of others.
FEATURES = ("log reconstruction error", "correlation with reconstruction", "mask area", "log detail", "brightness")
SIDES = np.array([1, -1, 1, 1, 0])  # where larger (1), smaller (-1) or either (0) is unlike the training slices
RIDGE = 1e-9  # keeps a covariance of identical slices invertible


def slice_features(image: Tensor, coarse: Tensor, mask: Tensor) -> Tensor:
    """Five numbers a slice: three of (B, 1, H, W), image and reconstruction in [0, 1], mask 0 or 1 -> (B, 5), float64.

    Mean absolute error of the reconstruction (log), its correlation with the image (Fisher's z), share of the mask,
    mean absolute difference from the image smoothed by one pixel (log), mean intensity.
    """
    x, y = (t.double().flatten(1) for t in (image, coarse))
    a, b = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    correlation = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1) + 1e-9).sqrt()
    detail = (image - gaussian_filter(image, 1.0)).double().abs().flatten(1).mean(1)
    return torch.stack(
        [
            ((x - y).abs().mean(1) + 1e-4).log(),
            correlation.clamp(-0.9999, 0.9999).atanh(),
            mask.double().flatten(1).mean(1),
            (detail + 1e-4).log(),
            x.mean(1),
        ],
        dim=1,
    )


def fit_guard(groups: Mapping[str, NDArray], false_alarm_rate: float) -> dict[str, Any]:
    """The record of the guard from features of healthy slices.

    Each slice is scored against the cloud of all others; the threshold is the value that a new healthy slice exceeds
    with at most the given probability (the order statistic of split conformal prediction).

    Args:
        groups: name -> (N, 5) features.
        false_alarm_rate: wanted share of alarms among healthy slices, at least 1 / (N + 1).

    Returns:
        `features`, `false_alarm_rate`, and for each of `groups` its mean, precision matrix, threshold and N.

    Raises:
        PhanesInputError: too few slices for the rate.
    """
    record: dict[str, Any] = {"features": list(FEATURES), "false_alarm_rate": false_alarm_rate, "groups": {}}
    for name, values in groups.items():
        count = len(values)
        rank = math.ceil((1.0 - false_alarm_rate) * (count + 1))
        if rank > count or count <= len(FEATURES) + 1:
            raise PhanesInputError(
                f"a guard with {100 * false_alarm_rate:g} % false alarms needs more healthy slices than {count}."
            )
        others = [np.delete(values, i, axis=0) for i in range(count)]
        distances = sorted(float(_distance(values[i : i + 1], *_cloud(rest))[0]) for i, rest in enumerate(others))
        mean, precision = _cloud(values)
        record["groups"][name] = {
            "mean": mean.tolist(),
            "precision": precision.tolist(),
            "threshold": distances[rank - 1],
            "healthy_slices": count,
        }
    return record


def guard_scores(features: NDArray, record: Mapping[str, Any]) -> NDArray:
    """Scores (B,) of features (B, 5): distance to the nearer cloud over its threshold; above 1 is unlike the training.

    Raises:
        PhanesInputError: the record was made of other features.
    """
    if tuple(record.get("features", ())) != FEATURES:
        raise PhanesInputError("the calibration's guard was made by another version: run the calibrate workflow again.")
    return np.min(
        [
            _distance(features, np.array(group["mean"]), np.array(group["precision"])) / group["threshold"]
            for group in record["groups"].values()
        ],
        axis=0,
    )


def _cloud(values: NDArray) -> tuple[NDArray, NDArray]:
    covariance = np.cov(values, rowvar=False) + RIDGE * np.eye(values.shape[1])
    return values.mean(axis=0), np.linalg.inv(covariance)


def _distance(values: NDArray, mean: NDArray, precision: NDArray) -> NDArray:
    away = values - mean
    away = np.where(SIDES * away < 0, 0.0, away)
    return np.sqrt(np.einsum("ni,ij,nj->n", away, precision, away))


class GuardSliced(Transform):
    """Score the slice nearest to the trained level, and warn (or refuse) when it is unlike the training slices.

    Runs after `SplitMapsd`, on the network's grid, (1, H, W, D) each. Sets `guard`: "ok", "unlike the training slices"
    or "not calibrated"; and `guard_score`, None without a calibration.

    Args:
        calibration: the record; without `guard` nothing is judged.
        strict: refuse instead of warning.
        ref_key: key of the preprocessed input.

    Raises:
        PhanesInputError: with `strict`, for a case that is unlike the training slices.
    """

    def __init__(self, calibration: Mapping[str, Any], strict: bool | str = False, ref_key: str = "image") -> None:
        self.record = calibration.get("guard")
        self.strict = as_bool("strict", strict)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        d["guard"], d["guard_score"] = "not calibrated", None
        if self.record is None:
            return d
        image = d[self.ref_key]
        parts = slices_at_level(d, (self.ref_key, "coarse", "mask"), self.ref_key)
        score = float(guard_scores(slice_features(*parts).numpy(), self.record)[0])
        d["guard"], d["guard_score"] = ("ok" if score <= 1 else "unlike the training slices"), score
        if score > 1:
            sentence = f"does not look like a T1w brain at the trained level (guard {score:.1f}, at most 1 expected)"
            if self.strict:
                name = image.meta.get("filename_or_obj", "the image")
                raise PhanesInputError(f"'{name}' {sentence}; look at it, or leave --strict out.")
            add_warning(image, sentence)
        return d
