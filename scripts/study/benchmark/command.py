"""The command as a user starts it, in processes of its own: start, a slice, a head, a cohort."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...common.errors import PhanesInputError
from .measure import spread_of

ACCOUNTED = """
import json, os, sys, time
nowhere = os.open(os.devnull, os.O_WRONLY)
silent = [(os.POSIX_SPAWN_DUP2, nowhere, 1), (os.POSIX_SPAWN_DUP2, nowhere, 2)]
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, usage = os.wait4(child, 0)
unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss
print(json.dumps({"wall": time.perf_counter() - start, "cpu": usage.ru_utime + usage.ru_stime,
                  "peak_mib": usage.ru_maxrss / unit, "status": os.waitstatus_to_exitcode(status)}))
"""
"""Starts a command, waits for its end and accounts for it. A process of its own, and a small one: on Linux the highest
memory of a process begins at that of the process that started it, and a look at it from outside misses the end."""


@dataclass
class Process:
    """What a process took: seconds by the clock, processor seconds, highest resident memory in MiB."""

    wall: float
    cpu: float
    peak_mib: float


def run(arguments: Sequence[str | Path], threads: int = 0) -> Process:
    """Run this Python with arguments and wait for its end.

    Processor time includes the processes that it started and waited for. Memory is that of the largest process.

    Args:
        arguments: of the interpreter.
        threads: OMP_NUM_THREADS of the process; 0 leaves it.

    Raises:
        RuntimeError: it failed.
    """
    variables = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    words = [sys.executable, *(str(word) for word in arguments)]
    command = [sys.executable, "-I", "-S", "-c", ACCOUNTED, *words]
    said = subprocess.run(command, stdout=subprocess.PIPE, env=variables, text=True, check=True).stdout  # noqa: S603
    account = json.loads(said)
    if account["status"]:
        raise RuntimeError(f"{' '.join(words[1:])[:200]} ended with status {account['status']}")
    return Process(account["wall"], account["cpu"], account["peak_mib"])


def starts(middle: np.ndarray, folder: Path, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """`phanes --help`, and `phanes` on a PNG of one slice with every output; middle: (H, W) in [0, 1]."""
    picture = folder / "slice.png"
    Image.fromarray(np.round(middle * 255).astype(np.uint8)).resize((233, 233)).save(picture)
    runs: dict[str, list[Process]] = {"help": [], "slice": []}
    for number in range(rounds):
        runs["help"].append(run(["-m", "phanes", "--help"]))
        runs["slice"].append(run(["-m", "phanes", picture, folder / f"slice{number}"]))
    return {name: _spread(taken) for name, taken in runs.items()}


def whole_head(head: Path, folder: Path, rounds: int, device: str) -> dict[str, Any]:
    """`phanes` on one head, from the file to every output: the process, and the steps as its run.json has them."""
    taken, steps = [], []
    for number in range(rounds):
        out = folder / f"head{number}"
        taken.append(run(["-m", "phanes", head, out, "--device", device]))
        (case,) = json.loads((out / "run.json").read_text(encoding="utf-8"))["cases"].values()
        steps.append(case["seconds"])
    around = [process.wall - sum(each.values()) for process, each in zip(taken, steps, strict=True)]
    rows = {"start, and the page of all cases": spread_of(around)}
    rows |= {name: spread_of([each[name] for each in steps]) for name in steps[0]}
    return {**_spread(taken), "peak_mib": max(process.peak_mib for process in taken), "steps": rows}


def _spread(taken: list[Process]) -> dict[str, dict[str, float]]:
    return {clock: spread_of([getattr(process, clock) for process in taken]) for clock in ("wall", "cpu")}


def cohort(heads: Path, folder: Path, count: int, device: str) -> dict[str, Any]:
    """A further head of a cohort, by one process and by two under torchrun, with one thread each.

    Args:
        heads: a head, or a folder of heads; a cohort repeats them.
        folder: for cases and results.
        count: heads of the cohort of two processes. One process analyses a quarter of them.
        device: of the command.

    Returns:
        Seconds and highest memory by processes, and the ratio of the seconds. The time of two heads is subtracted, as
        it holds the start.
    """
    files = [heads] if heads.is_file() else sorted(path for path in heads.iterdir() if path.name.endswith(".nii.gz"))
    if not files:
        raise PhanesInputError(f"'{heads}' holds no heads (.nii.gz): give a head or a folder of heads.")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result: dict[str, Any] = {"heads": count, "seconds": {}, "peak_mib": {}}
    for name, start, overlays, large in (
        ("one", [], [], max(count // 4, 3)),
        ("two", torchrun, ["multi_gpu_inference"], max(count, 4)),
    ):
        configs = str([f"bundle/configs/{config}.json" for config in ("inference", *overlays)])
        command = [*start, "-m", "monai.bundle", "run", "inference", "--bundle_root", "bundle"]
        taken = []
        for number in (2, large):
            cases, out = folder / f"{name}{number}", folder / f"{name}{number}_out"
            cases.mkdir()
            for case in range(number):
                (cases / f"case{case}.nii.gz").symlink_to(files[case % len(files)].resolve())
            places = ["--dataset_dir", str(cases), "--output_dir", str(out)]
            places += [] if overlays else ["--device", device]
            taken.append(run([*command, "--config_file", configs, *places], threads=1))
        result["seconds"][name] = (taken[1].wall - taken[0].wall) / (large - 2)
        result["peak_mib"][name] = {"2": taken[0].peak_mib, str(large): taken[1].peak_mib}
    return {**result, "speed": result["seconds"]["one"] / result["seconds"]["two"]}
