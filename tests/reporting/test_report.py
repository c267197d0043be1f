"""The report and the summary: everything is there, nothing can be injected, nothing is fetched."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from scripts.pipeline.summary import CaseResult, write_summary
from scripts.reporting.report import TOGETHER, read_thumbnail, read_view, write_case_page, write_report

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
        "case", "source", "status", "slices", "alignment", "similarity", "guard", "contrast", "anomaly_score",
            "healthy_below", "findings", "volume_mm3", "warnings", "error",
    ]  # fmt: skip
    assert rows[0]["anomaly_score"] == "0.00123457"
    assert rows[1]["case"] == 'b,"'
    assert rows[1]["anomaly_score"] == ""
    assert rows[1]["error"] == "'b' is broken,\nreally."


class Page(HTMLParser):
    """Names and attributes of all tags, the text people see, and the JSON in rows and in the last block."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.blocks: list[dict] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self.blocks += [json.loads(value) for name, value in attrs if name == "data-case"]

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script":
            if attributes.get("type") == "application/json" and data.strip():
                self.blocks.append(json.loads(data))
        elif tag != "style":
            self.text += data


VIEW = {"shape": [1, 2, 2], "volumes": "eJxj", "findings": [], "thumbnail": "data:image/jpeg;base64,AAAA"}
TOLD = {key: value for key, value in VIEW.items() if key != "thumbnail"}


def written(folder: Path, results: list[CaseResult], about: dict) -> Page:
    return Page(write_report(results, folder, about).read_text(encoding="utf-8"))


def with_page(folder: Path, case: str) -> CaseResult:
    (folder / case).mkdir()
    result = CaseResult(case, f"in/{case}.png", slices="95", anomaly_score=0.0123, volume_mm3=12.0, warnings="look")
    write_case_page(result, VIEW, folder / case, {"S": {"k": 7}})
    return result


def test_report_shows_cases_pictures_settings_and_the_notice(tmp_path: Path) -> None:
    results = [with_page(tmp_path, "a"), CaseResult("b", "in/b", status="failed", error="is broken")]
    page = written(tmp_path, results, {"S": {"k": 7}})
    for text in ("Research use only", "0.0123", "look", "is broken", "2 cases, 1 failed", "S", "k", "7"):
        assert text in page.text
    assert [attrs["src"] for tag, attrs in page.tags if tag == "img"] == [VIEW["thumbnail"]]
    first, second, _ = page.blocks
    assert first["view"] == TOLD
    assert first["source"] == "in/a.png"
    assert second == {"case": "b", "source": "in/b", "note": "is broken", "view": None}


def test_a_case_has_a_page_of_its_own_that_says_how_it_was_made(tmp_path: Path) -> None:
    with_page(tmp_path, EVIL.replace("/", "_"))
    (path,) = (tmp_path / EVIL.replace("/", "_")).glob("*.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.blocks[0]["view"] == TOLD == read_view(path)
    assert read_thumbnail(path) == VIEW["thumbnail"]
    assert "alert(1)<" not in page.html
    assert "7" in page.text
    assert ("a", {"href": "../report.html"}) in page.tags


def test_a_larger_cohort_is_an_index_with_a_page_a_case(tmp_path: Path) -> None:
    names = [f"case {n} # 50%" for n in range(TOGETHER)]
    results = [with_page(tmp_path, name) for name in names]
    assert len(written(tmp_path, results, {}).blocks) == TOGETHER + 1
    results.append(CaseResult("b", "in/b", status="failed", error="is broken"))
    page = written(tmp_path, results, {})
    assert len(page.blocks) == 1  # no case's picture is in it
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and attrs["href"].endswith(".html")]
    assert [unquote(link) for link in links] == [f"{name}/{name}.html" for name in names]
    assert all("#" not in link and " " not in link for link in links)
    assert sum(tag == "img" for tag, _ in page.tags) == TOGETHER
    assert "is broken" in page.text


def test_every_field_of_a_result_is_a_column_or_told_in_the_viewer(tmp_path: Path) -> None:
    """So that a field that is added one day (a guard's verdict) cannot be forgotten here."""
    values: dict = {field.name: f"value of {field.name}" for field in fields(CaseResult)}
    values |= {"anomaly_score": 0.777, "volume_mm3": 555.0, "findings": 44, "contrast": 0.25, "healthy_below": 0.75}
    page = written(tmp_path, [CaseResult(**values)], {})
    told = page.text + json.dumps(page.blocks)
    for value in values.values():
        shares = isinstance(value, float) and value in (0.25, 0.75)
        assert (value if isinstance(value, str) else f"{100 * value:.0f} %" if shares else f"{value:g}") in told
    assert values["warnings"] in page.blocks[0]["note"]


def test_report_escapes_every_string(tmp_path: Path) -> None:
    result = CaseResult(EVIL, EVIL, warnings=EVIL, error=EVIL, slices=EVIL)
    page = written(tmp_path, [result, CaseResult("b", "b", warnings=EVIL)], {EVIL: {EVIL: EVIL}})
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "shared"}, {}]
    allowed = {"lang", "charset", "content", "http-equiv", "name", "href", "class", "id", "role", "type", "data-case"}
    names = {name for tag, attrs in page.tags for name in attrs if tag in ("tr", "td", "th", "a", "code", "html")}
    assert names <= allowed | {"scope", "aria-sort", "tabindex", "data-value"}
    assert page.text.count(EVIL) >= 5
    assert page.blocks[0]["case"] == page.blocks[0]["source"] == EVIL
    assert "alert(1)</script>" not in page.html


def test_report_fetches_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    page = written(tmp_path, [CaseResult("a", "b")], {})
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//|url\(|@import""", page.html)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        own = re.findall(rf"<{tag}>(.*?)</{tag}>", page.html, flags=re.DOTALL)
        assert len(own) == 1
        digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    handlers = [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    assert handlers == []


def test_equal_results_give_an_equal_page(tmp_path: Path) -> None:
    with_page(tmp_path, "a")
    pages = [written(tmp_path, [CaseResult("a", "b", anomaly_score=0.1)], {"S": {"k": 1}}).html for _ in range(2)]
    assert pages[0] == pages[1]


def test_long_lists_of_the_calibration_are_not_printed(tmp_path: Path) -> None:
    page = written(tmp_path, [], {"C": {"heads": {"scores": [0.123] * 60, "interval": [0.1, 0.2]}, "m": [[4.56]]}})
    assert "0.123" not in page.text
    assert "4.56" not in page.text
    assert "heads: interval" in page.text
    assert "0.1, 0.2" in page.text
