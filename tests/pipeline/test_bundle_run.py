"""The command line as users type it: both run ids, from any folder, and mistakes without a traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import BUNDLE


def bundle_run(run_id: str, cwd: Path | str, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, *options]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def options_for(bundle: str, dataset: Path, out: Path, *more: str) -> list[str]:
    where = ["--bundle_root", bundle, "--config_file", f"{bundle}/configs/inference.json"]
    return [*where, "--dataset_dir", str(dataset), "--output_dir", str(out), "--device", "cpu", *more]


@pytest.mark.slow
@pytest.mark.parametrize(("run_id", "from_root"), [("run", True), ("inference", False)])
def test_both_run_ids_from_the_bundle_root_and_from_the_file_systems(
    scratch_bundle: Path, png: Path, tmp_path: Path, run_id: str, from_root: bool
) -> None:
    cwd, bundle = (scratch_bundle, ".") if from_root else ("/", str(scratch_bundle))
    done = bundle_run(run_id, cwd, *options_for(bundle, png, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert f"1 case analysed: {tmp_path / 'out' / 'report.html'}" in done.stdout
    assert (tmp_path / "out" / "head" / "head_label.nii.gz").is_file()


@pytest.mark.slow
def test_mistakes_end_with_one_line_and_no_traceback(scratch_bundle: Path, png: Path, tmp_path: Path) -> None:
    bundle = str(scratch_bundle)
    empty = tmp_path / "empty"
    shutil.copytree(BUNDLE / "configs", empty / "configs")
    (empty / "scripts").symlink_to(BUNDLE / "scripts")
    runs = {
        "Unknown option --dataset_dri": options_for(bundle, png, tmp_path / "out", "--dataset_dri", "x"),
        "weights '": options_for(str(empty), png, tmp_path / "out"),
    }
    for sentence, options in runs.items():
        done = bundle_run("inference", "/", *options)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith(f"Error: {sentence}")
    assert not (tmp_path / "out").exists()
