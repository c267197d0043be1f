"""The report in a real browser: planes, comparing, jumping, sorting, keyboard; and nothing asked of the network."""

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
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from scripts.pipeline.findings import Finding
from scripts.pipeline.summary import CaseResult
from scripts.pipeline.thresholds import Thresholds
from scripts.reporting.pictures import Shown
from scripts.reporting.report import COLOUR_MAPS, page_path, write_case_page, write_report
from scripts.reporting.view import case_view
from scripts.space.levels import level_affine
from scripts.space.structures import Share
from tests.conftest import head_slice

Browser = webdriver.Chrome
THRESHOLD = 0.02
EVIL = "<img src=x onerror=alert(1)>"
PATCH = (slice(60, 80), slice(40, 56))  # rows, columns
OTHER = (slice(90, 98), slice(80, 88))
REASON = "it is a phantom"
LEVELS = 40
MIDDLE = 20  # level of the first finding
PLANES = ("axial", "coronal", "sagittal")


def analysed(seed: int, depth: int = 1) -> dict[str, Any]:
    """A phantom with two generated patches (brighter by half) and an anomaly map in them, as the pipeline hands it on.

    The outermost rows were not analysed.
    """
    plane = head_slice(seed, (128, 128)).astype(np.float32)
    source = np.repeat(plane[..., None], depth, axis=-1)
    middle = min(MIDDLE, depth - 1)
    label = np.zeros_like(source)
    label[(*PATCH, slice(max(middle - 5, 0), middle + 6))] = 1
    label[(*OTHER, slice(max(middle + 6, 0), middle + 12))] = 2
    inside = label > 0
    brain = np.zeros_like(source)
    brain[20:110] = source[20:110] > 0.1
    heights = [-17.0 + 2 * k for k in range(depth)]
    to_mni = level_affine(heights[0])[:3]
    places = [to_mni @ [70, 48, middle, 1], to_mni @ [94, 84, middle + 8, 1]]
    shares = (Share("thalamus", "left", 0.6), Share("putamen", "left", 0.3))
    arrays = {
        "source": source,
        "coarse": source,
        "mask": inside,
        "pseudo_healthy": np.where(inside, source * 1.5, source),
        "anomaly": 0.1 * gaussian_filter(inside.astype(np.float32), 2) * inside,
        "pred": label,
        "analysed": brain,
    }
    return {
        "image": MetaTensor(
            torch.zeros(2, 128, 128, depth),
            meta={"heights": heights, "thickness": 2.0, "whole": depth > 1, "alignment": "mni"},
        ),
        "shown": {name: MetaTensor(torch.from_numpy(a.astype(np.float32))[None]) for name, a in arrays.items()},
        "findings": [
            Finding(n, 900.0 / n, *place, *place, "left", shares, 0.05, 0.1 / n, 0.5, 0.0)
            for n, place in enumerate(places[: 2 if depth > 1 else 1], start=1)
        ],
        "threshold": THRESHOLD,
        "limits": Thresholds(THRESHOLD, 100.0, (0.0, 0.06), (0.001, 0.002), ((), ((0.06, 400.0), (0.03, 1200.0)))),
        "sides_known": True,
        "anomaly_score": 0.0015,
    }


def cohort(folder: Path, count: int) -> Path:
    """A report of `count` cases: the last one failed, the first is a head, one of one slice has a hostile name."""
    results = []
    views = [case_view(analysed(0, LEVELS))] + [case_view(analysed(seed)) for seed in (1, 2)]
    views[0]["unlike"] = [REASON if level < 3 else "" for level in range(LEVELS)]
    for number in range(count - 1):
        case = EVIL.replace("/", "_") if number == 2 else f"case-{number:04d}"
        (folder / case).mkdir(parents=True)
        score = ((number * 37) % 101) / 20000
        result = CaseResult(case, f"in/{case}", slices="0", anomaly_score=score, volume_mm3=float(number))
        write_case_page(result, views[0 if number == 0 else 1 + number % 2], folder / case, {"S": {"k": 1}})
        results.append(result)
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
    return cohort(tmp_path_factory.mktemp("report"), 5)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort(tmp_path_factory.mktemp("index"), 12)


