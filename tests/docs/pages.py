"""The project's Markdown pages and what stands in them; no tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import REPOSITORY

PAGES = sorted(
    path
    for folder in (".", "bundle/docs", "scripts", "tests")
    for path in REPOSITORY.joinpath(folder).glob("*.md" if folder == "." else "**/*.md")
    if not any(part.startswith(".") for part in path.relative_to(REPOSITORY).parts)
)
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """One command line of a page."""

    page: str
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)[:80]}"


def name_of(page: Path) -> str:
    """Path within the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[Command]:
    """Every command of the page's shell blocks, with the shell's variables put in and comments taken off."""
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in ("bash", "sh", "shell", "console"):
            continue
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip()
            line = line[2:] if line.startswith("$ ") else line
            assignment = re.fullmatch(r"""(\w+)=("[^"]*"|'[^']*'|\S*)\s*(?:#.*)?""", line)
            if assignment:
                variables[assignment[1]] = _expanded(assignment[2].strip("\"'"), variables)
                continue
            for part in re.split(r"\s&&\s|\s\|\s", _expanded(line, variables)):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables for one command
                    words = words[1:]
                if words:
                    yield Command(name_of(page), words)


def _expanded(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{?([A-Za-z_]\w*)\}?", lambda match: variables.get(match[1], match[0]), text)
