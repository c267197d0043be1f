"""report.html: one self-contained page of a run, with every picture inside and every string escaped.

The page's own parts lie in `page/` (template, style, script). A content security policy lets the browser run that
script and that style only, and fetch nothing. Equal results give an equal page: there is no date in it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..common.files import write_atomically
from ..pipeline.summary import CaseResult
from .view import read_view, view_path

PAGE = Path(__file__).parent / "page"
COLOUR_MAPS = ("inferno", "cividis", "viridis")  # even in lightness; the latter two made for colour-blind readers
# Headings of the columns that need another than their field's name; a new field of `CaseResult` needs no entry.
HEADINGS = {
    "guard_share": "Unlike levels",
    "anomaly_score": "Anomaly score",
    "healthy_below": "Healthy images below",
    "volume_mm3": "Volume (mm³)",
    "warnings": "Notes",
}
SHARES = ("guard_share", "healthy_below")
LONGEST = 12  # entries of a list that is shown
HIDDEN = ("source", "error")  # shown in the viewer, and among the notes


def write_report(
    results: Sequence[CaseResult],
    folder: Path,
    about: Mapping[str, Mapping[str, object]],
) -> Path:
    """Write `report.html` into the output folder.

    Args:
        results: the cases, in the order of the run; their views are read from `<folder>/<case>/<case>_view.json`, one
            at a time.
        folder: the output folder.
        about: tables below the cases, title -> name -> value (settings, versions, checksums); long lists are left
            out.

    Returns:
        Path of the report.
    """
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = (Markup((PAGE / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))  # noqa: S704 - our own files
    names = [field.name for field in fields(CaseResult) if field.name not in HIDDEN]
    stream = environment.get_template("report.html.j2").stream(
        count=len(results),
        failed=sum(result.status != "ok" for result in results),
        columns=[column(name) for name in names],
        rows=rows(results, folder, names),
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

    path = folder / "report.html"
    write_atomically(path, write)
    return path


def rows(results: Sequence[CaseResult], folder: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The table's rows, one after the other: cells, the view, and what the viewer is told."""
    for number, result in enumerate(results, start=1):
        view = read_view(view_path(folder / result.case, result.case)) if result.status == "ok" else None
        data = {
            "case": result.case,
            "source": result.source,
            "note": "; ".join(filter(None, (result.error, result.warnings))),
            "view": None if view is None else {key: value for key, value in view.items() if key != "thumbnail"},
        }
        yield {"number": number, "cells": [cell(name, result) for name in names], "view": view, "data": data}


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
    """256 colours of a matplotlib map as base64 of their RGB bytes; the darkest quarter, which would darken the image
    below, is left out."""
    colours = matplotlib.colormaps[name](np.linspace(0.25, 1.0, 256))[:, :3]
    return base64.b64encode((colours * 255).round().astype(np.uint8).tobytes()).decode("ascii")


def _short(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """A table's entries, those of tables within it one by one; without long lists and matrices."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}: {inner}", one) for inner, one in _short(value))
        elif not _is_list(value) or (len(value) <= LONGEST and not any(map(_is_list, value))):
            yield name, value


def _is_list(value: object) -> TypeGuard[Sequence]:
    return isinstance(value, Sequence) and not isinstance(value, str)
