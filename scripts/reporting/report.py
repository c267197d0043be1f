"""The pages of a run: one a case, and report.html over all of them. A page needs no other file. Strings are escaped.

Up to `TOGETHER` cases are shown in report.html itself. With more, it is an index that leads to the cases' own pages.
Template, style and scripts lie in `page/`. A content security policy lets the browser run this script and this style
only, and fetch nothing. Equal results give an equal page, because it holds no date.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..common.files import write_atomically
from ..pipeline.summary import CaseResult

PAGE = Path(__file__).parent / "page"
TOGETHER = 5  # cases that report.html shows itself
NO_ICON = "data:,"  # so that no browser asks for one
COLOUR_MAPS = ("inferno", "cividis", "viridis")  # even in lightness; the latter two made for colour-blind readers
# Headings of the columns that need another than their field's name; a new field of `CaseResult` needs no entry.
HEADINGS = {"volume_mm3": "Volume (mm³)", "warnings": "Notes"}
SHARES = ("contrast", "healthy_below")
LONGEST = 12  # entries of a list that is shown
SHOWN = tuple(field.name for field in fields(CaseResult) if field.name not in ("source", "error"))  # those are told
# in the viewer, and among the notes


def page_path(folder: Path, case: str) -> Path:
    """Where the page of a case lies: beside its results in `folder`."""
    return folder / f"{case}.html"


def write_case_page(
    result: CaseResult, view: Mapping[str, Any], folder: Path, about: Mapping[str, Mapping[str, object]]
) -> None:
    """Write a case's own page into the case's folder.

    Args:
        result: its row of the summary.
        view: `view.case_view`.
        folder: of the case.
        about: as in `write_report`.
    """
    row = _row(1, result, view["thumbnail"], view, "#case-1")
    _write(page_path(folder, result.case), [result], [row], about, result.case, view["thumbnail"], "../report.html")


def write_report(
    results: Sequence[CaseResult],
    folder: Path,
    about: Mapping[str, Mapping[str, object]],
) -> Path:
    """Write `report.html` into the output folder.

    Args:
        results: the cases, in the order of the run. Their pages are read from `<folder>/<case>/`, one at a time.
        folder: the output folder.
        about: tables below the cases, title -> name -> value (settings, versions, checksums). Long lists are left
            out.

    Returns:
        Path of the report.
    """
    together = len(results) <= TOGETHER
    _write(folder / "report.html", results, _rows(results, folder, together), about, "", NO_ICON, "", viewer=together)
    return folder / "report.html"


def _rows(results: Sequence[CaseResult], folder: Path, together: bool) -> Iterator[dict[str, Any]]:
    for number, result in enumerate(results, start=1):
        page = page_path(folder / result.case, result.case)
        found = result.status == "ok" and page.is_file()
        view = read_view(page) if found and together else None
        link = f"#case-{number}" if together else f"{quote(result.case)}/{quote(page.name)}" if found else ""
        yield _row(number, result, read_thumbnail(page) if found else "", view, link)


def _row(number: int, result: CaseResult, thumbnail: str, view: Mapping[str, Any] | None, link: str) -> dict[str, Any]:
    """A row of the table: cells, picture, link, and what the viewer is told."""
    data = {
        "case": result.case,
        "source": result.source,
        "note": "; ".join(filter(None, (result.error, result.warnings))),
        "view": None if view is None else {key: value for key, value in view.items() if key != "thumbnail"},
    }
    cells = [cell(name, result) for name in SHOWN]
    return {"number": number, "cells": cells, "thumbnail": thumbnail, "link": link, "data": data}


def _write(
    path: Path,
    results: Sequence[CaseResult],
    rows: Iterable[Mapping[str, Any]],
    about: Mapping[str, Mapping[str, object]],
    case: str,
    icon: str,
    home: str,
    viewer: bool = True,
) -> None:
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((PAGE / "report.css").read_text(encoding="utf-8"))  # noqa: S704 - our own files
    script = Markup(_script(viewer))  # noqa: S704
    stream = environment.get_template("report.html.j2").stream(
        title=f"{case} - PHANES" if case else "PHANES report",
        icon=icon,
        home=home,
        viewer=viewer,
        count=len(results),
        failed=sum(result.status != "ok" for result in results),
        columns=[column(name) for name in SHOWN],
        rows=rows,
        about={title: dict(_short(table)) for title, table in about.items()},
        colour_maps=COLOUR_MAPS,
        shared={"colour_maps": {name: colour_table(name) for name in COLOUR_MAPS}},
        style=style,
        script=script,
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
    )

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(stream)

    write_atomically(path, write)


def _script(viewer: bool) -> str:
    """The page's scripts as one. Their names stay apart from others."""
    names = ("viewer.js", "healthy.js", "report.js") if viewer else ("report.js",)
    parts = [(PAGE / name).read_text(encoding="utf-8") for name in names]
    return "\n".join(['"use strict";', "(() => {", "const at = (id) => document.getElementById(id);", *parts, "})();"])


