"""The tables: Markdown, CSV and the terminal's, with the paper's numbers beside ours. Every cell comes from a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from .summary import Cell

NOTHING = "-"

# The tables of a lesion set: title -> {measure: heading}. Each shows what was measured.
SECTIONS = {
    "": {
        "own.auprc": "AUPRC",
        "own.best_dice": "⌈Dice⌉",
        "label.dice": "Dice of the label",
        "mean.auprc": "AUPRC, mean of subjects",
        "mean.best_dice": "⌈Dice⌉, mean of subjects",
        "lpips.healthy": "LPIPS healthy",
        "lpips.anomaly": "LPIPS anomaly",
    },
    "One map for all reconstructions": {
        "phanes.auprc": "AUPRC, PHANES' map",
        "phanes.best_dice": "⌈Dice⌉, PHANES' map",
        "residual.auprc": "AUPRC, residual",
        "residual.best_dice": "⌈Dice⌉, residual",
        "eq_residual_lpips.auprc": "AUPRC, eq-residual x LPIPS",
        "eq_residual_lpips.best_dice": "⌈Dice⌉, eq-residual x LPIPS",
    },
    "By size of the lesion": {},
}
SIZE_HEADINGS = {"auprc": "AUPRC", "best_dice": "⌈Dice⌉"}
SHOWN_THE_TRUTH = ("oracle", "sanity")  # roles whose numbers are never the best
LOWER_IS_BETTER = ("lpips.healthy", "lpips.anomaly")
FIELDS = (
    "set",
    "system",
    "role",
    "map",
    "metric",
    "mean",
    "std",
    "spread",
    "bootstrap_mean",
    "p_value",
    "seeds",
    "paper",
)


@dataclass(frozen=True)
class Line:
    """A system as a table needs it: its name there, its role (see `systems.ROLES`), and the time of an image."""

    label: str
    role: str
    seconds: float = float("nan")


def tables(
    cells: Sequence[Cell],
    name: str,
    lines: Mapping[str, Line],
    paper: Mapping[str, Mapping[str, float]] | None = None,
    paper_label: str = "paper",
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings and rows of each table of one lesion set; numbers times 100, with the standard deviation.

    The best number of a column among the systems that are not shown the truth is set in **bold**. A system without a
    run has no row. A measure that no system has gets no column.

    Args:
        cells: from `summary.summarise`.
        name: of the lesion set.
        lines: the systems, in the tables' order.
        paper: published numbers, already times 100, by system and measure; given columns of their own.
        paper_label: heading of these.
    """
    found = {(cell.system, cell.measure): cell for cell in cells if cell.set == name}
    there = dict.fromkeys(measure for _, measure in found)
    made = []
    for title, known in SECTIONS.items():
        headings = {measure: heading for measure, heading in known.items() if measure in there}
        if not known:
            headings = {measure: _size_heading(measure) for measure in there if measure.startswith("size.")}
        if headings:
            timed = None if title else ("ms / slice", 1000.0)
            made.append((title, *score_table(found, headings, lines, timed, paper or {}, paper_label)))
    return made


