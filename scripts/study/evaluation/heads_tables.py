"""The tables over whole heads. Numbers are times 100, except findings a head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .statistics import resample_weights
from .summary import Cell
from .tables import NOTHING, Line, p_text, score_table

MAIN = {
    "own.auprc": "AUPRC",
    "own.best_dice": "⌈Dice⌉",
    "mean.auprc": "AUPRC a head",
    "mean.best_dice": "⌈Dice⌉ a head",
    "label.dice": "Dice of the label",
    "label.mean_dice": "Dice of the label a head",
    "label.dice_at_1_percent": "Dice at 1 % false voxels a head",
}
DECADE = 10


def lesion_tables(
    cells: Sequence[Cell], name: str, lines: Mapping[str, Line]
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of a set's tables: scores and their p, by size of the lesion, lesions found (FROC).

    The best number of a column among the systems that are not shown the truth is set in **bold**.

    Args:
        cells: from `summary.summarise`.
        name: of the set.
        lines: the systems, in the tables' order.
    """
    found = {(cell.system, cell.measure): cell for cell in cells if cell.set == name}
    measures = dict.fromkeys(measure for _, measure in found)
    sizes = {m: _size_heading(m) for m in measures if m.startswith("size.")}
    curves = {m: _curve_heading(m) for m in measures if m.startswith("froc.all ") or m.endswith(" at 1")}
    main = {m: h for m, h in MAIN.items() if m in measures}
    made = []
    for title, headings in (
        ("", main),
        ("By size of the painted lesion", sizes),
        ("Share of the lesions found, by their volume, at so many false findings a head", curves),
    ):
        if headings:
            made.append((title, *score_table(found, headings, lines, None if title else ("s / head", 1.0))))
    rows = []
    for system, line in lines.items():
        values = [found[system, m].p_value if (system, m) in found else math.nan for m in main]
        if not all(map(math.isnan, values)):
            rows.append([line.label, *(NOTHING if math.isnan(value) else p_text(value) for value in values)])
    if rows:
        made.insert(1, ("p of every score against the best baseline in it", ["System", *main.values()], rows))
    return made


def healthy_table(
    heads: Mapping[str, Sequence[Mapping[str, Any]]], lines: Mapping[str, Line], resamples: int, seed: int
) -> tuple[list[str], list[list[str]]]:
    """Labelled share of healthy heads, with 95 % intervals over heads, and false findings by decade of age.

    Args:
        heads: by system, a mapping with `age`, `labelled_share` and `false_findings` a head.
        lines: the systems.
        resamples: of the bootstrap over heads.
        seed: of it.
    """
    decades = sorted({decade for of in heads.values() for decade in map(_decade, of) if decade is not None})
    rows = []
    for system, of in heads.items():
        share = np.array([head["labelled_share"] for head in of], dtype=float)
        false = np.array([head["false_findings"] for head in of], dtype=float)
        row = [
            lines[system].label,
            str(len(of)),
            f"{100 * share.mean():.3f}",
            _interval(100 * share, resamples, seed, 3),
        ]
        row += [f"{false.mean():.2f}", _interval(false, resamples, seed, 2)]
        for decade in decades:
            there = [head["false_findings"] for head in of if _decade(head) == decade]
            row.append(f"{np.mean(there):.2f} ({len(there)})" if there else NOTHING)
        rows.append(row)
    headings = ["System", "Heads", "Brain labelled, %", "95 % interval", "False findings a head", "95 % interval"]
    return headings + [f"{decade} to {decade + DECADE - 1} years (heads)" for decade in decades], rows


def healthy_cells(name: str, heads: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Cell]:
    """`healthy.labelled_share` and `healthy.false_findings`, means over heads."""
    return [
        Cell(name, system, f"healthy.{measure}", float(np.mean([head[measure] for head in of])), float("nan"))
        for system, of in heads.items()
        for measure in ("labelled_share", "false_findings")
    ]


def _interval(values: NDArray[np.float64], resamples: int, seed: int, digits: int) -> str:
    means = resample_weights(len(values), resamples, seed) @ values / len(values)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _decade(head: Mapping[str, Any]) -> int | None:
    age = head.get("age")
    return None if age is None or math.isnan(age) else int(age // DECADE * DECADE)


def _size_heading(measure: str) -> str:
    size, metric = measure.removeprefix("size.").rsplit(".", 1)
    return f"{'AUPRC' if metric == 'auprc' else '⌈Dice⌉'}, {size}"


def _curve_heading(measure: str) -> str:
    size, at = measure.removeprefix("froc.").rsplit(" at ", 1)
    return f"{size}, {at}"