def opened(browser: Browser, page: Path, case: int = 1) -> Browser:
    browser.get("about:blank")
    for log in ("browser", "performance"):  # what was read is gone
        browser.get_log(log)
    browser.get(f"{page.as_uri()}#case-{case}")
    wait_for(browser, "/")
    return browser


def wait_for(browser: Browser, ready: str) -> None:
    for _ in range(300):
        if ready in (browser.execute_script("return document.getElementById('viewer').dataset.ready") or ""):
            return
        time.sleep(0.1)
    raise AssertionError(f"the viewer did not show {ready!r}: {browser.get_log('browser')}")


def element(browser: Browser, name: str) -> WebElement:
    return browser.find_element(By.ID, name)


def set_value(browser: Browser, name: str, value: int | str) -> None:
    script = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, name, value)


def pixel(browser: Browser, down: float, across: float, plane: str = "axial") -> list[int]:
    """Colour of a plane at fractions of its height and width."""
    script = """const c = document.getElementById(arguments[2]);
        return [...c.getContext('2d').getImageData(arguments[1] * c.width, arguments[0] * c.height, 1, 1).data]"""
    return browser.execute_script(script, down, across, plane)[:3]


def drawn(browser: Browser, *names: str) -> list[str]:
    """What the viewer draws, as the browser encodes it."""
    return [browser.execute_script(f"return document.getElementById('{name}').toDataURL()") for name in names]


def voxel(browser: Browser) -> list[int]:
    """Level, row and column under the crosshair, of the part of the grid that is shown."""
    ready = browser.execute_script("return document.getElementById('viewer').dataset.ready")
    return [int(one) for one in ready.rpartition("/")[2].split(",")]


def column(browser: Browser, number: int) -> list[str]:
    script = (
        "return [...document.querySelectorAll(`#table tbody tr td:nth-child(${arguments[0]})`)].map(c => c.textContent)"
    )
    return browser.execute_script(script, number)


ROWS, COLUMNS = Shown.of(analysed(0, LEVELS)).window()


def fractions(row: float, column: float) -> tuple[float, float]:
    """Of the axial picture's height and width, which shows the head without the air around it."""
    return (row - ROWS.start) / (ROWS.stop - ROWS.start), (column - COLUMNS.start) / (COLUMNS.stop - COLUMNS.start)


INSIDE, OUTSIDE = fractions(75.5, 44.5), fractions(64.5, 90.5)


def plain(browser: Browser) -> None:
    """Only the images, all their greys, without what is drawn over them."""
    for name, value in (("opacity", 0), ("window", 255), ("level", 128)):
        set_value(browser, name, value)
    for name in ("cross", "outline", "dim", "smooth"):
        if element(browser, name).is_selected():
            element(browser, name).click()


def test_slider_and_opacity_compare_input_with_pseudo_healthy_image(browser: Browser, page: Path) -> None:
    opened(browser, page)
    plain(browser)
    set_value(browser, "divider", 100)
    before, outside = pixel(browser, *INSIDE), pixel(browser, *OUTSIDE)
    set_value(browser, "divider", 0)
    after = pixel(browser, *INSIDE)
    assert before[0] == before[1] == before[2]
    assert after[0] == pytest.approx(1.5 * before[0], abs=4)
    assert pixel(browser, *OUTSIDE) == outside
    browser.find_element(By.TAG_NAME, "body").send_keys("s")
    assert pixel(browser, *INSIDE) == before
    set_value(browser, "mode", "fade")
    set_value(browser, "divider", 50)
    assert pixel(browser, *INSIDE)[0] == pytest.approx((before[0] + after[0]) / 2, abs=2)
    set_value(browser, "opacity", 100)
    red, green, blue = pixel(browser, *INSIDE)
    assert len({red, green, blue}) > 1
    for colours in COLOUR_MAPS:
        set_value(browser, "colours", colours)
        assert (pixel(browser, *INSIDE) == [red, green, blue]) == (colours == COLOUR_MAPS[0])


