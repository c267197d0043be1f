"""A zip whose bytes depend on the files' names and contents only."""

from __future__ import annotations

import zipfile
from pathlib import Path

# The earliest time a zip can hold; reproducible builds conventionally use it.
EPOCH = (1980, 1, 1, 0, 0, 0)


def write_zip(folder: str | Path, target: str | Path) -> Path:
    """Write a folder as a zip with the folder's name on top. The entries are sorted, with one time stamp and mode 0644.

    Nothing is compressed: versions of zlib differ in their output, and weights hardly shrink.

    Args:
        folder: all its files go in.
        target: the zip to write.
    """
    root = Path(folder)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(f"{root.name}/{path.relative_to(root).as_posix()}", EPOCH)
            info.create_system = 3  # Unix, also when written elsewhere
            info.external_attr = 0o100644 << 16
            archive.writestr(info, path.read_bytes())
    return Path(target)
