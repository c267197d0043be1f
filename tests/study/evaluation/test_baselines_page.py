"""The page of the trained baselines: every number from the records, p-values against the row that is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.common.errors import PhanesInputError
from scripts.study.evaluation.baselines_page import baselines_page, training_table
from scripts.study.evaluation.scoring import Result
from scripts.study.evaluation.store import ResultStore

SYSTEMS = {
    "short": {"label": "PHANES in short", "role": "proposed"},
    "weak": {"label": "weak", "role": "baseline"},
    "alike": {"label": "alike", "role": "baseline"},
    "perfect": {"label": "perfect map", "role": "sanity"},
}
RECORD = {
    "system": "weak",
    "trained_parameters": 1234,
    "steps": 300,
    "processor_seconds": 330.0,
    "healthy_error_by_step": [[100, 0.5], [200, 0.25], [300, 0.125]],
}


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """An evaluation with one set of lesions and one of healthy heads, and a training."""
    store, results = ResultStore(tmp_path / "eval" / "results"), []
    noise = np.random.default_rng(0).normal(0, 0.01, 200)
    for key, score in {"short": 0.8, "weak": 0.3, "alike": 0.8, "perfect": 1.0}.items():
        own = 0.02 * np.random.default_rng(len(key)).normal(size=200)
        with_lesions = {
            "set": "strokes", "seed": 0, "system": key, "heads": 7, "prevalence": 0.01,
            "maps": {"own": {"auprc": score, "best_dice": score}},
            "more": {"label.mean_dice": score, "froc.all at 1": 0.5}, "each": [{"name": "a"}],
        }  # fmt: skip
        arrays = {"own.auprc": score + noise + own, "label.mean_dice": score + noise + own}
        healthy = {
            "set": "healthy", "seed": None, "system": key, "heads": 2, "maps": {},
            "each": [{"name": "b", "labelled_share": share, "false_findings": 1.0} for share in (0.001, 0.003)],
        }  # fmt: skip
        for record, kept in ((with_lesions, arrays), (healthy, {})):
            store.save(store.path(record["set"], record["seed"], key), "key", Result(record, kept))
            results.append(record)
    report = {"resamples": 200, "systems": SYSTEMS, "results": results}
    (tmp_path / "eval" / "record.json").write_text(json.dumps(report))
    (tmp_path / "runs" / "weak").mkdir(parents=True)
    (tmp_path / "runs" / "weak" / "record.json").write_text(json.dumps(RECORD))
    return tmp_path


def test_the_page_says_what_the_records_say(evaluated: Path) -> None:
    page = evaluated / "page.md"
    page.write_text("# Title\n\nSaid first.\n\n## Trainings\n\nold\n\n## Scores\n\nold\n\n## Choices\n\nSaid last.\n")
    baselines_page(str(evaluated / "eval"), str(evaluated / "runs"), "short", str(page))
    text = page.read_text()
    assert text.startswith("# Title\n\nSaid first.\n\n## Trainings\n\nError")
    assert text.endswith("\n\n## Choices\n\nSaid last.\n")
    assert "old" not in text
    assert "|weak|1,234|300|5.5|0.5, 0.25, 0.125|300 (the last)|" in text
    assert "### strokes, 7 heads" in text
    assert "- AUPRC, against PHANES in short. Not shown to differ: alike. Lower: the other 1." in text
    assert "|weak|1.00|" in text
    assert "perfect map" not in text
    kept = json.loads(page.with_suffix(".json").read_text())
    assert kept["trainings"]["weak"] == RECORD
    assert all("each" not in result for result in kept["evaluation"]["results"])


def test_the_reference_has_no_p_and_the_others_have_one(evaluated: Path) -> None:
    page = evaluated / "page.md"
    baselines_page(str(evaluated / "eval"), str(evaluated / "runs"), "short", str(page))
    scores = [line.strip("|").split("|") for line in page.read_text().splitlines() if "±" in line]
    last = {row[0]: row[-2:] for row in scores if len(row) > 2}
    assert last["PHANES in short"] == ["-", "-"]
    assert last["weak"] == ["0.02", "0.02"]  # the smallest that 200 resamples and two rows can show
    assert all(float(p) > 0.05 for p in last["alike"])


def test_a_fit_has_no_curve() -> None:
    fit = {"system": "bank", "trained_parameters": 0, "processor_seconds": 60.0}
    assert training_table({"bank": fit})[1] == [["bank", "0", "-", "1.0", "-", "-"]]


@pytest.mark.parametrize(
    ("reference", "runs", "sentence"),
    [
        ("nobody", "runs", "reference is 'nobody': choose among short, weak, alike, perfect."),
        ("short", "nowhere", "No record of a training"),
    ],
)
def test_a_mistake_ends_in_one_sentence(evaluated: Path, reference: str, runs: str, sentence: str) -> None:
    with pytest.raises(PhanesInputError, match=sentence):
        baselines_page(str(evaluated / "eval"), str(evaluated / runs), reference, str(evaluated / "page.md"))
