"""`pip install .` into an environment of its own, with the demo's exact versions; then the command, elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # Constraints know no extras.
    pins = re.sub(r"\[.*?\]", "", (REPOSITORY / "requirements.txt").read_text(encoding="utf-8"))
    (folder / "constraints.txt").write_text(pins, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "--constraint", folder / "constraints.txt"]
    subprocess.run([*pip, str(REPOSITORY)], check=True)
    return folder / "venv"


def run(environment: Path, cwd: Path, *words: str) -> tuple[str, float]:
    start = time.perf_counter()
    command = [str(environment / "bin" / "phanes"), *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    print(f"$ phanes {' '.join(words)}\n{done.stdout}({time.perf_counter() - start:.1f} s)")
    return done.stdout, time.perf_counter() - start


def test_the_wheel_is_one_package_with_all_of_the_code(environment: Path) -> None:
    (site,) = environment.glob("lib/python*/site-packages")
    assert not (site / "scripts").exists()
    tracked = subprocess.run(
        ["git", "ls-files", "scripts", "bundle/configs", "bundle/docs", "bundle/models"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    wanted = {path.removeprefix("bundle/") for path in tracked if "models/baselines" not in path}
    bundle = site / "phanes" / "bundle"
    there = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {path for path in there if "__pycache__" not in path} == wanted | {"LICENSE"}


def test_the_help_comes_at_once(environment: Path, tmp_path: Path) -> None:
    assert min(run(environment, tmp_path, "--help")[1] for _ in range(3)) < 1


def test_the_demo_runs_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    said, _ = run(environment, tmp_path, "demo")
    assert "2 cases analysed: demo/results/report.html" in said
    assert (tmp_path / "demo/results/stroke/stroke_anomaly.nii.gz").is_file()
