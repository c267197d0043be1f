"""The version of `scripts/__init__.py` is everybody's version."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tomllib

import scripts
from tests.conftest import BUNDLE, REPOSITORY

CONFIGS = BUNDLE / "configs"


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("metadata.json")), ids=lambda p: p.relative_to(CONFIGS).as_posix()
)
def test_metadata_bears_the_version_and_says_what_is_new(path: Path) -> None:
    metadata = json.loads(path.read_text(encoding="utf-8"))
    assert metadata["version"] == scripts.__version__
    assert metadata["changelog"][scripts.__version__]


def test_changelog_begins_with_the_version() -> None:
    versions = re.findall(r"^## \[([^]]+)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == scripts.__version__


def test_the_model_card_is_of_this_version() -> None:
    assert f"Version {scripts.__version__}," in (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")


def test_the_python_project_reads_the_version_from_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "scripts.__version__"}
