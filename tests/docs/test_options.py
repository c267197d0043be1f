"""What a user can override stays few: values that are the same everywhere are constants beside their formulas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import BUNDLE


def is_literal(value: Any) -> bool:
    """A number, a word, or a list or dictionary of such; no expression, no reference, no component."""
    if isinstance(value, dict):
        return "_target_" not in value and all(is_literal(v) for name, v in value.items() if name[0] != "_")
    if isinstance(value, list):
        return all(is_literal(v) for v in value)
    return not (isinstance(value, str) and value.startswith(("$", "@")))


def literals(name: str) -> list[str]:
    """Entries of a config that hold a literal."""
    config = json.loads((BUNDLE / "configs" / name).read_text(encoding="utf-8"))
    return [key for key, value in config.items() if key[0] != "_" and key != "imports" and is_literal(value)]


def test_inference_and_training_have_at_most_fifty_literals_together() -> None:
    counts = {name: len(literals(name)) for name in ("inference.json", "train.json")}
    assert 0 < sum(counts.values()) <= 50, counts


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (1, True),
        (None, True),
        ("mid", True),
        ([1, 2], True),
        ({"a": [1]}, True),
        ("@size", False),
        ("$1 + 1", False),
        ([1, "@size"], False),
        ({"_target_": "Compose"}, False),
    ],
)
def test_what_a_literal_is(value: Any, literal: bool) -> None:
    assert is_literal(value) == literal