def score_table(
    found: Mapping[tuple[str, str], Cell],
    headings: Mapping[str, str],
    lines: Mapping[str, Line],
    timed: tuple[str, float] | None = None,
    paper: Mapping[str, Mapping[str, float]] | None = None,
    paper_label: str = "paper",
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of one table.

    Args:
        found: cells of the set, by system and measure.
        headings: of the measures, in the table's order.
        lines: the systems, likewise.
        timed: adds the first measure's p and the time, under this heading, in so many units a second.
        paper: see `tables`.
        paper_label: see `tables`.
    """
    paper = paper or {}
    compared = [measure for measure in headings if any(measure in paper.get(system, {}) for system in lines)]
    best = {measure: _best(found, measure, lines) for measure in headings}
    rows = []
    for system, line in lines.items():
        if not any((system, measure) in found for measure in headings):
            continue
        row = [line.label]
        for measure in headings:
            cell = found.get((system, measure))
            text = NOTHING if cell is None or math.isnan(cell.value) else number(cell.value, cell.std)
            bold = cell is not None and cell.value == best[measure] != 0 and line.role not in SHOWN_THE_TRUTH
            row.append(f"**{text}**" if bold else text)
            if measure in compared:
                value = paper.get(system, {}).get(measure)
                row.append(NOTHING if value is None else f"{value:.2f}")
        if timed:
            first = found.get((system, next(iter(headings))))
            row.append(NOTHING if first is None or math.isnan(first.p_value) else p_text(first.p_value))
            row.append(NOTHING if math.isnan(line.seconds) else f"{timed[1] * line.seconds:.1f}")
        rows.append(row)
    top = ["System"]
    for measure, heading in headings.items():
        top += [heading, f"{heading}, {paper_label}"] if measure in compared else [heading]
    return top + (["p", timed[0]] if timed else []), rows


def number(value: float, std: float = float("nan")) -> str:
    """0.7793, 0.012 -> "77.93 ± 1.20"."""
    return f"{100 * value:.2f}" if math.isnan(std) else f"{100 * value:.2f} ± {100 * std:.2f}"


def p_text(value: float) -> str:
    """A p-value as tables print it."""
    return f"{value:.3f}" if value >= 0.0995 else f"{value:.2g}"


def to_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], bar: str = " | ") -> str:
    """A Markdown table, numbers to the right; with the bar "|" its words are those that are read."""
    ruler = [":--", *["--:"] * (len(headings) - 1)]
    return "\n".join(f"{bar.lstrip()}{bar.join(line)}{bar.rstrip()}" for line in [headings, ruler, *rows]) + "\n"


def to_csv(
    cells: Sequence[Cell],
    lines: Mapping[str, Line],
    spread: str,
    paper: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> str:
    """One line a number, as fractions in full precision; the paper's divided by 100 to match.

    Args:
        cells: from `summary.summarise`.
        lines: the systems.
        spread: what `std` is over.
        paper: published numbers times 100, by set, system and measure.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        froc = cell.measure.startswith("froc.")  # its name ends in a number, "all at 0.5"
        kind, _, metric = cell.measure.partition(".") if froc else cell.measure.rpartition(".")
        published = (paper or {}).get(cell.set, {}).get(cell.system, {}).get(cell.measure)
        writer.writerow(
            {
                "set": cell.set,
                "system": lines[cell.system].label,
                "role": lines[cell.system].role,
                "map": kind,
                "metric": metric,
                "mean": _plain(cell.value),
                "std": _plain(cell.std),
                "spread": spread,
                "bootstrap_mean": _plain(cell.bootstrap_mean),
                "p_value": _plain(cell.p_value),
                "seeds": cell.seeds,
                "paper": "" if published is None else _plain(published / 100),
            }
        )
    return text.getvalue()


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console | None = None) -> None:
    """Print a table to the terminal."""
    grid = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if index == 0 else "right", style="dim" if "paper" in heading else None)
    for row in rows:
        grid.add_row(*[f"[bold]{cell[2:-2]}[/bold]" if cell.startswith("**") else cell for cell in row])
    if console is None:
        console = Console()
        console = console if console.is_terminal else Console(width=160)
    console.print(grid)


def _size_heading(measure: str) -> str:
    _, area, metric = measure.split(".")
    return f"{SIZE_HEADINGS[metric]}, {area} px"


def _best(found: Mapping[tuple[str, str], Cell], measure: str, lines: Mapping[str, Line]) -> float | None:
    values = [
        cell.value
        for (system, key), cell in found.items()
        if key == measure and lines[system].role not in SHOWN_THE_TRUTH and not math.isnan(cell.value)
    ]
    if not values:
        return None
    return min(values) if measure in LOWER_IS_BETTER else max(values)


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
