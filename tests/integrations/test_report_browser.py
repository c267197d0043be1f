"""The report in a real browser: it compares, sorts, obeys the keyboard and asks the network for nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from scripts.pipeline.findings import Finding
from scripts.pipeline.summary import CaseResult
from scripts.reporting.pictures import Shown
from scripts.reporting.report import COLOUR_MAPS, write_report
from scripts.reporting.view import case_view, save_view, view_path
from scripts.space.levels import level_affine
from tests.conftest import head_slice

Browser = webdriver.Chrome
THRESHOLD = 0.02
EVIL = "<img src=x onerror=alert(1)>"
PATCH = (slice(60, 80), slice(40, 56))  # rows, columns
LEVELS = 7


def analysed(seed: int, depth: int = 1) -> dict[str, Any]:
    """A phantom with a generated patch (brighter by half) and an anomaly map in it, as the pipeline hands it on."""
    plane = head_slice(seed, (128, 128)).astype(np.float32)
    blob = np.zeros_like(plane)
    blob[PATCH] = 1
    source, mask, spread = (np.repeat(a[..., None], depth, axis=-1) for a in (plane, blob, gaussian_filter(blob, 4)))
    anomaly = 0.1 * spread * mask
    arrays = {
        "source": source,
        "coarse": source,
        "mask": mask,
        "pseudo_healthy": np.where(mask > 0, source * 1.5, source),
        "anomaly": anomaly,
        "pred": (anomaly > THRESHOLD).astype(np.float32),
        "analysed": np.ones_like(source),
    }
    heights = [17.0 + 2 * k for k in range(depth)]
    middle = level_affine(heights[0])[:3] @ [70, 48, depth // 2, 1]
    finding = Finding(1, 900.0, *middle, *middle, "left", (), 0.05, 0.1, 0.1, 0.0)
    meta = {"heights": heights, "thickness": 2.0, "whole": depth > 1, "alignment": "mni"}
    return {
        "image": MetaTensor(torch.zeros(2, 128, 128, depth), meta=meta),
        "shown": {name: MetaTensor(torch.from_numpy(array)[None]) for name, array in arrays.items()},
        "findings": [finding],
        "threshold": THRESHOLD,
    }


def cohort(folder: Path, count: int) -> Path:
    """A report of `count` cases: the last one failed, the first has seven levels, one has a hostile name."""
    results = []
    views = [case_view(analysed(0, LEVELS))] + [case_view(analysed(seed)) for seed in (1, 2)]
    for number in range(count - 1):
        case = EVIL.replace("/", "_") if number == 2 else f"case-{number:04d}"
        (folder / case).mkdir(parents=True)
        save_view(views[0 if number == 0 else 1 + number % 2], view_path(folder / case, case))
        score = ((number * 37) % 101) / 20000
        results.append(CaseResult(case, f"in/{case}", slices="0", anomaly_score=score, volume_mm3=float(number)))
    results.append(CaseResult("broken", "in/broken", status="failed", error=f"'broken' cannot be read. {EVIL}"))
    return write_report(results, folder, {"Settings": {"slices": "brain"}, EVIL: {EVIL: EVIL}})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium that keeps its console and its network log."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.fail("No browser: apt-get install chromium chromium-driver.")
    options = Options()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument("--window-size=1400,1250")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort(tmp_path_factory.mktemp("report"), 12)


def opened(browser: Browser, page: Path, case: int = 1) -> Browser:
    browser.get("about:blank")
    for log in ("browser", "performance"):  # what was read is gone
        browser.get_log(log)
    browser.get(f"{page.as_uri()}#case-{case}")
    wait_for(browser, "/")
    return browser


def wait_for(browser: Browser, ready: str) -> None:
    for _ in range(300):
        if ready in (browser.execute_script("return document.getElementById('stage').dataset.ready") or ""):
            return
        time.sleep(0.1)
    raise AssertionError(f"the viewer did not show {ready!r}: {browser.get_log('browser')}")


def element(browser: Browser, name: str) -> WebElement:
    return browser.find_element(By.ID, name)


def set_range(browser: Browser, name: str, value: int) -> None:
    script = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, name, value)


def stage_pixel(browser: Browser, row: float, column: float) -> list[int]:
    """Colour of the stage at fractions of its height and width."""
    script = """const c = document.getElementById('stage');
        return [...c.getContext('2d').getImageData(arguments[1] * c.width, arguments[0] * c.height, 1, 1).data]"""
    return browser.execute_script(script, row, column)[:3]


def drawn(browser: Browser) -> list[str]:
    """Everything that the viewer draws, as the browser encodes it."""
    script = "return ['legend', 'stage'].map((name) => document.getElementById(name).toDataURL())"
    time.sleep(0.2)  # the drawings beside the stage
    return browser.execute_script(script)


def column(browser: Browser, number: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll(`#table tbody tr td:nth-child(${arguments[0]})`)].map(c => c.textContent)"
    )
    return browser.execute_script(script, number)


def fractions(row: float, column: float) -> tuple[float, float]:
    """Of the picture's height and width, which shows the head without the air around it."""
    rows, columns = Shown.of(analysed(0, LEVELS)).window()
    return (row - rows.start) / (rows.stop - rows.start), (column - columns.start) / (columns.stop - columns.start)


INSIDE, OUTSIDE = fractions(70.5, 48.5), fractions(64.5, 90.5)


