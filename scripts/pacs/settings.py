"""The watcher's settings: configs/pacs.json with the changes of the command line, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..common.errors import PhanesInputError
from ..common.options import as_bool


@dataclass(frozen=True)
class Settings:
    """The entries of `configs/pacs.json`, which explains them."""

    pacs: str
    store: str
    ae_title: str
    timeout_s: float
    work_dir: str
    days: int
    modality: str
    interval_s: float
    settle_s: float
    attempts: int
    backoff_s: float
    backoff_max_s: float
    batch: int
    keep_files: bool
    anonymize: bool
    anonymize_key: str
    headers: Mapping[str, str] = field(default_factory=dict)
    study_query: Mapping[str, str] = field(default_factory=dict)
    inference: Mapping[str, Any] = field(default_factory=dict)

    def pause(self, failures: int) -> float:
        """Seconds to wait after this many failures (>= 1) in a row."""
        return float(min(self.backoff_s * 2.0 ** min(failures - 1, 60), self.backoff_max_s))


LEAST = {"timeout_s": 0.1, "interval_s": 0.1, "settle_s": 0, "backoff_s": 0, "backoff_max_s": 0}
LEAST_WHOLE = {"days": 0, "attempts": 1, "batch": 1}


def read_settings(path: str | Path, changes: Mapping[str, Any]) -> Settings:
    """Settings of a config file.

    Args:
        path: JSON like `configs/pacs.json`, with all of its entries.
        changes: option -> value. None leaves the file's value; `inference` adds to the file's.

    Raises:
        PhanesInputError: the file cannot be read, or an entry is missing, unknown or out of range.
    """
    try:
        entries = {
            name: value
            for name, value in json.loads(Path(path).read_text(encoding="utf-8")).items()
            if not name.startswith("_")
        }
    except (OSError, ValueError, AttributeError) as error:
        raise PhanesInputError(f"config '{path}' cannot be read ({error}): give a file like pacs.json.") from error
    names = {one.name for one in fields(Settings)}
    for what, odd in (("lacks", names - entries.keys()), ("has the unknown entry", entries.keys() - names)):
        if odd:
            raise PhanesInputError(f"config '{path}' {what} '{min(odd)}': compare it with the bundle's pacs.json.")
    for name in ("headers", "study_query", "inference"):
        for given in (entries[name], changes.get(name) or {}):
            if not isinstance(given, Mapping):
                raise PhanesInputError(f"{name} is {given!r}: give names and values, {{'name': 'value'}}.")
    given = {name: value for name, value in changes.items() if value is not None}
    given["inference"] = {**entries["inference"], **given.get("inference", {})}
    entries |= given
    for name, least in LEAST.items():
        entries[name] = _number(name, entries[name], least)
    for name, least in LEAST_WHOLE.items():
        entries[name] = _whole(name, entries[name], least)
    for name in ("keep_files", "anonymize"):
        entries[name] = as_bool(name, entries[name])
    for name in ("pacs", "store", "ae_title", "work_dir", "modality", "anonymize_key"):
        entries[name] = str(entries[name])
    if not 1 <= len(entries["ae_title"].strip()) <= 16:
        raise PhanesInputError(f"ae_title is '{entries['ae_title']}': give 1 to 16 letters.")
    return Settings(**entries)


def _number(name: str, value: Any, least: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not least <= number < math.inf:
        raise PhanesInputError(f"{name} is {value!r}: give a number >= {least}.")
    return number


def _whole(name: str, value: Any, least: int) -> int:
    number = _number(name, value, least)
    if number != int(number):
        raise PhanesInputError(f"{name} is {value!r}: give a whole number.")
    return int(number)
