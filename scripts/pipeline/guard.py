"""Does a head look like those the networks were trained on? A score a level, from what the networks compute anyway.

Five numbers of a level's brain and its reconstruction, compared with healthy heads' at the same level; the score is the
Mahalanobis distance in units of the threshold: above 1 a level is unlike the training's. A level that is better
reconstructed, less masked or smoother than theirs is not. It is no finding: another scanner or another contrast move
it as much as a large lesion.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ..common.errors import PhanesInputError
from ..common.metadata import add_warning
from ..method.filters import gaussian_filter
from ..space.levels import LEVELS_MM, PIXEL_MM, nearest_level

# The order of `level_features`; kept in the record, which is refused when it was made of others.
FEATURES = ("log error", "correlation with reconstruction", "share of mask", "log detail", "brightness")
SIDES = np.array([1, -1, 1, 1, 0])  # where larger (1), smaller (-1) or either (0) is unlike the training's
MIN_BRAIN_MM2 = 2000.0  # of brain in a level that is judged
SMOOTHING = 2.0  # levels; neighbouring levels share what is usual
RIDGE = 1e-6  # keeps a covariance of identical heads invertible


def level_features(image: Tensor, coarse: Tensor, mask: Tensor, brain: Tensor) -> Tensor:
    """Five numbers a level: image and reconstruction in [0, 1], mask and brain 0 or 1, (1, H, W, D) -> (D, 5), float64.

    Over the brain: mean absolute error of the reconstruction (log), its correlation with the image (Fisher's z), share
    of the mask, mean absolute difference from the image smoothed by one pixel (log), mean intensity. NaN for a level
    with too little brain to be judged.
    """
    inside = brain[0].double().movedim(-1, 0).flatten(1)

    def mean(values: Tensor) -> Tensor:
        return (values * inside).sum(1) / inside.sum(1)

    planes = image[0].float().movedim(-1, 0)[:, None]
    x, y, m = (t[0].double().movedim(-1, 0).flatten(1) for t in (image, coarse, mask))
    detail = (planes - gaussian_filter(planes, 1.0)).double().abs().flatten(1)
    a, b = x - mean(x)[:, None], y - mean(y)[:, None]
    correlation = mean(a * b) / (mean(a.square()) * mean(b.square()) + 1e-12).sqrt()
    features = torch.stack(
        [
            (mean((x - y).abs()) + 1e-4).log(),
            correlation.clamp(-0.9999, 0.9999).atanh(),
            mean(m),
            (mean(detail) + 1e-4).log(),
            mean(x),
        ],
        dim=1,
    )
    return torch.where((inside.sum(1) * PIXEL_MM**2 >= MIN_BRAIN_MM2)[:, None], features, torch.nan)


def fit_guard(features: NDArray, false_alarm_rate: float) -> dict[str, Any]:
    """The record of the guard from features of healthy heads on all levels.

    What is usual at a level is the heads' mean and standard deviation there, smoothed over neighbouring levels; how the
    features go together is pooled over all. Each head is scored against all others, so that both thresholds hold for
    heads that were not seen: of a level, the value that the given share of healthy levels exceeds; of a head, the share
    of its levels above that (the order statistic of split conformal prediction).

    Args:
        features: (N, D, 5) of `level_features`, D levels of the whole grid.
        false_alarm_rate: wanted share of alarms, of healthy levels and of healthy heads; at least 1 / (N + 1).

    Raises:
        PhanesInputError: too few heads for the rate.
    """
    count = len(features)
    rank = math.ceil((1.0 - false_alarm_rate) * (count + 1))
    if rank > count or count <= len(FEATURES) + 1:
        raise PhanesInputError(
            f"a guard with {100 * false_alarm_rate:g} % false alarms needs more healthy heads than {count}."
        )
    others = [np.delete(features, i, axis=0) for i in range(count)]
    distances = np.stack([_distance(features[i], range(len(LEVELS_MM)), _usual(rest)) for i, rest in enumerate(others)])
    threshold = float(np.nanquantile(distances, 1.0 - false_alarm_rate))
    shares = sorted(float(share) for share in _share(distances / threshold))
    mean, deviation, precision = _usual(features)
    return {
        "features": list(FEATURES),
        "false_alarm_rate": false_alarm_rate,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "precision": precision.tolist(),
        "threshold": threshold,
        "share_of_levels": shares[rank - 1],
        "healthy_heads": count,
    }


def guard_scores(features: NDArray, heights: Sequence[float], record: Mapping[str, Any]) -> NDArray[np.float64]:
    """Scores (D,) of features (D, 5) at the given heights (MNI z, mm); NaN for levels that are not judged.

    Raises:
        PhanesInputError: the record was made of other features.
    """
    if tuple(record.get("features", ())) != FEATURES:
        raise PhanesInputError("the calibration's guard was made by another version: run the calibrate workflow again.")
    usual = tuple(np.array(record[name]) for name in ("mean", "deviation", "precision"))
    return _distance(features, [nearest_level(height) for height in heights], usual) / record["threshold"]


def _usual(features: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Mean and standard deviation of each level, (D, 5), and the precision matrix of what is left, (5, 5)."""
    judged = np.isfinite(features).all(axis=(0, 2))
    mean, deviation = (np.full(features.shape[1:], np.nan) for _ in range(2))
    kept = features[:, judged]
    mean[judged] = gaussian_filter1d(kept.mean(axis=0), SMOOTHING, axis=0, mode="nearest")
    spread = np.sqrt(((kept - mean[judged]) ** 2).mean(axis=0))
    deviation[judged] = gaussian_filter1d(spread, SMOOTHING, axis=0, mode="nearest") + RIDGE
    standard = ((kept - mean[judged]) / deviation[judged]).reshape(-1, len(FEATURES))
    covariance = np.cov(standard, rowvar=False) + RIDGE * np.eye(len(FEATURES))
    return mean, deviation, np.linalg.inv(covariance)


def _distance(values: NDArray, levels: Sequence[int], usual: tuple[NDArray, ...]) -> NDArray[np.float64]:
    mean, deviation, precision = usual
    away = (values - mean[list(levels)]) / deviation[list(levels)]
    away = np.where(SIDES * away < 0, 0.0, away)
    return np.sqrt(np.einsum("ni,ij,nj->n", away, precision, away))


def _share(scores: NDArray) -> NDArray:
    """Share of the judged levels above 1, over the last axis; 0 where none is judged."""
    judged = np.isfinite(scores)
    return ((scores > 1) & judged).sum(axis=-1) / np.maximum(judged.sum(axis=-1), 1)


class GuardLevelsd(Transform):
    """Score each level, and warn (or refuse) when too many are unlike the training's.

    Runs after `SplitMapsd`, on the network's grid, (1, H, W, D) each. Sets `guard`: "ok", "unlike the training heads",
    "not judged" (too little brain) or "not calibrated"; `guard_share`, the share of levels that are unlike the
    training's; and `guard_scores`, a number a level.

    Args:
        calibration: the record; without `guard` nothing is judged.
        strict: refuse instead of warning.
        ref_key: key of the preprocessed input.

    Raises:
        PhanesInputError: with `strict`, for a case that is unlike the training heads.
    """

    def __init__(self, calibration: Mapping[str, Any], strict: bool = False, ref_key: str = "image") -> None:
        self.record = calibration.get("guard")
        self.strict = strict
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        d["guard"], d["guard_share"], d["guard_scores"] = "not calibrated", None, []
        if self.record is None:
            return d
        image = d[self.ref_key]
        parts = (torch.as_tensor(d[key]).detach().cpu()[:1] for key in (self.ref_key, "coarse", "mask", "analysed"))
        heights = [float(height) for height in image.meta["heights"]]
        scores = guard_scores(level_features(*parts).numpy(), heights, self.record)
        d["guard_scores"] = [float(score) for score in scores]
        if not np.isfinite(scores).any():
            d["guard"] = "not judged"
            return d
        share = float(_share(scores))
        usual = self.record["share_of_levels"] if image.meta["whole"] else 0.0
        d["guard"], d["guard_share"] = ("ok" if share <= usual else "unlike the training heads"), share
        if share > usual:
            sentence = (
                f"does not look like a healthy T1w head at {100 * share:.0f} % of the levels (guard; at most "
                f"{100 * usual:.0f} % expected)"
            )
            if self.strict:
                name = image.meta.get("filename_or_obj", "the image")
                raise PhanesInputError(f"'{name}' {sentence}; look at it, or leave --strict out.")
            add_warning(image, sentence)
        return d
