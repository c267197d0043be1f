"""`make soak-disks`: disks of many sizes that fill up, disks that are read-only, inputs that change, two runs at once.

Needs root (it mounts small file systems in memory). After each failure, the same job on a mended disk must leave the
bytes of an undisturbed run.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.pipeline.inference import sentence_of
from tests.conftest import BUNDLE, head_slice, run_inference
from tests.pipeline.faults import tree
from tests.soak.record import record

CASES, SIZES, CHANGES, RACES = 3, 20, 20, 5
MOUNT, UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system in memory of so many kilobytes, for root only."""
    folder.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([UMOUNT, str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    """Change a mounted file system."""
    subprocess.run([MOUNT, "-o", f"remount,{option}", str(folder)], check=True)


def sentence(cohort: Path, out: Path) -> str:
    """How a run ended: "" when well, else its one sentence; an error that is not ours is raised."""
    try:
        run_inference(BUNDLE, cohort, out, save_picture=False)
    except RuntimeError as error:
        text = sentence_of(error)
        if text.startswith("Unexpected"):
            raise
        return text
    except (PhanesInputError, SystemExit) as error:
        return str(error)
    return ""


def make_cohort(folder: Path) -> Path:
    """A few slices."""
    folder.mkdir()
    for n in range(CASES):
        Image.fromarray(head_slice(n)).save(folder / f"head{n}.png")
    return folder


def full_disks(work: Path, cohort: Path, expected: dict[str, str], sizes: int) -> dict[str, int]:
    """Disks from nothing to nearly enough."""
    needed = sum(path.stat().st_size for path in (work / "undisturbed").rglob("*")) // 1024
    full = kept = 0
    for index in range(sizes):
        out = work / f"full{index}"
        with mounted(out, 4 + needed * index // sizes):
            said = sentence(cohort, out)
            full += bool(said)
            assert not said or "cannot be written" in said or "cases failed" in said, said
            kept += len(list((out / ".phanes").glob("*.json")))
            remount(out, f"size={10 * needed + 10_000}k")
            assert sentence(cohort, out) == ""
            assert tree(out) == expected, f"after a full disk ({index}) the results differ"
    return {"disks": sizes, "full": full, "cases_kept": kept, "identical_folders": sizes}


def read_only_disk(work: Path, cohort: Path, expected: dict[str, str]) -> str:
    """What is said; the same job does its work once the disk can be written."""
    out = work / "readonly"
    with mounted(out, 100_000):
        remount(out, "ro")
        said = sentence(cohort, out)
        assert "cannot be written" in said or "not writable" in said, said
        remount(out, "rw")
        assert sentence(cohort, out) == ""
        assert tree(out) == expected
    return said.replace(str(work), "DIR")


def changing_inputs(work: Path, expected: dict[str, str], changes: int) -> dict[str, int]:
    """A file is replaced at a random moment of the run: its result is that of one state, or there is none."""
    rng, refused = random.Random(8), 0
    states = [head_slice(0), head_slice(7)]
    allowed = set()
    for state in states:
        folder, out = Path(tempfile.mkdtemp(dir=work)), Path(tempfile.mkdtemp(dir=work))
        Image.fromarray(state).save(folder / "head0.png")
        assert sentence(folder, out) == ""
        allowed.add(tree(out)["head0/head0_anomaly.nii.gz"])
    started = time.monotonic()
    sentence(folder, Path(tempfile.mkdtemp(dir=work)))
    seconds = time.monotonic() - started
    for _ in range(changes):
        folder, out = Path(tempfile.mkdtemp(dir=work)), Path(tempfile.mkdtemp(dir=work))
        Image.fromarray(states[0]).save(folder / "head0.png")
        timer = threading.Timer(
            rng.uniform(0, seconds), lambda at=folder: Image.fromarray(states[1]).save(at / "head0.png")
        )
        timer.start()
        said = sentence(folder, out)
        timer.join()
        found = tree(out)
        if said:
            refused += 1
            assert (
                "changed while it was read" in (out / "summary.csv").read_text()
                or "cannot be read" in (out / "summary.csv").read_text()
            ), said
            assert not (out / "head0").exists()
        else:
            assert found["head0/head0_anomaly.nii.gz"] in allowed, "a result of half a file"
    return {"changes": changes, "refused": refused, "results_of_one_state": changes - refused}


def two_at_once(work: Path, cohort: Path, races: int) -> dict[str, int]:
    """Two commands on one output folder: one does the work, the other says so, or comes late and finds it done."""
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(BUNDLE)]
    command += ["--config_file", str(BUNDLE / "configs" / "inference.json"), "--dataset_dir", str(cohort)]
    command += ["--device", "cpu", "--save_picture", "false", "--output_dir"]
    alone = work / "alone"  # the folder remembers the options, so those of the other parts will not do
    subprocess.run([*command, str(alone)], check=True, capture_output=True)
    expected, refused = tree(alone), 0
    for index in range(races):
        out = work / f"race{index}"
        runs = [
            subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            for _ in "ab"
        ]
        ends = [(run.communicate()[1], run.returncode) for run in runs]
        assert any(code == 0 for _, code in ends), ends
        for text, code in ends:
            if code:
                refused += 1
                assert "is in use by another run" in text.strip().splitlines()[-1], text
                assert "Traceback" not in text
        assert tree(out) == expected
    return {"races": races, "refused": refused, "identical_folders": races}


def main(sizes: int = SIZES, changes: int = CHANGES, races: int = RACES) -> None:
    """All of it, into the record."""
    if os.geteuid():
        sys.exit("make soak-disks mounts file systems: run it as root.")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="phanes-disks-") as name:
        work = Path(name)
        cohort = make_cohort(work / "in")
        assert sentence(cohort, work / "undisturbed") == ""
        expected = tree(work / "undisturbed")
        record(
            "disks",
            {
                "full_disk": full_disks(work, cohort, expected, sizes),
                "read_only_says": read_only_disk(work, cohort, expected),
                "changing_input": changing_inputs(work, expected, changes),
                "two_at_once": two_at_once(work, cohort, races),
            },
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
