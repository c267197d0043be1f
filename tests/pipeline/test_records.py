"""A finished case is found again exactly as long as its input, its files and the settings are what they were."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from torch import nn

from scripts.common.errors import PhanesInputError, PhanesOutputError
from scripts.common.sources import signature
from scripts.pipeline.records import CaseRecords
from scripts.pipeline.summary import CaseResult
from tests.pipeline.faults import largest_file, unprivileged


@pytest.fixture
def item(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii").write_text("image")
    return {"image": str(tmp_path / "in" / "a.nii"), "case": "a"}


def records(tmp_path: Path, **settings: object) -> CaseRecords:
    return CaseRecords(str(tmp_path / "out"), {"threshold": 1.0, **settings})


def finish(kept: CaseRecords, item: dict, text: str = "label") -> CaseResult:
    result = CaseResult(item["case"], item["image"], anomaly_score=1 / 3)
    kept.replace(item, result, signature(item), lambda folder: (folder / "a_label.nii.gz").write_text(text))
    return result


def test_a_finished_case_is_not_done_again(tmp_path: Path, item: dict) -> None:
    kept = records(tmp_path)
    assert kept.unfinished([item]) == [item]
    result = finish(kept, item)
    again = records(tmp_path)
    assert again.unfinished([item]) == []
    assert again.results([item]) == [result]
    assert (tmp_path / "out" / "a" / "a_label.nii.gz").read_text() == "label"
    assert not (tmp_path / "out" / ".phanes" / "partial" / "a").exists()


def test_another_input_a_damaged_file_or_other_settings_make_it_unfinished(tmp_path: Path, item: dict) -> None:
    kept = records(tmp_path)
    finish(kept, item)
    label = tmp_path / "out" / "a" / "a_label.nii.gz"
    assert not records(tmp_path, threshold=2.0).finished(item)
    assert not records(tmp_path, network=nn.Conv2d(1, 1, 3)).finished(item)
    label.write_text("lab")
    assert not kept.finished(item)
    label.unlink()
    assert not kept.finished(item)
    label.write_text("label")
    assert kept.finished(item)
    (tmp_path / "out" / ".phanes" / "a.json").write_text("{")
    assert not kept.finished(item)
    finish(kept, item)
    Path(item["image"]).write_text("another image")
    assert not kept.finished(item)


def test_a_network_counts_with_its_settings_and_not_with_its_random_start(tmp_path: Path, item: dict) -> None:
    finish(records(tmp_path, network=nn.Conv2d(1, 1, 3)), item)
    assert records(tmp_path, network=nn.Conv2d(1, 1, 3)).finished(item)
    assert not records(tmp_path, network=nn.Conv2d(1, 1, 3, padding=1)).finished(item)


def test_a_failed_case_has_a_row_and_is_tried_again(tmp_path: Path, item: dict) -> None:
    kept = records(tmp_path)
    finish(kept, item)
    failure = CaseResult("a", item["image"], status="failed", error="is broken.")
    kept.failed(failure)
    assert kept.results([item]) == [failure]
    assert kept.unfinished([item]) == [item]
    assert not (tmp_path / "out" / "a").exists()


def test_a_series_counts_with_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("1.dcm", "2.dcm", "3.dcm"):
        (folder / name).write_text(name)
    whole = {"image": str(folder), "case": "a"}
    part = {"image": str(folder), "case": "b", "files": [str(folder / "1.dcm"), str(folder / "2.dcm")]}
    kept = records(tmp_path)
    finish(kept, whole)
    finish(kept, part)
    (folder / "3.dcm").write_text("changed")
    assert not kept.finished(whole)
    assert kept.finished(part)
    (folder / "2.dcm").rename(folder / "4.dcm")
    assert not kept.finished(part)


def test_a_file_that_changes_while_it_is_read_leaves_no_result(tmp_path: Path, item: dict) -> None:
    kept = records(tmp_path)
    seen = signature(item)

    def slow(folder: Path) -> None:
        (folder / "a_label.nii.gz").write_text("label")
        with Path(item["image"]).open("a") as file:
            file.write("more")

    with pytest.raises(PhanesInputError, match=r"'.*a.nii' changed while it was read: run the same command again"):
        kept.replace(item, CaseResult("a", item["image"]), seen, slow)
    assert not (tmp_path / "out" / "a").exists()
    assert not kept.finished(item)


def test_one_run_at_a_time_in_an_output_folder(tmp_path: Path) -> None:
    kept = records(tmp_path)
    (tmp_path / "out" / ".phanes").mkdir(parents=True)
    hold = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(kept.lock.lock_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(PhanesInputError, match=r"is in use by another run: wait for it, or choose another"):
            kept.open()
        other.kill()  # a lock of a killed run does not stay
    kept.open()
    kept.close()
    kept.open()
    kept.close()


def test_what_an_interrupted_run_left_is_cleared_away(tmp_path: Path) -> None:
    kept = records(tmp_path)
    left = kept.partial / "a" / "a_label.nii.gz"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    kept.open()
    assert not kept.partial.exists()
    kept.close()


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path, item: dict) -> None:
    other = {**item, "case": "b"}
    kept = records(tmp_path)
    finish(kept, other)
    with (
        largest_file(100_000),
        pytest.raises(PhanesOutputError, match=r"Results cannot be written to output_dir '.*out"),
    ):
        finish(kept, item, "x" * 200_000)
    assert kept.finished(other)
    assert not (tmp_path / "out" / "a").exists()
    finish(kept, item, "x" * 200_000)
    assert kept.finished(item)


def test_a_folder_without_permission_is_one_sentence() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others altogether
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o555)
        kept = records(folder)
        with unprivileged(), pytest.raises(PhanesInputError, match=r"cannot be written \(Permission denied\): choose"):
            kept.open()
