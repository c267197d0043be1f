"""report.html: one self-contained page of a run, with every picture inside and every string escaped.

It bears no date: the same run on the same machine leaves the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import write_atomically
from .summary import CaseResult


def write_report(results: Sequence[CaseResult], folder: Path, about: Mapping[str, Mapping[str, object]]) -> Path:
    """Write `report.html` into the output folder.

    Args:
        results: the cases, in the order of the run; pictures are taken from `<folder>/<case>/<case>.png`.
        folder: the output folder.
        about: tables below the cases, title -> name -> value (settings, versions, checksums).

    Returns:
        Path of the report.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    pictures = {result.case: _data_url(folder / result.case / f"{result.case}.png") for result in results}
    html = environment.get_template("report.html.j2").render(
        results=results,
        pictures=pictures,
        about=about,
        failed=sum(result.status != "ok" for result in results),
    )
    path = folder / "report.html"
    write_atomically(path, lambda partial: partial.write_text(html, encoding="utf-8"))
    return path


def _data_url(picture: Path) -> str:
    if not picture.is_file():
        return ""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
