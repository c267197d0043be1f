"""The files behind a case: their checksum, and whether they change while they are read."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def source_files(path: str | Path) -> list[Path]:
    """The files that a case is read from: the file itself, or all files directly in its folder, in sorted order."""
    path = Path(path)
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def signature(path: str | Path) -> str:
    """Name, size, time of change and identity of a case's files: differs once one is written, replaced or removed.

    An input that cannot be looked at has the empty signature; reading it will say why.
    """
    try:
        stats = [(file.name, file.stat()) for file in source_files(path)]
    except OSError:
        return ""
    return repr([(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats])


def source_checksum(path: str | Path) -> str:
    """SHA-256 over names and contents of a case's files; where their folder lies does not count.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in source_files(path):
        digest.update(f"{file.name}\0{sha256_of_file(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def changed_while_read(path: str | Path) -> str:
    """The sentence for an input whose signature is not what it was."""
    return f"'{path}' changed while it was read: run the same command again when it is complete."
