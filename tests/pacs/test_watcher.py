"""What the watcher promises, with a PACS in memory: once each, whatever is away, refuses, changes or is killed."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.common.errors import PhanesInputError
from scripts.dicom.selection import load_rules
from scripts.pacs.archive import PacsUnreachableError
from scripts.pacs.settings import read_settings
from scripts.pacs.watcher import Watcher
from tests.conftest import BUNDLE
from tests.pacs.archive import Analysis, Memory

RULES = load_rules(BUNDLE / "configs" / "dicom_series.json")
RESULTS = ["MR", "SEG", "SR"]


class Clock:
    """Time that passes when it is waited for; it is also the event that stops the watch."""

    def __init__(self, looks: int) -> None:
        self.now, self.looks, self.waits = 1e9, looks, []

    def __call__(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return len(self.waits) >= self.looks

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def pacs() -> Memory:
    return Memory()


@pytest.fixture
def analysis() -> Analysis:
    return Analysis()


Run = Callable[..., int]


@pytest.fixture
def run(pacs: Memory, analysis: Analysis, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Run:
    """A watcher, new each time, on the same work folder."""
    caplog.set_level(logging.INFO, "phanes.pacs")
    logging.getLogger("phanes.pacs").propagate = True

    def watch(once: bool = True, looks: int = 50, work: str = "work", **changes: Any) -> int:
        changes = {"work_dir": str(tmp_path / work), "days": 0, "settle_s": 5, **changes}
        settings = read_settings(BUNDLE / "configs" / "pacs.json", changes)
        clock = Clock(looks)
        watch.clock = clock  # type: ignore[attr-defined]
        return Watcher(settings, pacs, analysis, RULES, stop=clock, clock=clock).run(once)  # type: ignore[arg-type]

    return watch


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_a_new_study_is_analysed_once_and_its_results_are_stored(
    pacs: Memory, analysis: Analysis, run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    study = pacs.head()
    pacs.head(study, SeriesDescription="t2_tse")
    assert run() == run() == run(once=False, looks=4) == 0
    assert analysis.cases == ["series1"]
    assert pacs.modalities(study) == sorted(["MR", "MR", *RESULTS])
    assert lines(caplog, "study ") == [f"study {study}: 1 series analysed, 3 objects stored; 1 left out in 0 s"]
    assert not list((tmp_path / "work" / "studies").rglob("*.dcm"))


def test_what_is_done_costs_one_question_a_look(pacs: Memory, run: Run) -> None:
    for _ in range(3):
        pacs.head()
    run()
    run(once=False, looks=2)
    pacs.asked.clear()
    run(once=False, looks=3)
    assert pacs.asked == ["studies"] * 3


def test_a_study_that_is_still_arriving_is_waited_for(pacs: Memory, analysis: Analysis, run: Run) -> None:
    study = pacs.head(images=1)
    series = next(iter(pacs.held[study]))
    fetch, fetched = pacs.fetch, []
    pacs.fetch = lambda *of: fetched.append(fetch(*of)) or fetched[-1]  # type: ignore[method-assign, func-returns-value]
    looks = pacs.studies

    def arriving(query: dict[str, str]) -> list:
        if len(pacs.held[study][series]) < 6:
            pacs.add(*Memory_images(study, series, len(pacs.held[study][series]) + 1))
        return looks(query)

    pacs.studies = arriving  # type: ignore[assignment, method-assign]
    run()
    assert fetched == [6]
    assert analysis.cases == ["series1"]


def Memory_images(study: str, series: str, count: int) -> list:
    other = Memory()
    other.head(study, count, SeriesInstanceUID=series)
    return list(other.held[study][series].values())


def test_results_in_the_pacs_are_recognised_without_the_record(
    pacs: Memory, analysis: Analysis, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    study = pacs.head()
    run()
    before = pacs.modalities(study)
    assert run(work="another") == 0
    assert analysis.cases == ["series1"]
    assert pacs.modalities(study) == before
    assert lines(caplog, "1 with results in the PACS already; 1 left out")


def test_a_series_that_comes_later_is_analysed_alone(pacs: Memory, analysis: Analysis, run: Run) -> None:
    study = pacs.head()
    run()
    pacs.head(study)
    run()
    run()
    assert analysis.cases == ["series1", "series2"]
    assert pacs.modalities(study).count("SEG") == 2


@pytest.mark.parametrize("stored", [0, 1, 2])
def test_killed_while_it_stores_it_goes_on_with_the_same_objects(
    pacs: Memory, analysis: Analysis, run: Run, stored: int
) -> None:
    study = pacs.head()
    pacs.fails_after = stored
    with pytest.raises(KeyboardInterrupt):
        run(batch=1)
    assert "SEG" not in pacs.modalities(study)
    assert run() == 0
    assert analysis.cases == ["series1"]
    assert pacs.modalities(study) == sorted(["MR", *RESULTS])


def test_a_study_that_kills_the_process_is_given_up(
    pacs: Memory, analysis: Analysis, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when nothing could be noted at the moment of death."""
    pacs.head()

    def dies(*of: object) -> int:
        analysis.cases.append("begun")
        raise KeyboardInterrupt

    pacs.fetch = dies  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(attempts=3)
    assert run(attempts=3) == 1
    assert len(analysis.cases) == 3


