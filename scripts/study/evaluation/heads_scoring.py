"""Score anomaly maps of whole heads, in the heads' own voxels, over the template's brain.

A lesion's voxels outside of that brain count as missed. A *finding* is a connected piece (26 neighbours) of the label.
It is true when at least a quarter of it is lesion, else false. A lesion is a connected piece of the truth. It is found
when true findings cover at least a tenth of it. So neither a speck nor a label of half the brain finds anything. All
values are fractions; the tables multiply by 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .metrics import average_precision, best_dice, rank
from .statistics import bootstrap

TRUE_SHARE = 0.25  # of a finding that is lesion; large gliomas are a fifth of the brain
FOUND_SHARE = 0.1  # of a lesion that true findings cover
CURVE_FINDING_MM3 = 50.0  # smallest finding on the FROC curve, the same for all systems
FALSE_A_HEAD = (0.5, 1.0, 2.0, 4.0)  # where the curve is read off
LESION_ML = ((0.05, 0.3), (0.3, 2.0), (2.0, 15.0), (15.0, np.inf))  # a smaller piece of a mask is no lesion
CURVE_TAILS = np.geomspace(0.3, 1e-6, 40)  # a threshold of the curve for each share of the pooled voxels above it
NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)

LABELLED_SHARE = 0.002  # of a healthy brain, on average
FINDINGS_A_HEAD = 1.0  # in a healthy head, on average
FALSE_VOXELS = 0.01  # of healthy brains, where benchmarks fix their threshold


@dataclass(frozen=True)
class ScoredHead:
    """A map and a truth in the box around the template's brain.

    Attributes:
        anomaly: (X, Y, Z) float32.
        brain: (X, Y, Z) boolean.
        truth: (X, Y, Z) boolean.
        voxel_mm3: volume of a voxel.
        label: (X, Y, Z) boolean, the system's own label; None when it gives none.
        missed: lesion voxels outside of the brain.
        size: range of size that was painted, "2-15 ml"; empty for a real lesion.
    """

    anomaly: NDArray[np.float32]
    brain: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    voxel_mm3: float
    label: NDArray[np.bool_] | None = None
    missed: int = 0
    size: str = ""

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) the map within the brain."""
        return self.anomaly[self.brain]

    @property
    def lesion(self) -> NDArray[np.bool_]:
        """(N,) the truth within the brain."""
        return self.truth[self.brain]


