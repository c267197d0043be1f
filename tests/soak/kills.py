"""`make soak-kills`: `kill -9` at random moments of a cohort run and of a training, then the same job again.

Each trial begins with nothing, is killed once (half of them when some time has passed, half just before something is
written), and is then run to its end. Runs are forked from a process that has imported everything, so that the moments
fall into the work itself.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from tests.conftest import BUNDLE, head_slice, ras_of_slice, run_inference
from tests.pipeline.bad_inputs import series
from tests.pipeline.faults import Moments, killed_after, killed_at, tree
from tests.pipeline.test_interruptions import curve, stamps, train
from tests.soak.record import record

TRIALS, SEED = 50, 8
COMPARED = ("network.pt", "checkpoints/best.pt", "checkpoints/checkpoint.pt")


def make_cohort(folder: Path) -> Path:
    """Four slices, a volume, a DICOM series and a file that is no image."""
    folder.mkdir()
    for n in range(4):
        Image.fromarray(head_slice(n)).save(folder / f"head{n}.png")
    volume = np.repeat(ras_of_slice(head_slice(5)), 3, axis=2)
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1, 1, 1])), folder / "volume.nii.gz")
    (folder / "series").mkdir()
    series(folder / "series")
    (folder / "broken.nii.gz").write_text("no image")
    return folder


def analyse(cohort: Path, out: Path) -> None:
    """The main job; that a case fails is part of it."""
    try:
        run_inference(BUNDLE, cohort, out, align="geometric")
    except RuntimeError:
        if not (out / "summary.csv").is_file():
            raise


def kill(rng: random.Random, index: int, moments: int, seconds: float, out: Path, job: Callable[[], object]) -> bool:
    """One kill at a random moment, by the clock or by what is about to be written."""
    if index % 2:
        return killed_after(rng.uniform(0.02, 1.0) * seconds, job)
    return killed_at(rng.randrange(1, moments + 1), out, job)


def measured(out: Path, job: Callable[[], object]) -> tuple[int, float]:
    """How often an undisturbed job writes, and how long it takes."""
    started = time.monotonic()
    with Moments(out) as moments:
        job()
    return moments.count, time.monotonic() - started


def cohort_kills(work: Path, trials: int) -> dict[str, int | float]:
    """See the module's text; raises AssertionError where a promise is broken."""
    cohort, rng = make_cohort(work / "in"), random.Random(SEED)
    undisturbed = work / "undisturbed"
    moments, seconds = measured(undisturbed, lambda: analyse(cohort, undisturbed))
    expected, kills, kept, index = tree(undisturbed), 0, 0, 0
    while kills < trials:
        out = work / f"out{index}"

        def job(out: Path = out) -> None:
            analyse(cohort, out)

        if kill(rng, index, moments, seconds, out, job):
            kills += 1
            finished = stamps(out) if out.exists() else {}
            kept += len({Path(path).parent for path in finished})
            assert not killed_at(0, out, job)
            again = stamps(out)
            assert {path: again.get(path) for path in finished} == finished, "a finished case was done again"
            assert tree(out) == expected, f"the folder differs from an undisturbed run's: {out}"
            print(f"cohort: {kills} kills, {kept} finished cases kept", flush=True)
        index += 1
    return {"kills": kills, "cases": 7, "identical_folders": kills, "finished_cases_kept": kept, "done_again": 0}


def training_kills(work: Path, trials: int) -> dict[str, int | float]:
    """The same for a training: every step's loss, the weights and the checkpoints."""
    rng, undisturbed = random.Random(SEED), work / "undisturbed"
    moments, seconds = measured(undisturbed, lambda: train(undisturbed))
    expected, steps, kills, index, repeated = dict(map(tuple, curve(undisturbed))), 0, 0, 0, 0
    states = [repr(torch.load(undisturbed / name, weights_only=True)) for name in COMPARED]
    while kills < trials:
        out = work / f"out{index}"

        def job(out: Path = out) -> None:
            train(out)

        if kill(rng, index, moments, seconds, out, job):
            kills += 1
            assert not killed_at(0, out, job)
            ran = curve(out)
            steps, repeated = steps + len(ran), repeated + len(ran) - len(expected)
            assert set(dict(map(tuple, ran))) == set(expected), "a step is missing"
            assert all(expected[step] == loss for step, loss in ran), "a step came out differently"
            assert [repr(torch.load(out / name, weights_only=True)) for name in COMPARED] == states
        index += 1
    return {"kills": kills, "equal_curves": kills, "steps_compared": steps, "steps_repeated": repeated}


def main(trials: int = TRIALS) -> None:
    """Both, into the record."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="phanes-kills-") as name:
        for part, run in (("training_kills", training_kills), ("cohort_kills", cohort_kills)):
            work = Path(name, part)
            work.mkdir()
            record(part, run(work, trials))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
