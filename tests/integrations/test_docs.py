"""The commands of README and docs, run as they stand, in order, in a folder with a small DIR, HEADS, HELD_OUT, ...

A child process is forked for each, so that nothing is imported twice. Those that need a server, a GPU, the network or
hours are listed in `tests/docs/execution.py`, with the tests that run them.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import phanes.__main__
import scripts.__main__  # noqa: F401 - for the children
from scripts.space.levels import brain_of_levels
from scripts.space.template import read_template
from scripts.study.registration_trials import block_means
from scripts.training.prepared import write_prepared
from tests.conftest import REPOSITORY, head_slice
from tests.docs.execution import quicker, to_run
from tests.docs.pages import Command
from tests.integrations.heads import series_of

COMMANDS = to_run()
LINKED = ("LICENSE", "README.md", "bundle", "phanes", "pyproject.toml", "requirements.txt", "scripts")
VOXEL_MM = 3.0
OF_SLICES = re.compile(r"configs/train\.json")
SECONDS = 600  # for one command


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each page: the checkout, and small data under the names that the pages use."""
    made: dict[str, Path] = {}
    for page in dict.fromkeys(command.page for command in COMMANDS):
        place = tmp_path_factory.mktemp(Path(page).stem)
        for name in LINKED:
            (place / name).symlink_to(REPOSITORY / name)
        # The scan's own slices 90 and 95 are asked for on one page.
        write_heads(place / "DIR", 1, voxel_mm=1.0 if "alignment" in page else VOXEL_MM)
        used = {word for command in COMMANDS if command.page == page for word in command.words}
        if "HEADS" in used:
            write_heads(place / "HEADS", 3)
        if "HELD_OUT" in used:
            write_heads(place / "HELD_OUT", 5, first=3)
        if "STUDIES" in used:
            series_of(nib.load(place / "DIR" / "head0.nii.gz"), place / "STUDIES" / "study")
        made[page] = place
    # Where the README's commands end, the page with the same commands goes on.
    for name in ("DATA", "runs"):
        (made["bundle/docs/training.md"] / name).symlink_to(made["README.md"] / name)
    head = made["bundle/docs/evaluation.md"] / "DATA" / "val" / "head.nii.gz"
    head.parent.mkdir(parents=True)
    write_prepared(head, brain_of_levels() * np.random.default_rng(0).normal(1.0, 0.05, brain_of_levels().shape))
    return made


def add_slices(folder: Path) -> None:
    """`train/` and `val/` with head phantoms as PNG: DIR in the parts of pages that are about single slices."""
    for split, seeds in (("train", range(44)), ("val", range(44, 47))):  # more draws than principal components
        (folder / split).mkdir(exist_ok=True)
        for seed in seeds:
            Image.fromarray(head_slice(seed)).save(folder / split / f"S{seed:03d}.png")


def write_heads(folder: Path, count: int, first: int = 0, voxel_mm: float = VOXEL_MM) -> None:
    """The template's brain in large voxels, each with noise of its own; the header says that it lies in MNI space."""
    template, own = read_template()
    values, affine = block_means(template.astype(np.float32), own, voxel_mm)
    folder.mkdir(parents=True)
    for seed in range(first, first + count):
        noise = np.random.default_rng(seed).normal(1.0, 0.02, values.shape)
        image = nib.Nifti1Image((values / values.max() * 1000 * noise).astype(np.int16), affine)
        image.set_sform(affine, code="mni")
        nib.save(image, folder / f"head{seed}.nii.gz")


def child(words: Sequence[str], cwd: Path, log: Path) -> None:
    """In a process of its own: be the command."""
    sys.stdout = sys.stderr = log.open("w", buffering=1)  # pytest's own stand for the terminal's
    for number in (1, 2):
        os.dup2(sys.stdout.fileno(), number)
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    program, *rest = words
    if Path(program).name == "phanes":
        sys.argv = list(words)
        phanes.__main__.main()
    else:  # python -m MODULE ...
        sys.argv = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)


def run(words: list[str], cwd: Path, log: Path) -> int:
    """The exit status."""
    if Path(words[0]).name not in ("phanes", "python"):
        with log.open("w") as file:
            return subprocess.run(words, cwd=cwd, stdout=file, stderr=file, timeout=SECONDS, check=False).returncode
    process = multiprocessing.get_context("fork").Process(target=child, args=(words, cwd, log))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
    return process.exitcode if process.exitcode is not None else 1


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Where `cd` left each page."""
    return {}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_command_runs(command: Command, places: dict[str, Path], folders: dict[str, Path], tmp_path: Path) -> None:
    place = places[command.page]
    cwd = folders.get(command.page, place)
    if command.words[0] == "cd":
        folders[command.page] = cwd / command.words[1]
        assert folders[command.page].is_dir()
        return
    if OF_SLICES.search(" ".join(command.words)):
        add_slices(place / "DIR")
    log = tmp_path / "log.txt"
    status = run(quicker(command), cwd, log)
    assert status == 0, log.read_text(encoding="utf-8", errors="replace")[-3000:]
