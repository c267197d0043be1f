"""Names of cases: what a file is called where that is harmless, and never anything that could do harm."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.common.names import MAX_BYTES, RESERVED, case_name, one_line


@pytest.mark.parametrize("name", ["sub-01_T1w", "a b", 'o\'neill "x"', "мозг", "🧠", "a..b", "x=1"])
def test_harmless_names_stay(name: str) -> None:
    assert case_name(name) == name


@pytest.mark.parametrize(
    ("stem", "name"),
    [("a\nb\x1b", "a_b_"), ("=1+1", "_=1+1"), ("-rf", "_-rf"), ("summary.csv", "_summary.csv"), ("a/b\\c", "a_b_c"),
     ("", "_"), ("..", "_.."), ("e\u0301", "\u00e9"), (os.fsdecode(b"caf\xe9"), "caf_"), ("\u202egnp", "_gnp")],
)  # fmt: skip
def test_harmful_ones_are_mended(stem: str, name: str) -> None:
    assert case_name(stem) == name


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_become_a_name_that_every_file_system_holds(raw: bytes) -> None:
    name = case_name(os.fsdecode(raw))
    assert name
    assert name.isprintable()
    assert len(name.encode("utf-8")) <= MAX_BYTES
    assert not set("/\\") & set(name)
    assert not name.startswith(("=", "+", "-", "@", "."))
    assert name.casefold() not in RESERVED


def test_long_names_stay_apart() -> None:
    names = {case_name("n" * 300 + end) for end in "abc"}
    assert len(names) == 3
    assert all(name.startswith("n" * 100) for name in names)


@given(st.binary(max_size=100))
def test_any_bytes_become_one_line_that_can_be_written(raw: bytes) -> None:
    line = one_line(os.fsdecode(raw))
    assert line.encode("utf-8").decode("utf-8") == line
    assert line.isprintable()
    assert not line.startswith(("=", "+", "-", "@"))
