"""Where the long tests write what they found: one JSON file that the documentation quotes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "bundle" / "docs" / "soak.json"


def recorded(part: str, path: Path = RESULTS) -> dict[str, Any]:
    """An earlier result of a part, empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")).get(part, {}) if path.is_file() else {}


def record(part: str, result: dict[str, Any], path: Path = RESULTS) -> None:
    """Put the result of one part in place of its earlier one, and print it."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[part] = result
    path.write_text(json.dumps(known, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{part}: {json.dumps(result)}")
