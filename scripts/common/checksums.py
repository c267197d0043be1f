"""`SHA256SUMS` in the format of coreutils' sha256sum: written for a folder, and compared with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .errors import PhanesInputError
from .files import sha256_of_file

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def is_passing(path: PurePosixPath | Path) -> bool:
    """Whether a file comes and goes by itself: byte code, hidden, a backup. The path is relative to the folder."""
    return "__pycache__" in path.parts or path.name.endswith("~") or any(part.startswith(".") for part in path.parts)


def write_checksums(folder: str | Path, files: Iterable[str] | None = None) -> Path:
    """Write `SHA256SUMS` into a folder, sorted by path.

    Args:
        folder: where the file goes; `sha256sum --check SHA256SUMS` works in it.
        files: paths relative to the folder; default: all files below it but the passing ones (`is_passing`).

    Returns:
        The path of the file written.
    """
    root = Path(folder)
    if files is None:
        files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        files = (name for name in files if name != NAME and not is_passing(PurePosixPath(name)))
    target = root / NAME
    target.write_text("".join(f"{sha256_of_file(root / name)}  {name}\n" for name in sorted(files)), encoding="utf-8")
    return target


def read_checksums(folder: str | Path) -> dict[str, str]:
    """Relative path -> hexadecimal SHA-256, as `SHA256SUMS` of the folder says.

    Raises:
        PhanesInputError: there is no such file, it is malformed, or it names a file outside the folder.
    """
    path = Path(folder) / NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PhanesInputError(f"'{path}' cannot be read: unpack the bundle again, whole.") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else None
        if match is None or name is None or name.is_absolute() or ".." in name.parts:
            raise PhanesInputError(
                f"'{path}' is damaged at line {number}: get the bundle again from where it came from."
            )
        sums[str(name)] = match[1]
    return sums


def find_differences(folder: str | Path, within: Iterable[str] = ()) -> list[str]:
    """Compare a folder with its `SHA256SUMS`.

    Args:
        folder: of a package.
        within: names of sub-folders (such as `scripts`) in which files that are not listed count, too.

    Returns:
        Sorted sentences such as `models/model.pt: changed`, `docs/README.md: missing`, `scripts/x.py: not listed`.
        Empty where all is well.

    Raises:
        PhanesInputError: see `read_checksums`.
    """
    root, found = Path(folder), []
    sums = read_checksums(root)
    for name, expected in sums.items():
        path = root / name
        if not path.is_file():
            found.append(f"{name}: missing")
        elif sha256_of_file(path) != expected:
            found.append(f"{name}: changed")
    for part in within:
        for path in (root / part).rglob("*"):
            name = path.relative_to(root).as_posix()
            if path.is_file() and name not in sums and not is_passing(PurePosixPath(name)):
                found.append(f"{name}: not listed")
    return sorted(found)


def verify_checksums(folder: str | Path, within: Iterable[str] = ()) -> int:
    """Refuse a folder that differs from its `SHA256SUMS`. The arguments are those of `find_differences`.

    Returns:
        The number of files checked.

    Raises:
        PhanesInputError: files differ; it names the first five.
    """
    differences = find_differences(folder, within)
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise PhanesInputError(
            f"The bundle in '{folder}' is not as it was packaged ({', '.join(differences[:5])}{more}): "
            "get it again from where it came from, or leave out the verification if the changes are yours."
        )
    return len(read_checksums(folder))