def scored_head(
    anomaly: NDArray,
    brain: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None,
    voxel_mm3: float,
    label: NDArray | None = None,
    size: str = "",
) -> ScoredHead:
    """Cut to the brain's box; arrays (X, Y, Z) of one grid.

    Raises:
        ValueError: shapes differ, there is no brain, or the map is not finite.
    """
    if anomaly.shape != brain.shape:
        raise ValueError(f"the map has {anomaly.shape} voxels, the head {brain.shape}")
    if not brain.any():
        raise ValueError("the template's brain lies outside of the head")
    truth = np.zeros(brain.shape, dtype=bool) if truth is None else truth
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    values = np.asarray(anomaly[box], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinity")
    own = None if label is None else (np.asarray(label[box]) > 0) & brain[box]
    return ScoredHead(values, brain[box], truth[box] & brain[box], voxel_mm3, own, int((truth & ~brain).sum()), size)


@dataclass(frozen=True)
class OperatingPoint:
    """How a label is made of a map.

    Attributes:
        threshold: voxels above it are labelled.
        smallest_mm3: smaller findings are dropped.
        at_false_voxels: the share `FALSE_VOXELS` of healthy brains lies above this threshold.
    """

    threshold: float
    smallest_mm3: float
    at_false_voxels: float

    def label(self, head: ScoredHead) -> NDArray[np.bool_]:
        """The system's own label, or that of the threshold."""
        if head.label is not None:
            return head.label
        return without_small((head.anomaly > self.threshold) & head.brain, head.voxel_mm3, self.smallest_mm3)


def operating_point(healthy: Sequence[ScoredHead]) -> OperatingPoint:
    """Fix the threshold, then the smallest finding, on healthy heads.

    0.2 % of the healthy brains lie above the threshold. The smallest size leaves one finding a head, on average.

    Args:
        healthy: heads kept for this.

    Raises:
        ValueError: without any head.
    """
    if not healthy:
        raise ValueError("an operating point needs healthy heads")
    pooled = np.concatenate([head.scores for head in healthy])
    share, at_false_voxels = np.quantile(pooled, [1.0 - LABELLED_SHARE, 1.0 - FALSE_VOXELS], method="higher")
    volumes = np.concatenate(
        [piece_sizes((head.anomaly > share) & head.brain) * head.voxel_mm3 for head in healthy] + [np.zeros(1)]
    )
    allowed = int(FINDINGS_A_HEAD * len(healthy))
    too_many = np.sort(volumes)[::-1][allowed:]
    smallest = float(too_many[0]) * (1 + 1e-6) if too_many.size else 0.0
    return OperatingPoint(float(share), smallest, float(at_false_voxels))


def pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Connected pieces (26 neighbours), numbered from 1, and how many there are."""
    found, count = ndimage.label(mask, NEIGHBOURS)
    return found, int(count)


def piece_sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Voxels of each connected piece."""
    found, count = pieces(mask)
    return np.bincount(found.ravel(), minlength=count + 1)[1:]


def without_small(mask: NDArray[np.bool_], voxel_mm3: float, smallest_mm3: float) -> NDArray[np.bool_]:
    """The mask without its pieces of less than `smallest_mm3`."""
    found, count = pieces(mask)
    large = np.bincount(found.ravel(), minlength=count + 1) * voxel_mm3 >= smallest_mm3
    large[0] = False
    return large[found]


def dice(label: NDArray[np.bool_], head: ScoredHead) -> float:
    """Dice of a label (X, Y, Z) with the head's lesion. Lesion outside of the brain counts as missed."""
    both, lesion = int((label & head.truth).sum()), int(head.truth.sum()) + head.missed
    return 2.0 * both / (int(label.sum()) + lesion) if label.any() or lesion else float("nan")


def found_lesions(
    label: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    lesions: NDArray[np.int32],
    count: int,
    smallest: float = 0.0,
) -> tuple[NDArray[np.bool_], int]:
    """Which lesions a label finds, (count,), and how many of its findings are false.

    Args:
        label: (X, Y, Z).
        truth: (X, Y, Z).
        lesions: pieces of the truth, numbered from 1.
        count: how many there are.
        smallest: findings of fewer voxels do not count.
    """
    findings, n = pieces(label)
    numbers = findings[label]  # only labelled voxels matter from here on: they are few
    sizes = np.bincount(numbers, minlength=n + 1)
    hits = np.bincount(numbers[truth[label]], minlength=n + 1)
    large = sizes >= max(1, smallest)
    true = large & (hits >= np.maximum(1, TRUE_SHARE * sizes))
    covered = np.bincount(lesions[label][true[numbers]], minlength=count + 1)[1:]
    whole = np.bincount(lesions[truth], minlength=count + 1)[1:]
    return covered >= np.maximum(1, FOUND_SHARE * whole), int(large.sum() - true.sum())


def froc(heads: Sequence[ScoredHead]) -> dict[str, dict[str, float]]:
    """Share of the lesions that are found at given numbers of false findings a head (`FALSE_A_HEAD`), by volume.

    For each number, the curve is followed from its strictest threshold until it first exceeds that number.

    Returns:
        By range of volume, in ml, and for "all": the number of `lesions`, and the shares `at 0.5`, `at 1`, ....
    """
    pooled = np.concatenate([head.scores for head in heads])
    thresholds = np.unique(np.quantile(pooled, 1.0 - CURVE_TAILS, method="higher"))[::-1]
    lesions = [pieces(head.truth) for head in heads]
    volumes = [
        np.bincount(numbers[head.truth], minlength=count + 1)[1:] * head.voxel_mm3 / 1000
        for head, (numbers, count) in zip(heads, lesions, strict=True)
    ]
    found: list[list[NDArray[np.bool_]]] = [[] for _ in heads]  # by head and threshold
    passed_by: list[float] = []  # false findings a head, by threshold
    for threshold in thresholds:
        wrong = 0
        for head, (numbers, count), own in zip(heads, lesions, found, strict=True):
            label = (head.anomaly >= threshold) & head.brain
            hit, more = found_lesions(label, head.truth, numbers, count, CURVE_FINDING_MM3 / head.voxel_mm3)
            own.append(hit)
            wrong += more
        passed_by.append(wrong / len(heads))
        if passed_by[-1] > max(FALSE_A_HEAD):
            break  # looser thresholds are not read off
    false = np.array(passed_by)
    curves = {}
    ranges = {f"{low:g}-{high:g} ml" if np.isfinite(high) else f">{low:g} ml": (low, high) for low, high in LESION_ML}
    for name, (low, high) in {"all": (LESION_ML[0][0], np.inf), **ranges}.items():
        inside = [(ml >= low) & (ml < high) for ml in volumes]
        lesions_there = sum(int(chosen.sum()) for chosen in inside)
        entry: dict[str, float] = {"lesions": lesions_there}
        if lesions_there:
            share = np.array([
                sum(int((own[index] & chosen).sum()) for own, chosen in zip(found, inside, strict=True)) / lesions_there
                for index in range(len(false))
            ])  # fmt: skip
            for allowed in FALSE_A_HEAD:
                passed = np.flatnonzero(false > allowed)
                reached = share[: passed[0]] if passed.size else share
                entry[f"at {allowed:g}"] = float(reached.max(initial=0.0))
        curves[name] = entry
    return curves


class LesionScores:
    """Scores of heads with lesions: of each head, of all together, and of resamples of them.

    The latter two have the names that `summary.summarise` reads: `own.auprc` and `own.best_dice` of the pooled voxels,
    `mean.auprc` and `mean.best_dice` of the heads. With an operating point also `label.dice` (pooled),
    `label.mean_dice` and `label.dice_at_1_percent` (mean over heads).

    Args:
        heads: N of them.
        point: for the scores of the label; None leaves them out.

    Attributes:
        each: of each head, (N,): `auprc`, `best_dice`; with an operating point `label_dice`, `dice_at_1_percent`.
    """

    MEANS: ClassVar[dict[str, str]] = {
        "auprc": "mean.auprc",
        "best_dice": "mean.best_dice",
        "label_dice": "label.mean_dice",
        "dice_at_1_percent": "label.dice_at_1_percent",
    }

    def __init__(self, heads: Sequence[ScoredHead], point: OperatingPoint | None) -> None:
        self.heads = heads
        self.missed = np.array([head.missed for head in heads])
        rankings = [rank(head.scores, head.lesion, head.missed) for head in heads]
        self.each = {
            "auprc": np.array([average_precision(ranking) for ranking in rankings]),
            "best_dice": np.array([best_dice(ranking) for ranking in rankings]),
        }
        self.both = self.sizes = None
        if point is not None:
            labels = [point.label(head) for head in heads]
            pairs = list(zip(labels, heads, strict=True))
            self.both = np.array([int((label & head.truth).sum()) for label, head in pairs])
            self.sizes = np.array([int(label.sum()) + int(head.truth.sum()) + head.missed for label, head in pairs])
            self.each["label_dice"] = np.array([dice(label, head) for label, head in pairs])
            at_1_percent = [dice((head.anomaly > point.at_false_voxels) & head.brain, head) for head in heads]
            self.each["dice_at_1_percent"] = np.array(at_1_percent)

    def of_all(self) -> dict[str, float]:
        """The heads as they are; also the `prevalence`, the share of the voxels that are lesion."""
        ranking, missed = rank(*_pooled(self.heads), int(self.missed.sum())), int(self.missed.sum())
        means = self._means(np.ones((1, len(self.heads))))
        return {
            "own.auprc": average_precision(ranking),
            "own.best_dice": best_dice(ranking),
            **{name: float(values[0]) for name, values in means.items()},
            "prevalence": ranking.positives / (ranking.total + missed),
        }

    def resampled(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """(R,) scores of each resample; weights: (R, N) from `statistics.resample_weights`."""
        owner = np.repeat(np.arange(len(self.heads)), [int(head.brain.sum()) for head in self.heads])
        pooled = bootstrap(*_pooled(self.heads), owner, weights, missed=self.missed)
        return {"own.auprc": pooled.auprc, "own.best_dice": pooled.best_dice, **self._means(weights)}

    def _means(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found = {self.MEANS[name]: weights @ values / len(self.heads) for name, values in self.each.items()}
        if self.both is not None and self.sizes is not None:
            found["label.dice"] = 2.0 * (weights @ self.both) / (weights @ self.sizes)
        return found


def healthy_scores(heads: Sequence[ScoredHead], point: OperatingPoint) -> dict[str, NDArray[np.float64]]:
    """For each healthy head, (N,): `labelled_share`, a fraction of the brain, and the number of `false_findings`."""
    labels = [point.label(head) for head in heads]
    return {
        "labelled_share": np.array([label.sum() / head.brain.sum() for label, head in zip(labels, heads, strict=True)]),
        "false_findings": np.array([float(pieces(label)[1]) for label in labels]),
    }


def _pooled(heads: Sequence[ScoredHead]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return np.concatenate([head.scores for head in heads]), np.concatenate([head.lesion for head in heads])