def read_view(page: Path) -> dict[str, Any] | None:
    """The view in a case's page, without its thumbnail."""
    line = _line(page, '<tr id="case-1" data-case=\'')
    return json.loads(line[: line.rindex("'>")])["view"] if line else None


def read_thumbnail(page: Path) -> str:
    """The small picture of a case. Its page has it as icon."""
    return _line(page, '<link rel="icon" href="').removesuffix('">')


def _line(page: Path, start: str) -> str:
    """The rest of the first line that begins with `start`; "" when there is none. Nothing after it is read."""
    with page.open(encoding="utf-8") as file:
        return next((line.strip().removeprefix(start) for line in file if line.startswith(start)), "")


def column(name: str) -> dict[str, Any]:
    """Heading and alignment of a column."""
    return {
        "title": HEADINGS.get(name, name.replace("_", " ").capitalize()),
        "numeric": name in (*SHARES, "anomaly_score", "findings", "volume_mm3"),
    }


def cell(name: str, result: CaseResult) -> dict[str, Any]:
    """Text, style and (for numbers) the value that sorts."""
    value = getattr(result, name)
    if name in SHARES and value is not None:
        return {"text": f"{100 * value:.0f} %", "value": value, "style": "number"}
    if isinstance(value, (int, float)):
        text = f"{value:.0f}" if name in ("findings", "volume_mm3") else f"{value:.4g}"
        return {"text": text, "value": value, "style": "number"}
    if name == "warnings" and result.error:
        return {"text": result.error, "value": None, "style": "error"}
    style = {"warnings": "warning", "status": "" if result.status == "ok" else "error"}.get(name, "")
    return {"text": "" if value is None else str(value), "value": None, "style": style}


def policy_hash(text: str) -> str:
    """The source expression by which a content security policy allows exactly this inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def colour_table(name: str) -> str:
    """256 colours of a matplotlib map as base64 of their RGB bytes.

    The darkest quarter is left out: it would darken the image below."""
    colours = matplotlib.colormaps[name](np.linspace(0.25, 1.0, 256))[:, :3]
    return base64.b64encode((colours * 255).round().astype(np.uint8).tobytes()).decode("ascii")


IN_WORDS = {  # entries of the calibration's record
    "label_threshold": "findings lie above",
    "peak_share": "a finding ends at this share of its peak",
    "smallest": "smallest finding, mm3 (single slices: mm2)",
    "brain_share": "share of a healthy brain that is marked",
    "brain_share_interval_95": "its 95 % interval",
    "findings": "findings in a healthy image",
    "findings_interval_95": "their 95 % interval",
}


def _short(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """A table's entries, those of inner tables one by one, in words. Long lists and matrices are left out."""
    for key, value in table.items():
        name = IN_WORDS.get(key, key.replace("_", " "))
        if isinstance(value, Mapping):
            yield from ((f"{name}: {inner}", one) for inner, one in _short(value))
        elif not _is_list(value) or (len(value) <= LONGEST and not any(map(_is_list, value))):
            yield name, ", ".join(map(_told, value)) if _is_list(value) else _told(value)


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_list(value: object) -> TypeGuard[Sequence]:
    return isinstance(value, Sequence) and not isinstance(value, str)
