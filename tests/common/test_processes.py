"""A cohort on two processes: each case once, one summary, and what a killed process left is done by the next run."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from scripts.common.processes import from_first, process_count, process_rank, share, total
from tests.conftest import head_slice, run_inference

CASES = 7


def test_a_process_by_itself_has_all_to_do():
    assert (process_rank(), process_count()) == (0, 1)
    assert share([3, 1, 2]) == [3, 1, 2]
    assert from_first("x") == "x"
    assert total(5) == 5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slices and one file that is none."""
    folder = tmp_path_factory.mktemp("cohort")
    for n in range(CASES - 1):
        Image.fromarray(head_slice(n)).save(folder / f"head{n}.png")
    (folder / "head9.png").write_bytes(b"no image")
    return folder


def torchrun(bundle: Path, cohort: Path, out: Path, errors: Path) -> subprocess.Popen:
    """The command of the docs, with two processes. Errors go to a file: a pipe that nobody reads would stop them."""
    files = ",".join(f"'{bundle / 'configs' / name}.json'" for name in ("inference", "multi_gpu_inference"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["monai.bundle", "run", "inference", "--bundle_root", str(bundle), "--config_file", f"[{files}]"]
    command += ["--dataset_dir", str(cohort), "--output_dir", str(out), "--device", "cpu", "--save_picture", "false"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with errors.open("w", encoding="utf-8") as file:
        return subprocess.Popen(command, cwd=bundle, env=variables, stdout=subprocess.DEVNULL, stderr=file)


def finished(out: Path) -> dict[str, int]:
    """Cases with a record, and when it was written."""
    return {path.stem: path.stat().st_mtime_ns for path in (out / ".phanes").glob("*.json")}


def workers(parent: int) -> list[int]:
    """Processes that a process started (Linux)."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def result_files(out: Path) -> dict[str, bytes]:
    """Every file of every case."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("head*/*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_after_a_killed_worker_the_same_command_does_what_is_left_and_the_result_is_that_of_one_process(
    scratch_bundle: Path, cohort: Path, tmp_path: Path
) -> None:
    out, errors = tmp_path / "together", tmp_path / "errors.txt"
    first = torchrun(scratch_bundle, cohort, out, errors)
    deadline = time.monotonic() + 300
    while first.poll() is None and len(finished(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert first.poll() is None, errors.read_text()
    assert len(finished(out)) >= 2, errors.read_text()
    os.kill(workers(first.pid)[-1], signal.SIGKILL)
    assert first.wait(timeout=300) != 0
    before = finished(out)
    assert 2 <= len(before) < CASES

    second = torchrun(scratch_bundle, cohort, out, errors)
    assert second.wait(timeout=600) != 0  # one case failed
    assert f"1 of {CASES} cases failed" in errors.read_text()
    after = finished(out)
    # Done once, and not again; but the case that failed was tried again.
    assert {case: when for case, when in after.items() if case in before and case != "head9"} == {
        case: when for case, when in before.items() if case != "head9"
    }
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [*(f"head{n}" for n in range(CASES - 1)), "head9"]
    assert [row["status"] for row in rows] == ["ok"] * (CASES - 1) + ["failed"]

    with pytest.raises(RuntimeError):
        run_inference(scratch_bundle, cohort, tmp_path / "alone", save_picture=False)
    assert (out / "summary.csv").read_bytes() == (tmp_path / "alone" / "summary.csv").read_bytes()
    assert result_files(out) == result_files(tmp_path / "alone")
