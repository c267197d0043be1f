"""From single results to the numbers of the tables: mean, spread and p-value of every system, map and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scoring import Result
from .statistics import Spread, paired_p_value, spread, spread_over_seeds

METRICS = ("auprc", "best_dice")


@dataclass(frozen=True)
class Cell:
    """One number of a table, as a fraction.

    Attributes:
        set: name of the lesion set.
        system: key of the system.
        measure: what was measured, `<map>.<metric>` or `lpips.<region>` or `size.<bin>.<metric>`.
        value: the pooled score, or its mean over seeds.
        std: over seeds, or the bootstrap's over subjects; NaN without either.
        bootstrap_mean: mean over the resamples; NaN without them.
        p_value: that the best baseline scores alike; NaN for that baseline itself and where it cannot be said.
        seeds: number of seeds behind it; 0 for real lesions.
    """

    set: str
    system: str
    measure: str
    value: float
    std: float
    bootstrap_mean: float = float("nan")
    p_value: float = float("nan")
    seeds: int = 0


def summarise(results: Mapping[tuple[str, int | None, str], Result], roles: Mapping[str, str], by: str) -> list[Cell]:
    """All cells, set by set and system by system, in the order the results came in.

    Args:
        results: by (set, seed, system).
        roles: of the systems; the best "baseline" is the one p-values compare with, for each set and measure.
        by: what the standard deviation is over, "seeds" or "bootstrap".

    Raises:
        ValueError: for another kind of spread.
    """
    if by not in ("seeds", "bootstrap"):
        raise ValueError(f"spread must be 'seeds' or 'bootstrap', got {by!r}")
    groups: dict[tuple[str, str], list[Result]] = {}
    for (name, _, system), result in results.items():
        groups.setdefault((name, system), []).append(result)

    cells: list[Cell] = []
    samples: dict[tuple[str, str, str], NDArray[np.float64]] = {}
    for (name, system), group in groups.items():
        for measure, values in _values(group).items():
            over_seeds = spread_over_seeds(values)
            sampled = _resampled(group, measure)
            std = over_seeds.std
            bootstrapped = Spread(float("nan"), float("nan"))
            if sampled is not None:
                bootstrapped = spread(sampled)
                samples[name, system, measure] = sampled
            if by == "bootstrap":
                std = bootstrapped.std
            seeds = sum(result.record["seed"] is not None for result in group)
            cells.append(Cell(name, system, measure, over_seeds.mean, std, bootstrapped.mean, seeds=seeds))
    return [_with_p_value(cell, cells, samples, roles) for cell in cells]


def best_baseline(cells: Sequence[Cell], roles: Mapping[str, str], name: str, measure: str) -> str | None:
    """The baseline with the highest score in this measure of this set."""
    rivals = [c for c in cells if c.set == name and c.measure == measure and roles.get(c.system) == "baseline"]
    return max(rivals, key=lambda cell: cell.value).system if rivals else None


def _values(group: Sequence[Result]) -> dict[str, list[float]]:
    """Every measure of one system on one set, a value a seed."""
    values: dict[str, list[float]] = {}
    for result in group:
        record = result.record
        for name, scores in record["maps"].items():
            for metric in METRICS:
                values.setdefault(f"{name}.{metric}", []).append(scores[metric])
        for region, mean in record.get("lpips", {}).items():
            values.setdefault(f"lpips.{region}", []).append(mean)
        for label, scores in record.get("by_size", {}).items():
            for metric in METRICS:
                if metric in scores:
                    values.setdefault(f"size.{label}.{metric}", []).append(scores[metric])
    return values


def _resampled(group: Sequence[Result], measure: str) -> NDArray[np.float64] | None:
    """(R,) scores of the resamples, averaged over the seeds; None for measures that were not resampled."""
    arrays = [result.arrays[measure] for result in group if measure in result.arrays]
    if len(arrays) != len(group) or measure.startswith("lpips."):
        return None
    return np.mean(arrays, axis=0)


def _with_p_value(
    cell: Cell,
    cells: Sequence[Cell],
    samples: Mapping[tuple[str, str, str], NDArray[np.float64]],
    roles: Mapping[str, str],
) -> Cell:
    rival = best_baseline(cells, roles, cell.set, cell.measure)
    ours = samples.get((cell.set, cell.system, cell.measure))
    theirs = samples.get((cell.set, rival or "", cell.measure))
    if ours is None or theirs is None or rival == cell.system:
        return cell
    return Cell(**{**vars(cell), "p_value": paired_p_value(ours, theirs)})
