"""Numbers in README and docs are those of the files they came from; `python -m tests.docs.numbers` renews them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.common.errors import PhanesInputError
from tests.docs.numbers import MARK, differences, pages, refreshed, renew
from tests.docs.pages import REPOSITORY


def test_the_pages_say_what_their_files_say() -> None:
    assert differences(REPOSITORY) == []


def test_the_calibration_and_the_long_tests_are_quoted() -> None:
    marks = {Path(match[2]).name for page in pages(REPOSITORY) for match in MARK.finditer(page.read_text("utf-8"))}
    assert {"paper.json", "perceptual_agreement_test.json", "soak.json"} <= marks


def test_every_mark_is_closed() -> None:
    for page in pages(REPOSITORY):
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- from:") == text.count("<!-- /from -->") == len(MARK.findall(text)), page.name


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A page beside a file of values."""
    (tmp_path / "bundle" / "docs").mkdir(parents=True)
    values = {"a": {"b.c": [0.25, 0.123456]}, "n": 12345, "word": "yes"}
    (tmp_path / "x.json").write_text(json.dumps(values))
    return tmp_path


@pytest.mark.parametrize(
    ("mark", "expected"),
    [("#a/b.c/1 | .2f", "0.12"), ("#a/b.c/0 | *100 .1f", "25.0"), ("#n | ,", "12,345"), ("#n", "12345"),
     ("#word", "yes"), ("#n | *2", "24690.0")],
)  # fmt: skip
def test_a_value_in_a_format(repository: Path, mark: str, expected: str) -> None:
    text = f"It is <!-- from: x.json{mark} -->old<!-- /from --> %."
    assert refreshed(text, repository) == f"It is <!-- from: x.json{mark} -->{expected}<!-- /from --> %."


@pytest.mark.parametrize("mark", ["no.json#a", "x.json#b", "x.json#a/b.c/7", "x.json#a", "x.json#word | .2f"])
def test_what_cannot_be_filled_in_is_one_sentence(repository: Path, mark: str) -> None:
    with pytest.raises(PhanesInputError, match="cannot be filled in"):
        refreshed(f"<!-- from: {mark} -->old<!-- /from -->", repository)


def test_a_changed_figure_is_found_and_mended(repository: Path) -> None:
    page = repository / "bundle" / "docs" / "page.md"
    mark = "<!-- from: ../../x.json#n -->"
    page.write_text(f"{mark}12344<!-- /from --> and <!-- from: ../../x.json#word -->yes<!-- /from -->\n")
    assert differences(repository) == [f"page.md: {mark} stands as '12344', is '12345'"]
    assert len(renew(repository)) == 1
    assert differences(repository) == []
    assert "12345" in page.read_text()


def test_tables_of_an_evaluation(repository: Path) -> None:
    results = [
        {"set": "ellipses", "system": "phanes", "seed": seed, "maps": {"own": {"auprc": auprc, "best_dice": 0.5}}}
        for seed, auprc in enumerate((0.6, 0.7))
    ]
    record = {"systems": {"phanes": {"name": "PHANES", "role": "ours"}}, "results": results}
    (repository / "record.json").write_text(json.dumps(record))
    (repository / "table.md").write_text("# T\n\n## ellipses\n\n| a |\n\n## strokes\n\n| b |\n")
    marked = refreshed("<!-- from: record.json#ellipses | table --><!-- /from -->", repository)
    # Standard deviation of 60 and 70, computed by hand: 7.07.
    assert "| PHANES | 65.00 ± 7.07 | 50.00 ± 0.00 |" in marked
    assert marked.count("\n") == 4
    part = refreshed("<!-- from: table.md#ellipses -->old<!-- /from -->", repository)
    assert part == "<!-- from: table.md#ellipses -->\n| a |\n<!-- /from -->"
    assert "| b |" in refreshed("<!-- from: table.md -->old<!-- /from -->", repository)
    with pytest.raises(PhanesInputError, match="no results for the set 'strokes'"):
        refreshed("<!-- from: record.json#strokes | table --><!-- /from -->", repository)


def test_auprc_of_all_sets(repository: Path) -> None:
    results = [
        {"set": name, "system": "phanes", "seed": seed, "maps": {"own": {"auprc": auprc, "best_dice": 0.5}}}
        for name, seed, auprc in (("stroke_small", 0, 0.6), ("stroke_small", 1, 0.7), ("ellipses", 0, 0.8))
    ]
    record = {"systems": {"phanes": {"name": "PHANES", "role": "ours"}}, "results": results}
    (repository / "record.json").write_text(json.dumps(record))
    marked = refreshed("<!-- from: record.json | auprc --><!-- /from -->", repository)
    assert "| System | stroke small | ellipses |" in marked
    assert "| PHANES | 65.00 | 80.00 |" in marked
