"""Cases without their names: `--anonymize true`.

Who can guess a name (a hospital number) can compute its plain checksum. With a secret key nobody else can.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MIN_LETTERS = 3  # shorter parts of a path are words of any sentence


def anonymous_name(name: str, key: str = "") -> str:
    """`case-` and 16 hexadecimal digits of the keyed checksum (HMAC-SHA256) of a case's name."""
    digest = hmac.new(key.encode("utf-8"), name.encode("utf-8", "surrogateescape"), hashlib.sha256)
    return f"case-{digest.hexdigest()[:16]}"


def anonymized(cases: Sequence[Mapping[str, Any]], key: str = "") -> list[dict[str, Any]]:
    """Items of `find_cases` under their anonymous names. They are sorted by these, so that the order tells nothing."""
    renamed = [{**item, "case": anonymous_name(item["case"], key)} for item in cases]
    return sorted(renamed, key=lambda item: item["case"])


def without_names(text: str, item: Mapping[str, Any]) -> str:
    """A text without a case's paths: these, and the names of its files and nearest folders, become the case's name.

    Args:
        text: a sentence that may quote paths.
        item: the case, as `anonymized` gives it.
    """
    paths = [Path(item["image"]), *map(Path, item.get("files", ()))]
    parts = {str(path) for path in paths}
    for path in paths:
        for name in (path.name, path.parent.name, path.parent.parent.name):
            parts |= {part for part in (name, name.partition(".")[0]) if len(part) >= MIN_LETTERS}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, item["case"])
    return text
