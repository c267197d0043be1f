"""The version of `scripts/__init__.py` is everybody's version."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import scripts
from tests.conftest import BUNDLE, REPOSITORY

tomllib = pytest.importorskip("tomllib")  # since Python 3.11
CONFIGS = BUNDLE / "configs"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


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
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"] == {"path": "scripts/__init__.py"}


def test_the_wheels_ranges_hold_the_demos_exact_versions() -> None:
    """requirements.txt pins what pyproject.toml allows: the same packages with the same extras."""
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {pin.name: pin for line in lines if line and line[0] != "#" for pin in [Requirement(line)]}
    ranges = {one.name: one for text in PROJECT["project"]["dependencies"] for one in [Requirement(text)]}
    assert pins.keys() == ranges.keys()
    for name, pin in pins.items():
        (version,) = (one.version for one in pin.specifier)
        assert ranges[name].specifier.contains(version), f"{name} {version}"
        assert ranges[name].extras == pin.extras
