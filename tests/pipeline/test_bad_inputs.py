"""The whole catalogue through the main job: every bad case one sentence, and every good case its result."""

from __future__ import annotations

import csv
import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.pipeline.cases import find_cases
from scripts.pipeline.inference import sentence_of
from scripts.pipeline.readers import CaseLoadImaged
from scripts.pipeline.results import result_names
from tests.conftest import head_slice, run_inference
from tests.pipeline.bad_inputs import KINDS, NOT_CASES, ODD_NAMES
from tests.pipeline.faults import unprivileged

Row = dict[str, str]


@pytest.fixture(scope="module")
def run(
    scratch_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, list[Row], PhanesInputError]:
    """All kinds and two good cases, one before and one after the bad ones."""
    source, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for name, make in (KINDS | NOT_CASES).items():
        (source / name).mkdir()
        make(source / name)
    for name in ("a_good_one", "z_good_one"):
        Image.fromarray(head_slice()).save(source / f"{name}.png")
    with pytest.raises(RuntimeError) as ended:
        run_inference(scratch_bundle, source, out, save_picture=False)
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return source, out, rows, ended.value


def test_the_catalogue_is_as_large_as_promised() -> None:
    assert len(KINDS) >= 60


def test_every_bad_case_has_a_row_with_one_sentence(run: tuple) -> None:
    source, _, rows, _ = run
    for name in KINDS:
        own = [row for row in rows if name in Path(row["source"]).relative_to(source).parts]
        assert own, f"{name} left no trace"
        for row in own:
            assert row["status"] == "failed", name
            assert row["error"].startswith(f"'{row['source']}' "), (name, row["error"])
            assert row["error"].endswith("."), (name, row["error"])
            assert len(row["error"]) < 500, (name, row["error"])
            for word in ("\n", "Traceback", "Unexpected", "<class", "object at 0x"):
                assert word not in row["error"], (name, row["error"])


def test_what_is_no_case_has_no_row(run: tuple) -> None:
    source, _, rows, _ = run
    parts = {part for row in rows for part in Path(row["source"]).relative_to(source).parts}
    assert parts.isdisjoint(NOT_CASES)


def test_the_good_cases_have_their_results_and_the_bad_ones_leave_nothing(run: tuple) -> None:
    _, out, rows, _ = run
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"a_good_one", "z_good_one", ".phanes"}
    for name in ("a_good_one", "z_good_one"):
        written = {path.name for path in (out / name).iterdir()}
        assert set(result_names(name)) - {f"{name}.png", "dicom"} <= written
    assert not list(out.rglob("*.partial"))
    assert not (out / ".phanes" / "partial").exists()
    assert [row["status"] for row in rows].count("ok") == 2


def test_the_run_ends_with_an_error_that_counts_them(run: tuple) -> None:
    _, _, rows, ended = run
    assert sentence_of(ended).startswith(f"{len(rows) - 2} of {len(rows)} cases failed")


def test_odd_names_are_names(scratch_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Each file gets its result, in a folder whose name any system can hold; nothing is executed or overwritten."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    picture = tmp_path / "head.png"
    Image.fromarray(head_slice()).save(picture)
    for name in ODD_NAMES.values():
        os.link(picture, os.path.join(os.fsencode(source), name))  # noqa: PTH118 - some names are no text
    run_inference(scratch_bundle, source, out, save_picture=False, save_coarse=False, save_pseudo_healthy=False)
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ODD_NAMES)
    assert {row["status"] for row in rows} == {"ok"}
    names = [row["case"] for row in rows]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert name.isprintable()
        assert not name.startswith(("=", "+", "-", "@", "."))
        assert "/" not in name
        assert (out / name / f"{name}_label.nii.gz").is_file()
    assert all(row["source"].isprintable() for row in rows)
    assert {"a head of someone", "מוח", "脳", "🧠"} <= set(names)
    assert {"in_TWIN", "in_twin_2"} <= set(names)
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "\x1b" not in capsys.readouterr().out


def test_files_without_permission_are_one_sentence_each() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        Image.fromarray(head_slice()).save(folder / "open.png")
        Image.fromarray(head_slice()).save(folder / "closed.png")
        (folder / "closed.png").chmod(0)
        (folder / "series").mkdir(mode=0)
        with unprivileged():
            cases = {case["case"]: case for case in find_cases(folder)}
            assert set(cases) == {"open", "closed", "series"}
            assert CaseLoadImaged("image")(cases["open"])["image"].shape == (197, 233, 1)
            for case in ("closed", "series"):
                with pytest.raises(
                    PhanesInputError, match=rf"'{folder}/{case}.*' cannot be read \(Permission denied\)"
                ):
                    CaseLoadImaged("image")(cases[case])
