"""The report and the summary: everything is there, nothing can be injected, nothing is fetched."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

from scripts.reporting.report import write_report
from scripts.reporting.summary import CaseResult, write_summary

EVIL = "<script>alert(1)</script>\"'&"


def test_summary_has_the_columns_of_the_contract(tmp_path: Path) -> None:
    results = [
        CaseResult("a", "in/a.png", slices="95", anomaly_score=0.00123456789, volume_mm3=12.0, warnings="w; v"),
        CaseResult('b,"', "in/b.png", status="failed", error="'b' is broken,\nreally."),
    ]
    write_summary(results, tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "case", "source", "status", "slices", "anomaly_score", "volume_mm3", "warnings", "error",
    ]  # fmt: skip
    assert rows[0]["anomaly_score"] == "0.00123457"
    assert rows[1]["case"] == 'b,"'
    assert rows[1]["anomaly_score"] == ""
    assert rows[1]["error"] == "'b' is broken,\nreally."


class Tags(HTMLParser):
    """Names and attributes of all tags, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(folder: Path, results: list[CaseResult], about: dict) -> Tags:
    tags = Tags()
    tags.feed(write_report(results, folder, about).read_text(encoding="utf-8"))
    return tags


def test_report_shows_cases_pictures_settings_and_the_notice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/a.png").write_bytes(b"\x89PNG picture")
    results = [CaseResult("a", "in/a.png", slices="95", anomaly_score=0.0123, volume_mm3=12.0, warnings="look here")]
    page = parsed(tmp_path, [*results, CaseResult("b", "in/b", status="failed", error="is broken")], {"S": {"k": 7}})
    for text in ("Research use only", "0.0123", "look here", "is broken", "2 cases, 1 failed", "S", "k", "7"):
        assert text in page.text
    pictures = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 1
    assert pictures[0].startswith("data:image/png;base64,")


def test_report_escapes_every_string(tmp_path: Path) -> None:
    result = CaseResult(EVIL, EVIL, warnings=EVIL, error=EVIL, slices=EVIL)
    page = parsed(tmp_path, [result], {EVIL: {EVIL: EVIL}})
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count("alert(1)") >= 6


def test_report_fetches_nothing(tmp_path: Path) -> None:
    html = write_report([CaseResult("a", "b")], tmp_path, {}).read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//|url\(|@import""", html)
