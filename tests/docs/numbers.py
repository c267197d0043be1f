"""Numbers in README and docs that come from a file. `python -m tests.docs.numbers` rewrites
them, and a test compares them with the file.

A page marks such a text with comments, which no reader sees:

    <!-- from: ../models/calibration.json#mask_threshold | .4f -->0.2457<!-- /from -->

`FILE#A/B/0` is a value of a JSON file. FILE is a path from the page's folder; A, B and 0 are keys and list indices.
After the bar may come a factor (`*100`) and a format for Python's `format`. Whole tables:

    <!-- from: synthetic/record.json#ellipses | table -->     of one lesion set, from an evaluation's record
    <!-- from: synthetic/record.json | auprc -->              AUPRC of every system in every lesion set, from the same
    <!-- from: synthetic/table.md#ellipses -->                 what stands below that heading of a Markdown file
    <!-- from: synthetic/table.md -->                          a whole Markdown file
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.common.errors import PhanesInputError
from scripts.study.evaluation.statistics import spread_over_seeds
from scripts.study.evaluation.summary import measures_of
from scripts.study.evaluation.tables import SECTIONS, number, to_markdown

MARK = re.compile(r"(<!-- from: ([^\s#|]+)(?:#([^|]*?))?(?: *\| *([^|]*?))? -->)(.*?)(<!-- /from -->)", flags=re.DOTALL)
PAGES = ("README.md", "CHANGELOG.md", "bundle/docs/*.md")


def pages(repository: str | Path) -> list[Path]:
    """README and docs."""
    return sorted(path for pattern in PAGES for path in Path(repository).glob(pattern))


def refreshed(text: str, folder: str | Path) -> str:
    """Return a page with every marked text made anew from its file; the marks' paths start at `folder`.

    Raises:
        PhanesInputError: a mark names a file, key or format that does not exist; the sentence names the mark.
    """

    def replaced(match: re.Match[str]) -> str:
        start, file, pointer, form, _, end = match.groups()
        try:
            made = value_of(Path(folder) / file, (pointer or "").strip(), form or "")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise PhanesInputError(f"The mark '{start}' cannot be filled in ({error}): mend it or its file.") from error
        return start + made + end

    return MARK.sub(replaced, text)


def value_of(path: Path, pointer: str, form: str = "") -> str:
    """The text for a mark: a number in a format, a table, or a part of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return f"\n{section(text, pointer).strip()}\n"
    value = json.loads(text)
    if form == "table":
        return f"\n{record_table(value, pointer)}"
    if form == "auprc":
        return f"\n{auprc_table(value)}"
    for key in filter(None, pointer.split("/")):
        value = value[int(key)] if isinstance(value, list) else value[key]
    factor, _, spec = form.strip().rpartition(" ") if " " in form.strip() else ("", "", form.strip())
    if spec.startswith("*"):
        factor, spec = spec, ""
    if factor:
        value = value * float(factor.lstrip("*"))
    if isinstance(value, (dict, list)):
        raise ValueError(f"'{pointer}' is no single value")  # noqa: TRY004 - of the file, not of our arguments
    return format(value, spec)


def section(text: str, heading: str) -> str:
    """The part of a Markdown text from a heading to the next one of its level; without a heading, the whole text."""
    if not heading:
        return text
    found = re.search(rf"^(#+) +{re.escape(heading)} *\n(.*?)(?=^\1 |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if not found:
        raise LookupError(f"no heading '{heading}'")
    return found[2]


def record_table(record: dict[str, Any], name: str) -> str:
    """The main table of one lesion set from an evaluation's `record.json`, as Markdown: times 100, mean over seeds."""
    measures: dict[str, dict[str, list[float]]] = {}
    for result in (one for one in record["results"] if one["set"] == name):
        found = measures_of(result)
        for measure, heading in SECTIONS[""].items():
            if found.get(measure) is not None:
                measures.setdefault(heading, {}).setdefault(result["system"], []).append(found[measure])
    if not measures:
        raise LookupError(f"no results for the set '{name}'")
    measures = {heading: measures[heading] for heading in SECTIONS[""].values() if heading in measures}
    systems = dict.fromkeys(system for cells in measures.values() for system in cells)
    rows = []
    for system in systems:
        spreads = [spread_over_seeds(cells[system]) if system in cells else None for cells in measures.values()]
        texts = ["-" if one is None or math.isnan(one.mean) else number(one.mean, one.std) for one in spreads]
        rows.append([record["systems"][system]["name"], *texts])
    return to_markdown(["System", *measures], rows)


def auprc_table(record: dict[str, Any]) -> str:
    """AUPRC of all systems but the controls in all sets of a `record.json`, as Markdown: times 100, the seeds' mean."""
    sets = list(dict.fromkeys(result["set"] for result in record["results"]))
    scores: dict[str, dict[str, list[float]]] = {}
    for result in record["results"]:
        auprc = measures_of(result)["own.auprc"]
        scores.setdefault(result["system"], {}).setdefault(result["set"], []).append(auprc)
    rows = [
        [record["systems"][system]["name"], *(number(spread_over_seeds(found[name]).mean) for name in sets)]
        for system, found in scores.items()
        if record["systems"][system]["role"] != "sanity"
    ]
    return to_markdown(["System", *(name.replace("_", " ") for name in sets)], rows)


def differences(repository: str | Path, only: Iterable[Path] | None = None) -> list[str]:
    """One line for each marked text that differs from its file: page, mark, the text there, the text of the file."""
    found = []
    for page in only or pages(repository):
        text = page.read_text(encoding="utf-8")
        new = refreshed(text, page.parent)
        for old, made in zip(MARK.finditer(text), MARK.finditer(new), strict=True):
            if old[0] != made[0]:
                found.append(f"{page.name}: {old[1]} stands as '{old[5].strip()}', is '{made[5].strip()}'")
    return found


def renew(repository: str | Path = ".") -> list[str]:
    """Rewrite the numbers and tables of README and docs that are marked as coming from a file.

    Args:
        repository: the folder of README.md.

    Returns:
        What was changed, as `differences` says it.
    """
    found = differences(repository)
    for page in pages(repository):
        text = page.read_text(encoding="utf-8")
        if (new := refreshed(text, page.parent)) != text:
            page.write_text(new, encoding="utf-8")
    return found


if __name__ == "__main__":
    print("\n".join(renew()) or "All numbers are what their files say.")
