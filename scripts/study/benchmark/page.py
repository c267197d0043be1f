"""The page of a benchmark, from its JSON: `performance.md.j2` filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

COHORT = 100_000  # volumes


def _number(value: float | None, digits: int = 3) -> str:
    """Significant digits, no exponent below a million; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _milliseconds(seconds: dict[str, float]) -> str:
    """Median, and quartiles in brackets."""
    values = (_number(1000 * seconds[name]) for name in ("median", "low", "high"))
    return "{} ({} to {})".format(*values)


def _reached(row: dict[str, Any]) -> str:
    """What a target's row comes to."""
    if row["value"] is None:
        return "not measured"
    good = row["value"] >= row["target"] if row["comparison"] == ">=" else row["value"] <= row["target"]
    return "reached" if good else "**not reached**"


def render(result: dict[str, Any]) -> str:
    """The page as Markdown.

    Args:
        result: what `run.benchmark` wrote as performance.json; parts may be missing.
    """
    # Markdown, not HTML: nothing to escape.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=_number, ms=_milliseconds, reached=_reached)
    return environment.get_template("performance.md.j2").render(result=result, cohort=COHORT, **result)


def write_page(source: str | Path, path: str | Path) -> Path:
    """Render a performance.json anew."""
    result = json.loads(Path(source).read_text(encoding="utf-8"))
    target = Path(path)
    target.write_text(render(result), encoding="utf-8")
    return target
