"""Metrics of anomaly maps: average precision, best achievable Dice, LPIPS by region.

All pixels of all images are pooled, as in Tables 1 and 2 of the paper. Every score that depends on a threshold is
read off one `Ranking`. Values are fractions in [0, 1]; the tables multiply by 100. Arrays and tensors of any shape are
accepted; scores and labels must have as many elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Array: TypeAlias = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Ranking:
    """Pixels ranked by score; entry k describes the prediction "score >= the k-th highest score of a lesion pixel".

    Other thresholds do not matter. Between two of these the same lesion pixels are found, and more others.

    Attributes:
        true_positives: (K,) lesion pixels with such a score.
        predicted: (K,) pixels with such a score.
        positives: number of lesion pixels, including those that were never scored.
        total: number of pixels.
    """

    true_positives: NDArray[np.int64]
    predicted: NDArray[np.int64]
    positives: int
    total: int

    @property
    def prevalence(self) -> float:
        """Fraction of pixels that belong to a lesion."""
        return self.positives / self.total

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,) precision at each threshold."""
        return self.true_positives / self.predicted

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,) recall at each threshold."""
        return self.true_positives / self.positives


def flatten(scores: Array, labels: Array) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return scores (floating, own precision) and labels (label > 0) as flat arrays.

    Raises:
        ValueError: sizes differ, nothing to score, or a score is not finite.
    """
    flat = _numpy(scores).reshape(-1)
    truth = _numpy(labels).reshape(-1) > 0
    if flat.size != truth.size:
        raise ValueError(f"scores and labels must have as many pixels, got {flat.size} and {truth.size}")
    if flat.size == 0:
        raise ValueError("there are no pixels to score")
    if not np.issubdtype(flat.dtype, np.floating):
        flat = flat.astype(np.float64)
    if not np.isfinite(flat).all():
        raise ValueError("scores must be finite: the anomaly map holds NaN or infinity")
    return flat, truth


def rank(scores: Array, labels: Array, missed: int = 0) -> Ranking:
    """Count lesion pixels and all pixels at or above each distinct score of a lesion pixel.

    Args:
        scores: higher means more abnormal.
        labels: > 0 means lesion.
        missed: number of lesion pixels outside of the scored region; no threshold finds them.

    Raises:
        ValueError: as `flatten`, or no lesion pixel (precision and recall are then undefined).
    """
    flat, truth = flatten(scores, labels)
    if not truth.any() and not missed:
        raise ValueError("no lesion pixel: average precision and Dice are undefined")
    lesion, everything = np.sort(flat[truth]), np.sort(flat)
    levels = np.unique(lesion)[::-1]
    hits = lesion.size - np.searchsorted(lesion, levels)
    return Ranking(hits, flat.size - np.searchsorted(everything, levels), lesion.size + missed, flat.size)


def average_precision(ranking: Ranking) -> float:
    """Area under the precision-recall curve as a step function, sum over k of (R_k - R_(k-1)) P_k.

    The definition of `sklearn.metrics.average_precision_score`, without sorting again.
    """
    return float(np.sum(np.diff(ranking.recall, prepend=0.0) * ranking.precision))


def best_dice(ranking: Ranking) -> float:
    """Best achievable Dice of any threshold."""
    return float((2.0 * ranking.true_positives / (ranking.predicted + ranking.positives)).max(initial=0.0))


def precision_recall_points(ranking: Ranking, points: int = 512) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Recall and precision at up to `points` thresholds, evenly spaced in recall: a curve small enough to store."""
    recall = ranking.recall
    picked = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1.0, points)))
    return recall[picked].astype(np.float32), ranking.precision[picked].astype(np.float32)


def lpips_by_region(
    distance: torch.Tensor, masks: torch.Tensor, drop_zeros: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean perceptual distance of each image outside and inside its lesion ("healthy" and "anomaly" of Table 1).

    Args:
        distance: (B, 1, H, W) spatial LPIPS between the reconstruction and the clean image, >= 0.
        masks: (B, 1, H, W), > 0 in the lesion.
        drop_zeros: leave pixels of exactly zero distance out of the means, as the published evaluation did. This
            punishes methods that copy healthy pixels, because their zeros do not count.

    Returns:
        (B,) means over healthy pixels and (B,) over lesion pixels; NaN where an image has no such pixel.
    """
    if distance.shape != masks.shape:
        raise ValueError(f"distance and masks must have one shape, got {tuple(distance.shape)}, {tuple(masks.shape)}")
    lesion = masks > 0
    counted = distance != 0 if drop_zeros else torch.ones_like(lesion)

    def mean(region: torch.Tensor) -> torch.Tensor:
        weight = (region & counted).to(torch.float64)
        return (distance * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))

    return mean(~lesion), mean(lesion)


def evaluate_map(maps: Array, masks: Array) -> dict[str, float]:
    """Score anomaly maps against lesion masks, all pixels pooled.

    Args:
        maps: (B, 1, H, W) scores, higher means more abnormal.
        masks: (B, 1, H, W), > 0 in the lesion.

    Returns:
        `auprc`, `best_dice` and `prevalence`.
    """
    ranking = rank(maps, masks)
    return {
        "auprc": average_precision(ranking),
        "best_dice": best_dice(ranking),
        "prevalence": ranking.prevalence,
    }


def _numpy(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
