"""Files that are written whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object], shared: bool = False) -> None:
    """Let `write` make a temporary file beside `path`, then rename it. An old file stays until then.

    Args:
        path: the file. Its folder is made.
        write: gets the temporary file's path.
        shared: several processes may write this file at once; the last one counts. A killed one leaves its temporary
            file behind, which the next run would otherwise write over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial" if shared else f".{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sha256_of_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
