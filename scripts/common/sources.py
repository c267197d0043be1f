"""The files of a case: their checksum, and whether they change while they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import sha256_of_file


def source_files(item: Mapping[str, Any]) -> list[Path]:
    """The files that an item of `find_cases` is read from, in sorted order.

    These are its `files`, if it lists them. Otherwise they are its `image`, or all files directly in that folder.
    """
    if item.get("files"):
        return sorted(map(Path, item["files"]))
    path = Path(item["image"])
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def signature(item: Mapping[str, Any]) -> str:
    """Name, size, time of change and identity of a case's files. It changes when one is written, replaced or removed.

    An input that cannot be looked at has the empty signature. Reading it says why.
    """
    try:
        stats = [(file.name, file.stat()) for file in source_files(item)]
    except OSError:
        return ""
    return repr([(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats])


def source_checksum(item: Mapping[str, Any]) -> str:
    """SHA-256 over names and contents of a case's files. The place of their folder does not count.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in source_files(item):
        digest.update(f"{file.name}\0{sha256_of_file(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def changed_while_read(path: str | Path) -> str:
    """The sentence for an input whose signature has changed."""
    return f"'{path}' changed while it was read: run the same command again when it is complete."
