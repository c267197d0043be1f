"""From single results to the numbers of the tables: mean, spread and p-value of every system, map and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scoring import Result
from .statistics import Spread, holm, paired_p_value, spread, spread_over_seeds

METRICS = ("auprc", "best_dice")
COMPARED = ("proposed", "baseline", "ablation")  # roles of the rows that get p-values


@dataclass(frozen=True)
class Cell:
    """One number of a table, as a fraction.

    Attributes:
        set: name of the lesion set.
        system: key of the system.
        measure: what was measured, `<map>.<metric>`, `lpips.<region>`, `size.<bin>.<metric>` or another with a dot.
        value: the pooled score, or its mean over seeds.
        std: over seeds, or the bootstrap's over subjects; NaN without either.
        bootstrap_mean: mean over the resamples; NaN without them.
        p_value: that the best baseline scores alike, corrected by Holm for the number of compared rows. NaN for that
            baseline itself, for oracle and sanity rows, and where it cannot be computed.
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
        roles: of the systems. For each set and measure, p-values compare with the best "baseline".
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
    compared = _p_values(cells, samples, roles)
    return [replace(cell, p_value=compared.get((cell.set, cell.system, cell.measure), float("nan"))) for cell in cells]


def best_baseline(cells: Sequence[Cell], roles: Mapping[str, str], name: str, measure: str) -> str | None:
    """The baseline with the highest score in this measure of this set."""
    rivals = [c for c in cells if c.set == name and c.measure == measure and roles.get(c.system) == "baseline"]
    return max(rivals, key=lambda cell: cell.value).system if rivals else None


def measures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Every measure of one result, by name."""
    sections = {**record["maps"], "lpips": record.get("lpips", {})}
    sections |= {f"size.{label}": scores for label, scores in record.get("by_size", {}).items()}
    found = {
        f"{name}.{metric}": value
        for name, scores in sections.items()
        for metric, value in scores.items()
        if metric in METRICS or name == "lpips"
    }
    return found | record.get("more", {})


def _values(group: Sequence[Result]) -> dict[str, list[float]]:
    """Every measure of one system on one set, a value a seed."""
    values: dict[str, list[float]] = {}
    for result in group:
        for measure, value in measures_of(result.record).items():
            values.setdefault(measure, []).append(value)
    return values


def _resampled(group: Sequence[Result], measure: str) -> NDArray[np.float64] | None:
    """(R,) scores of the resamples, averaged over the seeds; None for measures that were not resampled."""
    arrays = [result.arrays[measure] for result in group if measure in result.arrays]
    if len(arrays) != len(group) or measure.startswith("lpips."):
        return None
    return np.mean(arrays, axis=0)


def _p_values(
    cells: Sequence[Cell], samples: Mapping[tuple[str, str, str], NDArray[np.float64]], roles: Mapping[str, str]
) -> dict[tuple[str, str, str], float]:
    """By set, system and measure: each compared row against the best baseline, corrected for the number of rows."""
    found: dict[tuple[str, str, str], float] = {}
    for name, measure in dict.fromkeys((cell.set, cell.measure) for cell in cells):
        rival = best_baseline(cells, roles, name, measure)
        reference = samples.get((name, rival or "", measure))
        systems = [
            cell.system
            for cell in cells
            if (cell.set, cell.measure) == (name, measure) and cell.system != rival
            if roles.get(cell.system) in COMPARED and (name, cell.system, measure) in samples
        ]
        if reference is not None:
            values = holm([paired_p_value(samples[name, system, measure], reference) for system in systems])
            found |= {(name, system, measure): float(p) for system, p in zip(systems, values, strict=True)}
    return found
