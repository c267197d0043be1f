"""Names that come from a user's files: safe as folder names, in a spreadsheet and on a terminal."""

from __future__ import annotations

import hashlib
import sys
import unicodedata

# Room for `_pseudo_healthy.nii.gz` and the like within the 255 bytes of a file name.
MAX_BYTES = 180
# Taken by the files of a run; a case called so would stand in their way.
RESERVED = frozenset({"summary.csv", "report.html", "series.csv"})
FORMULA = ("=", "+", "-", "@")  # a spreadsheet would execute a cell that begins so


def case_name(text: str) -> str:
    """A file's stem as a case's name. It stays as it is unless it would do harm.

    Bytes that are no text, control characters and separators become `_`. A `_` comes before what a spreadsheet takes
    for a formula, and before the names of a run's own files. Beyond 180 bytes a checksum replaces the rest.
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    name = "".join(c if c.isprintable() and c not in "/\\\N{REPLACEMENT CHARACTER}" else "_" for c in text).strip()
    # Where paths are ASCII (LC_ALL=C with PYTHONUTF8=0) a folder can have no other name.
    name = name.encode(sys.getfilesystemencoding(), "replace").decode(sys.getfilesystemencoding()).replace("?", "_")
    if not name or name.startswith((*FORMULA, ".")) or name.casefold() in RESERVED:
        name = f"_{name}"
    encoded = name.encode("utf-8")
    if len(encoded) > MAX_BYTES:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = encoded[: MAX_BYTES - 9].decode("utf-8", "ignore") + f"~{digest}"
    return name


def one_line(text: str) -> str:
    """Text on one line, for a cell, a log or a terminal. What is no text, or invisible, is written as an escape."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return f"./{text}" if text.startswith(FORMULA) else text