def test_refusals_are_retried_with_growing_pauses_and_then_given_up(
    pacs: Memory, analysis: Analysis, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    pacs.head()
    pacs.refuses = 2
    assert run(backoff_s=10) == 0
    assert [line.rpartition("; ")[2] for line in lines(caplog, "failed")] == ["again in 10 s", "again in 20 s"]
    assert analysis.cases == ["series1"]
    other = pacs.head()
    pacs.refuses = 99
    assert run(attempts=3) == 1
    assert len(lines(caplog, f"study {other}: attempt")) == 3
    assert lines(caplog, "given up until the study changes")
    asked = pacs.asked.count("fetch")
    assert run(attempts=3) == 1
    assert pacs.asked.count("fetch") == asked
    pacs.refuses = 0
    pacs.head(other)  # it changes
    assert run(attempts=3) == 0
    assert pacs.modalities(other).count("SEG") == 2


def test_what_cannot_be_analysed_is_said_and_not_tried_again_until_it_changes(
    pacs: Memory, analysis: Analysis, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    study = pacs.head()
    series = next(iter(pacs.held[study]))
    analysis.says["series1"] = ["has a missing slice."]
    assert run() == 1
    assert lines(caplog, f"study {study}: one cannot be analysed: has a missing slice in")
    run()
    assert analysis.cases == ["series1"]
    pacs.add(*Memory_images(study, series, 5))
    assert run() == 0
    assert analysis.cases == ["series1"] * 2
    assert pacs.modalities(study).count("SEG") == 1


def test_what_may_pass_is_tried_again_while_other_series_go_on(pacs: Memory, analysis: Analysis, run: Run) -> None:
    study = pacs.head()
    pacs.head(study)
    analysis.says["series2"] = ["Unexpected OutOfMemoryError: no memory"]
    assert run() == 0
    assert analysis.cases == ["series1", "series2", "series2"]
    assert pacs.modalities(study).count("SEG") == 2


def test_a_pacs_that_is_away_is_waited_for(pacs: Memory, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    pacs.head()
    pacs.away = True
    assert run(once=False, looks=4, backoff_s=10, backoff_max_s=30) == 0
    assert run.clock.waits == [10, 20, 30, 30]  # type: ignore[attr-defined]
    with pytest.raises(PacsUnreachableError):
        run(once=True, attempts=2)
    pacs.away = False
    assert run() == 0
    assert lines(caplog, "1 series analysed")


def test_a_series_that_is_not_sent_whole_is_not_analysed(pacs: Memory, analysis: Analysis, run: Run) -> None:
    pacs.head()
    fetch = pacs.fetch
    pacs.fetch = lambda *of: fetch(*of) - 1  # type: ignore[method-assign]
    assert run(attempts=2) == 1
    assert analysis.cases == []


def test_asked_to_stop_it_ends_the_step_and_goes_on_the_next_time(
    pacs: Memory, analysis: Analysis, run: Run, tmp_path: Path
) -> None:
    study = pacs.head()
    settings = read_settings(
        BUNDLE / "configs" / "pacs.json", {"work_dir": str(tmp_path / "work"), "days": 0, "settle_s": 0}
    )
    stop = threading.Event()

    def analyse(*of: Any) -> dict[str, str]:
        stop.set()
        return analysis(*of)

    Watcher(settings, pacs, analyse, RULES, stop=stop).run()
    assert pacs.modalities(study) == ["MR"]
    assert run() == 0
    assert analysis.cases == ["series1"]
    assert pacs.modalities(study) == sorted(["MR", *RESULTS])


def test_anonymous_means_that_neither_log_nor_record_holds_a_uid(
    pacs: Memory, analysis: Analysis, run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    study = pacs.head(PatientName="Secret^Name")
    pacs.head(study, SeriesDescription="t2 Secret")
    assert run(anonymize=True, anonymize_key="k") == run(anonymize=True, anonymize_key="k") == 0
    assert pacs.modalities(study).count("SEG") == 1
    records = [path.read_text() for path in (tmp_path / "work" / "record").iterdir()]
    for text in (caplog.text, *records):
        assert study not in text
        assert not any(series in text for series in pacs.held[study])
        assert "Secret" not in text
    assert lines(caplog, "study case-")


def test_a_record_is_whole_or_not_there_and_a_broken_one_is_said(
    pacs: Memory, analysis: Analysis, run: Run, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pacs.head()
    run()
    (path,) = (tmp_path / "work" / "record").iterdir()
    assert json.loads(path.read_text())["series"]
    path.write_text(path.read_text()[:50])
    other = pacs.head()
    assert run() == 1
    assert lines(caplog, "cannot be read")
    assert pacs.modalities(other).count("SEG") == 1  # others go on
    path.unlink()
    assert run() == 0
    assert analysis.cases == ["series1", "series1"]


def test_only_studies_of_the_last_days_are_asked_for(pacs: Memory, run: Run) -> None:
    run(days=7)
    assert pacs.query == {"ModalitiesInStudy": "MR", "StudyDate": "20010902-"}  # a thousand million seconds after 1970
    run(days=0)
    assert pacs.query == {"ModalitiesInStudy": "MR"}


def test_a_hostile_uid_stays_within_the_work_folder(pacs: Memory, run: Run, tmp_path: Path) -> None:
    study = pacs.head()
    pacs.held["../../escaped"] = pacs.held.pop(study)
    before = set(tmp_path.parent.iterdir())
    run()
    assert set(tmp_path.parent.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"interval_s": 0}, "interval_s is 0"),
        ({"attempts": "x"}, "attempts is 'x'"),
        ({"days": 1.5}, "days is 1.5"),
        ({"anonymize": "perhaps"}, "anonymize is 'perhaps'"),
        ({"inference": "slab"}, "inference is 'slab'"),
        ({"ae_title": "a name that is too long"}, "ae_title is"),
    ],
)
def test_a_wrong_setting_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PhanesInputError, match=said):
        read_settings(BUNDLE / "configs" / "pacs.json", changes)


def test_a_config_with_a_misspelt_entry_is_refused(tmp_path: Path) -> None:
    entries = json.loads((BUNDLE / "configs" / "pacs.json").read_text())
    for changed, said in (({**entries, "intervall": 1}, "unknown entry 'intervall'"), ({}, "lacks 'ae_title'")):
        (tmp_path / "pacs.json").write_text(json.dumps(changed))
        with pytest.raises(PhanesInputError, match=said):
            read_settings(tmp_path / "pacs.json", {})
