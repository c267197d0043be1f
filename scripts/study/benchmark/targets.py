"""The targets, as ratios within one run, and what a run shows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def median(rows: Sequence[dict[str, Any]], **wanted: Any) -> float:
    """Median seconds of the first row with these entries; NaN without one."""
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()):
            return float(row["seconds"]["median"])
    return math.nan


def _inference(rows: Sequence[dict[str, Any]], device: str) -> list[tuple[str, str, float, float]]:
    batch = max((row["batch"] for row in rows if row["size"] == "paper"), default=0)
    published = median(rows, size="paper", system="as published", batch=batch)
    found = []
    for name, size, target in (
        ("ours", "paper", 1.8 if device == "cpu" else 30.0),
        ("shipped network", "shipped", 10.0),
        ("shipped network without refinements", "one filling", 10.0),
    ):
        for system, precision in (("ours", ""), ("ours, bfloat16", ", bfloat16")):
            if not math.isnan(seconds := median(rows, size=size, system=system, batch=batch)):
                what = f"{name}{precision} / as published at published size, batch {batch}"
                found.append((what, ">=", target, published / seconds))
    return found


def _training(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, float, float]]:
    found = []
    for row in rows:
        if row["system"].startswith("ours"):
            same = [r for r in rows if (r["stage"], r["size"]) == (row["stage"], row["size"])]
            slow = next(r for r in same if r["system"].startswith("as published"))
            name = f"training step, {row['stage']}, {row['size']}: {row['system']} / {slow['system']}"
            found.append((name, ">=", 2.0, slow["seconds"]["median"] / row["seconds"]["median"]))
    return found


def against_targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a target: what, comparison, target, value; of the parts that were measured."""
    found: list[tuple[str, str, float, float]] = []
    if "inference" in result:
        found += _inference(result["inference"], result["device"])
    if "stages" in result:
        found.append(
            ("not a network's forward pass, share of our time", "<=", 0.12, result["stages"]["outside_networks"])
        )
    found += _training(result.get("training", []))
    if "peers" in result:
        rows, steps = result["peers"]["rows"], result["peers"]["anoddpm_steps"]
        cost = steps * median(rows, system="AnoDDPM, one step") / median(rows, system="PHANES, shipped")
        found.append(("AnoDDPM's cost of a slice / ours", ">=", 500.0, cost))
    if "command" in result:
        seconds = result["command"][result["clock"]]["first result beyond imports"]
        found.append(("first slice's result beyond importing torch and monai, s", "<=", 3.0, seconds))
    if "processes" in result:
        found.append(("two processes / one, cohort, one thread each", ">=", 1.8, result["processes"]["speed"]))
    return [
        {"what": what, "comparison": comparison, "target": target, "value": None if math.isnan(value) else value}
        for what, comparison, target, value in found
    ]
