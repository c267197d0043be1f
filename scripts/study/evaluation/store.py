"""Results on disk: one JSON and one NPZ for each (set, seed, system), under the checksum of all they depend on."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ...common.files import write_atomically
from ...common.fingerprint import code_checksum
from .scoring import Result

PACKAGE = Path(__file__).parents[2]


@lru_cache(maxsize=1)
def code_of_systems() -> str:
    """Checksum of the code that makes maps: a stored score of another code is not used again."""
    return code_checksum(PACKAGE, ("method", "space", "study/baselines"))


class ResultStore:
    """A folder of results. A result is found again only under the key it was stored with.

    So a stopped evaluation resumes where it was. One whose weights, data, settings or code changed is done again.

    Args:
        folder: made when the first result is stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, name: str, seed: int | None, system: str) -> Path:
        """Where a result lies, without suffix."""
        parts = [name if seed is None else f"{name}-{seed:03d}", system]
        return self.folder.joinpath(*(file_stem(part) for part in parts))

    def load(self, path: Path, key: str) -> Result | None:
        """The result stored there under this key, or None."""
        try:
            record = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
            if record.get("key") != key:
                return None
            with np.load(path.with_name(path.name + ".npz"), allow_pickle=False) as stored:
                return Result(record, dict(stored))
        except (OSError, ValueError, EOFError, BadZipFile):
            return None  # not there, or cut off by a full disk: done again

    def save(self, path: Path, key: str, result: Result) -> Result:
        """Store a result. The JSON holds the key, and appears last and whole. Two evaluations may share a folder."""

        def compress(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez_compressed(file, **result.arrays)  # type: ignore[arg-type]

        write_atomically(path.with_name(path.name + ".npz"), compress, shared=True)
        record = {"key": key, **result.record}
        write_text(path.with_name(path.name + ".json"), json.dumps(record, indent=1))
        return Result(record, result.arrays)


def file_stem(name: str) -> str:
    """A name of a set or system as part of a file's name: `ellipses, gamma 0.8` -> `ellipses_gamma_0.8`."""
    return re.sub(r"[^\w.+-]+", "_", name)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"), shared=True)


def to_plain(value: Any) -> Any:
    """Values JSON can hold: NaN and infinity become None, numpy scalars plain ones."""
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
