"""Spread and significance: bootstrap over subjects with the same resamples for every system, paired p-values, seeds.

A resample draws as many subjects as there are, with replacement, and pools their pixels. Average precision grows, and
Dice peaks, only where a lesion pixel is gained. So it is enough to count each subject's pixels between the distinct
scores of the lesion pixels. 1,000 resamples then cost a matrix product, not 1,000 sorts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .metrics import Array, flatten

BLOCK = 2048  # thresholds handled at once, bounds the memory


class Spread(NamedTuple):
    """Mean and standard deviation of a score."""

    mean: float
    std: float


class Resampled(NamedTuple):
    """Scores of each resample, both (R,); NaN where a resample holds no lesion pixel."""

    auprc: NDArray[np.float64]
    best_dice: NDArray[np.float64]


def resample_weights(subjects: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each subject is drawn: (R, S) counts, each row adding up to S; the same for all systems."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(subjects, np.full(subjects, 1.0 / subjects), size=resamples).astype(np.float64)


def subject_indices(subjects: Sequence[str]) -> NDArray[np.intp]:
    """Number each image's subject, (N,) in 0 .. S - 1; images of one subject are drawn together."""
    return np.unique(np.asarray(subjects), return_inverse=True)[1]


def bootstrap(
    scores: Array,
    labels: Array,
    subjects: NDArray[np.intp],
    weights: NDArray[np.float64],
    levels: int | None = 4096,
    missed: NDArray[np.int64] | None = None,
) -> Resampled:
    """Pooled average precision and best Dice of every resample.

    Args:
        scores: (N, ...) maps, higher means more abnormal.
        labels: (N, ...), > 0 in the lesion.
        subjects: (N,) subject of each map, 0 .. S - 1. For maps of unequal size, give all pixels as one row, and the
            subject of each pixel.
        weights: (R, S) from `resample_weights`.
        levels: largest number of thresholds, evenly spaced in recall. None takes all distinct ones, which is exact.
            Fewer make both scores too small, by about 2 / levels at most.
        missed: (S,) lesion pixels of each subject that no score can find; None for none.

    Returns:
        `Resampled`, (R,) each.
    """
    flat, truth = flatten(scores, labels)
    owner = np.repeat(subjects, flat.size // len(subjects))
    there = np.bincount(owner[truth], minlength=weights.shape[1])
    positives = weights @ (there if missed is None else there + missed)

    thresholds = np.sort(flat[truth])
    if thresholds.size == 0:  # every lesion lies where nothing was scored
        nothing = np.where(positives > 0, 0.0, np.nan)
        return Resampled(nothing, nothing.copy())
    if levels is not None and thresholds.size > levels:
        thresholds = thresholds[np.linspace(0, thresholds.size - 1, levels).astype(np.intp)]
    thresholds = np.unique(thresholds)  # ascending; bin 0 holds the pixels that reach the highest threshold
    counted = flat >= thresholds[0]
    flat, truth, owner = flat[counted], truth[counted], owner[counted]
    bins = thresholds.size - np.searchsorted(thresholds, flat, side="right")
    order = np.argsort(bins, kind="stable")
    bins, truth, owner = bins[order], truth[order], owner[order]

    hits = np.zeros((len(weights), 1))  # lesion pixels and all pixels at or above the threshold, so far
    predicted = np.zeros((len(weights), 1))
    area = np.zeros(len(weights))
    dice = np.zeros(len(weights))
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, thresholds.size, BLOCK):
            width = min(BLOCK, thresholds.size - start)
            inside = slice(*np.searchsorted(bins, [start, start + width]))
            gained = weights @ _count(owner[inside], bins[inside] - start, truth[inside], weights.shape[1], width)
            added = weights @ _count(owner[inside], bins[inside] - start, None, weights.shape[1], width)
            reached = hits + np.cumsum(gained, axis=1)
            called = predicted + np.cumsum(added, axis=1)
            area += np.where(gained > 0, gained * (reached / called), 0.0).sum(axis=1)
            np.maximum(dice, (2.0 * reached / (called + positives[:, None])).max(axis=1), out=dice)
            hits, predicted = reached[:, -1:], called[:, -1:]
        area /= positives
    return Resampled(area, np.where(positives > 0, dice, np.nan))


def spread(values: Array) -> Spread:
    """Mean and standard deviation over resamples (the bootstrap's standard error), NaN left out."""
    array = np.asarray(values, dtype=np.float64)
    return Spread(float(np.nanmean(array)), float(np.nanstd(array)))


def spread_over_seeds(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation over seeds; one seed has no spread (NaN)."""
    array = np.asarray(values, dtype=np.float64)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else float("nan"))


def paired_p_value(system: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Two-sided bootstrap p-value that two systems score alike, from their scores on the same resamples.

    The value is twice the smaller tail of the differences about zero. The observed sample counts as well (Davison and
    Hinkley 1997, section 4.2), so the value is never 0, but at least 2 / (R + 1).
    """
    difference = np.asarray(system) - np.asarray(reference)
    difference = difference[np.isfinite(difference)]
    tail = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    return min(1.0, 2.0 * (tail + 1) / (difference.size + 1))


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """p-values corrected for their number n (Holm 1979): the smallest times n, the next times n - 1, and so on."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    steps = values[order] * np.arange(values.size, 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _count(
    owner: NDArray[np.intp], bins: NDArray[np.intp], chosen: NDArray[np.bool_] | None, subjects: int, width: int
) -> NDArray[np.float64]:
    """(S, width) pixels by subject and bin; only the chosen ones when given."""
    keys = owner * width + bins
    if chosen is not None:
        keys = keys[chosen]
    return np.bincount(keys, minlength=subjects * width).reshape(subjects, width).astype(np.float64)
