"""The configuration reference of the docs, generated from the configs themselves: `python -m scripts configuration`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# The order of a reader: what is used first comes first. Files that are not named here follow by name.
FIRST = (
    "inference",
    "train",
    "train_inpainter",
    "calibrate",
    "evaluate_synthetic",
    "evaluate_lesions",
    "evaluate_shifts",
)
INTRODUCTION = """# Configuration

*Generated from `bundle/configs/` by `python -m scripts configuration`; do not edit.*

Every entry of a config can be overridden on the command line: `--name value` for the entries below, and with `::`
between the levels of a nested one, `--inferer::sw_batch_size 4`. Values are Python literals where they can be read as
such: `--slices "[90,95]"`, `--label_threshold None`, `--save_coarse False`. A misspelt name is refused with a
suggestion.

An overlay changes some entries of another config and is given after it:
`--config_file "['bundle/configs/train.json','bundle/configs/calibrate.json']"`. In the tables, `@name` stands for the
value of another entry, `$...` for a Python expression, and *component* for an object that MONAI builds from a nested
entry; the config shows its arguments.
"""


def write_configuration(configs: str = "bundle/configs", out: str = "bundle/docs/configuration.md") -> None:
    """Write the configuration reference of the docs: every entry of every config with its default.

    Args:
        configs: folder of the configs.
        out: the Markdown file to write.
    """
    Path(out).write_text(configuration_page(Path(configs)), encoding="utf-8")
    print(out)


def configuration_page(configs: Path) -> str:
    """Markdown of all configs in a folder and in its `baselines/`."""
    files = [path for path in sorted(configs.glob("*.json")) if path.name != "metadata.json"]
    files.sort(key=lambda path: FIRST.index(path.stem) if path.stem in FIRST else len(FIRST))
    files += [path for path in sorted((configs / "baselines").glob("*.json")) if path.name != "metadata.json"]
    contents = [f"- [{_name(path, configs)}](#{_anchor(_name(path, configs))})" for path in files]
    pages = [_config(_name(path, configs), json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return "\n".join([INTRODUCTION, *contents, "", *pages])


def _config(name: str, entries: Mapping[str, Any]) -> str:
    """One config: its description, then its sections."""
    lines = [f"## {name}", "", _escaped(str(entries.get("_desc_", ""))), ""]
    for title, text, rows in _sections(entries):
        text, meanings = _meanings(text, rows)
        if title:
            lines += [f"**{title}.** {_escaped(text)}".rstrip(), ""]
        if rows:
            head = ["entry", "default", "meaning"][: 3 if meanings else 2]
            lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            for key, value in rows.items():
                cells = [f"`{key}`", _default(value), meanings.get(key, "")][: len(head)]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


def _meanings(text: str, rows: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """What a description says of single entries, by its form `name: meaning. other, names: meaning.`

    Returns:
        The text before the first of them, and the meaning of each entry.
    """
    names = "|".join(map(re.escape, sorted(rows, key=len, reverse=True)))
    starts = list(re.finditer(rf"(?:^|(?<=[.;] ))(?:{names})(?:, (?:{names}))*: ", text)) if rows else []
    meanings: dict[str, str] = {}
    for n, start in enumerate(starts):
        end = starts[n + 1].start() if n + 1 < len(starts) else len(text)
        meaning = text[start.end() : end].strip().rstrip(".;")
        meanings |= dict.fromkeys(start.group()[:-2].split(", "), _escaped(meaning))
    return (text[: starts[0].start()] if starts else text).strip(), meanings


def _sections(entries: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Runs of entries between two `_desc_NAME_`: name, description, entries; those before the first have no name."""
    title, text = "", ""
    rows: dict[str, Any] = {}
    for key, value in entries.items():
        if key.startswith("_desc_") and key != "_desc_":
            yield title, text, rows
            title, text, rows = key[6:-1].replace("_", " ").capitalize(), str(value), {}
        elif not key.startswith("_") and key != "imports":
            rows[key] = value
    yield title, text, rows


def _escaped(text: str) -> str:
    """Plain text for a table's cell or a paragraph: nothing in it is Markdown."""
    return re.sub(r"([|*_<])", r"\\\1", text)


def _default(value: Any) -> str:
    """A value as one cell of a table."""
    if isinstance(value, Mapping) and "_target_" in value:
        return f"component `{value['_target_']}`"
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value)):
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")


def _name(path: Path, configs: Path) -> str:
    return path.relative_to(configs).as_posix()


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")