def test_window_and_level_change_the_greys_and_come_back(browser: Browser, page: Path) -> None:
    opened(browser, page)
    plain(browser)
    set_value(browser, "divider", 100)
    browser.find_element(By.TAG_NAME, "body").send_keys("r")
    before = pixel(browser, *OUTSIDE)
    set_value(browser, "level", 40)
    assert pixel(browser, *OUTSIDE)[0] > before[0]
    browser.find_element(By.TAG_NAME, "body").send_keys("r")
    assert pixel(browser, *OUTSIDE) == before
    ActionChains(browser).key_down(Keys.SHIFT).drag_and_drop_by_offset(element(browser, "axial"), 30, 20).key_up(
        Keys.SHIFT
    ).perform()
    assert element(browser, "window").get_attribute("value") != "170"
    assert pixel(browser, *OUTSIDE) != before


def test_planes_scroll_and_show_each_other_by_the_crosshair(browser: Browser, page: Path) -> None:
    opened(browser, page)
    level, row, col = start = voxel(browser)
    assert start == [MIDDLE, 70 - ROWS.start, 48 - COLUMNS.start]
    pictures = drawn(browser, *PLANES)
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(element(browser, "axial")), 0, -120).perform()
    wait_for(browser, f"/{level + 1},{row},{col}")
    assert element(browser, "axial-text").text.startswith("Axial, z = +25 mm")
    assert drawn(browser, "axial") != pictures[:1]
    set_value(browser, "sagittal-place", col + 20)
    assert voxel(browser) == [level + 1, row, col + 20]
    canvas = element(browser, "coronal")
    wide, high = canvas.size["width"], canvas.size["height"]
    ActionChains(browser).move_to_element_with_offset(canvas, wide // 4, high // 4).click().perform()  # off the middle
    assert voxel(browser)[0] == pytest.approx(LEVELS / 4, abs=1)  # lower half: below the middle
    assert voxel(browser)[2] == pytest.approx(0.75 * (COLUMNS.stop - COLUMNS.start), abs=1)
    before = voxel(browser)
    element(browser, "sagittal").send_keys(Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.PAGE_DOWN)
    assert np.subtract(voxel(browser), before).tolist() == [1, 2, -1]


def test_findings_are_told_and_lead_to_their_place(browser: Browser, page: Path) -> None:
    opened(browser, page)
    table = element(browser, "findings")
    first, second = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    assert "left thalamus 60 %; left putamen 30 %" in first.text
    assert "1 of 2" in first.text
    assert "0 of 2" in first.text
    second.find_element(By.TAG_NAME, "button").click()
    assert voxel(browser) == [MIDDLE + 8, 94 - ROWS.start, 84 - COLUMNS.start]
    assert "finding 2" in element(browser, "readout").text
    assert second.get_attribute("class") == "chosen"
    browser.find_element(By.TAG_NAME, "body").send_keys("b")
    assert voxel(browser) == [MIDDLE, 70 - ROWS.start, 48 - COLUMNS.start]
    assert "finding 1" in element(browser, "readout").text


def test_healthy_heads_unlike_levels_and_what_was_not_analysed_are_shown(browser: Browser, page: Path) -> None:
    opened(browser, page)
    assert "1 of 2 healthy heads" in element(browser, "score-text").text
    assert "2 here (diamonds, by number), 2 in 1 of 2 healthy heads" in element(browser, "found-text").text
    assert len(browser.find_elements(By.CSS_SELECTOR, "#found-plot circle")) == 2
    assert len(browser.find_elements(By.CSS_SELECTOR, "#found-plot path")) == 2
    assert "unlike" not in element(browser, "axial-text").text
    orange = [0xE6, 0x9F, 0x00]
    assert pixel(browser, 0.99, 0.995, "coronal") == orange  # the lowest levels
    assert pixel(browser, 0.5, 0.995, "coronal") != orange
    set_value(browser, "axial-place", 0)
    assert f"unlike a healthy T1w head: {REASON}" in element(browser, "axial-text").text
    plain(browser)
    set_value(browser, "coronal-place", 15 - ROWS.start)
    assert "not analysed" in element(browser, "readout").text
    down, across = fractions(15.5, 64.5)
    bright = pixel(browser, down, across)[0]
    element(browser, "dim").click()
    assert 0 < pixel(browser, down, across)[0] < 0.6 * bright


def test_a_single_slice_shows_one_plane(browser: Browser, page: Path) -> None:
    opened(browser, page, case=2)
    assert [element(browser, name).is_displayed() for name in PLANES] == [True, False, False]
    assert not element(browser, "axial-place").is_displayed()


def test_a_case_that_is_shown_again_looks_as_at_first(browser: Browser, page: Path) -> None:
    opened(browser, page, case=2)
    drawings = [drawn(browser, "axial", "legend")]
    for key, case in (("n", "/0"), ("p", "case-0001/0")):
        browser.find_element(By.TAG_NAME, "body").send_keys(key)
        wait_for(browser, case if key == "p" else EVIL)
        drawings.append(drawn(browser, "axial", "legend"))
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
    assert element(browser, "shown").text == "1 of 5 shown"


def test_everything_can_be_done_from_the_keyboard(browser: Browser, page: Path) -> None:
    opened(browser, page)
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("]")
    assert voxel(browser)[0] == MIDDLE + 1
    body.send_keys("f")
    assert voxel(browser)[0] == MIDDLE + 8
    body.send_keys("n")
    wait_for(browser, "case-0001/0")
    body.send_keys("a")
    assert element(browser, "opacity").get_attribute("value") == "0"
    body.send_keys("a", "m", "x", "d", "l")
    assert element(browser, "opacity").get_attribute("value") == "60"
    assert element(browser, "mask").is_selected()
    assert not any(element(browser, name).is_selected() for name in ("cross", "dim", "outline"))
    element(browser, "divider").send_keys(Keys.ARROW_LEFT)
    assert element(browser, "divider").get_attribute("value") == "49"
    browser.find_element(By.CSS_SELECTOR, "#case-4 a").send_keys(Keys.ENTER)
    wait_for(browser, "case-0003/0")
    body.send_keys("n")
    assert "cannot be read" in element(browser, "viewer-note").text
    assert not element(browser, "panels").is_displayed()
    body.send_keys("a", "f", "]")  # nothing to show, and no error
    assert browser.get_log("browser") == []


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


def asked(browser: Browser) -> list[str]:
    """What the browser was made to load, but for what lies in the page."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def test_no_console_message_no_network_request_and_no_injection(browser: Browser, page: Path) -> None:
    opened(browser, page, case=3)
    assert element(browser, "viewer-case").text == EVIL
    assert browser.get_log("browser") == []
    assert asked(browser) == [page.as_uri()]
    assert browser.execute_script("return document.querySelectorAll('img[onerror], img[src=x]').length") == 0
    refused = browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.injected = 1';"
        "document.body.append(s); return window.injected === undefined"
    )
    assert refused


def test_a_larger_cohort_is_an_index_whose_links_open_a_page_a_case(browser: Browser, index: Path) -> None:
    opened_index(browser, index)
    assert not browser.find_elements(By.ID, "viewer")
    browser.find_element(By.LINK_TEXT, EVIL).click()
    wait_for(browser, EVIL)
    assert browser.get_log("browser") == []
    assert asked(browser) == [index.as_uri(), page_path(index.parent / EVIL, EVIL).as_uri()]
    browser.find_element(By.LINK_TEXT, "All cases of the run").click()
    assert browser.current_url == index.as_uri()


def opened_index(browser: Browser, index: Path) -> None:
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(index.as_uri())


def test_a_thousand_cases_open_fast(browser: Browser, tmp_path: Path) -> None:
    """The time is printed and not judged: a shared machine would fail a page that is fast."""
    report = cohort(tmp_path, 1000)
    started = time.monotonic()
    opened_index(browser, report)
    assert browser.execute_script("return document.querySelectorAll('#table tbody tr').length") == 1000
    print(f"\n1,000 cases, {report.stat().st_size / 1e6:.1f} MB: shown after {time.monotonic() - started:.2f} s")
    assert report.stat().st_size < 10e6


@pytest.mark.parametrize("size", [(1400, 1900), (420, 1900)])
def test_the_page_fits_its_window(browser: Browser, page: Path, size: tuple[int, int], tmp_path: Path) -> None:
    """The screenshot is kept in pytest's folder, to be looked at."""
    browser.set_window_size(*size)
    try:
        opened(browser, page)
        browser.save_screenshot(str(tmp_path / f"{size[0]}.png"))
        print(f"\nscreenshot: {tmp_path / f'{size[0]}.png'}")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        browser.set_window_size(1400, 1250)


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