def test_divider_and_opacity_compare_input_with_pseudo_healthy_image(browser: Browser, page: Path) -> None:
    opened(browser, page)
    set_range(browser, "opacity", 0)
    set_range(browser, "divider", 100)
    before, outside = stage_pixel(browser, *INSIDE), stage_pixel(browser, *OUTSIDE)
    set_range(browser, "divider", 0)
    after = stage_pixel(browser, *INSIDE)
    assert before[0] == before[1] == before[2]
    assert after[0] == pytest.approx(min(1.5 * before[0], 255), abs=12)  # JPEG
    assert stage_pixel(browser, *OUTSIDE) == outside
    browser.execute_script("document.getElementById('mode').value = 'fade'")
    set_range(browser, "divider", 50)
    assert stage_pixel(browser, *INSIDE)[0] == pytest.approx((before[0] + after[0]) / 2, abs=2)
    set_range(browser, "opacity", 100)
    red, green, blue = stage_pixel(browser, *INSIDE)
    assert len({red, green, blue}) > 1
    for colours in COLOUR_MAPS:
        browser.execute_script(f"document.getElementById('colours').value = '{colours}'")
        set_range(browser, "divider", 50)
        assert (stage_pixel(browser, *INSIDE) == [red, green, blue]) == (colours == COLOUR_MAPS[0])


def test_the_level_and_the_findings_are_told_and_lead_to_each_other(browser: Browser, page: Path) -> None:
    opened(browser, page)
    assert element(browser, "level-text").text.startswith("z = +23 mm in MNI152 space")
    finding = element(browser, "findings").find_element(By.TAG_NAME, "button")
    assert finding.text == "Finding 1"
    set_range(browser, "slice", 0)
    wait_for(browser, "z = +17 mm")
    finding.click()
    wait_for(browser, "z = +23 mm")
    opened(browser, page, case=2)
    assert "one slice has no sagittal view" in element(browser, "level-text").text


def test_a_case_that_is_shown_again_looks_as_at_first(browser: Browser, page: Path) -> None:
    opened(browser, page, case=2)
    drawings = [drawn(browser)]
    for key, case in (("n", "/z"), ("p", "case-0001/z")):
        browser.find_element(By.TAG_NAME, "body").send_keys(key)
        wait_for(browser, case)
        drawings.append(drawn(browser))
    assert drawings[0] == drawings[2]
    assert drawings[0] != drawings[1]


def test_columns_sort_both_ways_and_cases_without_a_number_come_last(browser: Browser, page: Path) -> None:
    opened(browser, page)
    headings = browser.find_elements(By.CSS_SELECTOR, "#table thead th")
    place = 1 + next(n for n, cell in enumerate(headings) if cell.text == "Anomaly score")
    heading = headings[place - 1].find_element(By.TAG_NAME, "button")
    heading.send_keys(Keys.ENTER)  # by keyboard
    up = column(browser, place)
    assert up[-1] == ""
    assert [float(text) for text in up[:-1]] == sorted(float(text) for text in up[:-1])
    assert heading.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    heading.click()
    assert column(browser, place) == [*up[:-1][::-1], ""]
    element(browser, "filter").send_keys("cannot be read")
    assert element(browser, "shown").text == "1 of 12 shown"


def test_everything_can_be_done_from_the_keyboard(browser: Browser, page: Path) -> None:
    opened(browser, page)
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("]")
    wait_for(browser, "case-0000/z = +25")
    body.send_keys("n")
    wait_for(browser, "case-0001/z")
    body.send_keys("a")
    assert element(browser, "opacity").get_attribute("value") == "0"
    body.send_keys("a", "m")
    assert element(browser, "opacity").get_attribute("value") == "70"
    assert element(browser, "mask").is_selected()
    element(browser, "divider").send_keys(Keys.ARROW_LEFT)
    assert element(browser, "divider").get_attribute("value") == "49"
    browser.find_element(By.CSS_SELECTOR, "#case-5 a").send_keys(Keys.ENTER)
    wait_for(browser, "case-0004/z")
    for _ in range(7):
        body.send_keys("n")
    assert "cannot be read" in element(browser, "viewer-note").text
    assert not element(browser, "panels").is_displayed()


def test_text_contrasts_and_controls_are_named(browser: Browser, page: Path) -> None:
    """WCAG 2.1 AA: 4.5 to 1 for every text; every control has an accessible name."""
    opened(browser, page)
    worst = browser.execute_script(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [
        n for n in nodes if n["role"]["value"] in ("button", "slider", "combobox", "checkbox", "searchbox", "link")
    ]
    assert len(controls) > 20
    assert not [n for n in controls if not n["name"]["value"].strip()]


def test_no_console_message_no_network_request_and_no_injection(browser: Browser, page: Path) -> None:
    opened(browser, page, case=3)
    assert element(browser, "viewer-case").text == EVIL
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.execute_script("return document.querySelectorAll('img[onerror], img[src=x]').length") == 0
    refused = browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.injected = 1';"
        "document.body.append(s); return window.injected === undefined"
    )
    assert refused


def test_a_thousand_cases_open_fast(browser: Browser, tmp_path: Path) -> None:
    """The time is printed and not judged: a shared machine would fail a page that is fast."""
    report = cohort(tmp_path, 1000)
    started = time.monotonic()
    opened(browser, report)
    print(f"\n1,000 cases, {report.stat().st_size / 1e6:.0f} MB: shown after {time.monotonic() - started:.2f} s")
    assert browser.execute_script("return document.querySelectorAll('#table tbody tr').length") == 1000
    assert report.stat().st_size < 40e6


CONTRAST = """
const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
function background(e) {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c;
  }
  return [255, 255, 255];
}
let worst = { ratio: 99 };
for (const e of document.querySelectorAll("body *")) {
  const text = [...e.childNodes].filter((n) => n.nodeType === 3 && n.data.trim()).map((n) => n.data.trim()).join(" ");
  if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName) || !e.getClientRects().length) continue;
  const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(background(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < worst.ratio) worst = { ratio, text, tag: e.tagName };
}
return worst;
"""
