"""The configuration reference is what the configs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.__main__ import Commands
from scripts.release.configuration import configuration_page
from tests.conftest import BUNDLE


def test_the_page_is_up_to_date() -> None:
    """If not: python -m scripts configuration"""
    page = (BUNDLE / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == configuration_page(BUNDLE / "configs"), "run: python -m scripts configuration"


def test_every_entry_of_every_config_is_in_its_section() -> None:
    page = (BUNDLE / "docs" / "configuration.md").read_text(encoding="utf-8")
    for path in (BUNDLE / "configs").rglob("*.json"):
        if path.name == "metadata.json":
            continue
        name = path.relative_to(BUNDLE / "configs").as_posix()
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        entries = [key for key in json.loads(path.read_text(encoding="utf-8")) if not key.startswith("_")]
        assert all(f"| `{entry}` |" in section for entry in entries if entry != "imports"), name


def test_defaults_and_meanings_stand_beside_their_entries(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    entries = {
        "_desc_": "A config.",
        "a": "x|y",
        "_desc_more_": "About these. b: the first; c, d: both of them.",
        "b": 1,
        "c": None,
        "d": {"_target_": "module.Class"},
    }
    (tmp_path / "one.json").write_text(json.dumps(entries))
    Commands.configuration(str(tmp_path), str(tmp_path / "page.md"))
    page = (tmp_path / "page.md").read_text()
    for line in (
        "A config.", r'| `a` | `"x\|y"` |', "**More.** About these.", "| `b` | `1` | the first |",
        "| `c` | `null` | both of them |", "| `d` | component `module.Class` | both of them |",
    ):  # fmt: skip
        assert f"\n{line}\n" in page
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.md")
