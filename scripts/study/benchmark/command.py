"""The command line as a user starts it, in processes of its own: start-up, time and memory of a case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

IMPORTS = ["-c", "import torch, monai"]
FIRST_RESULT = [
    "-c",
    "import torch, monai; from scripts.release.export import bundle_network; "
    "network = bundle_network('bundle', overlays=['paper.json']); "
    "torch.set_grad_enabled(False); network(torch.rand(1, 1, 128, 128))",
]

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


def run(arguments: list[str], threads: int = 0) -> Process:
    """Run this Python with arguments and wait for its end.

    Processor time includes the processes that it started and waited for. Memory is that of the largest process.

    Args:
        arguments: of the interpreter.
        threads: OMP_NUM_THREADS of the process; 0 leaves it.

    Raises:
        RuntimeError: it failed.
    """
    variables = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [sys.executable, "-I", "-S", "-c", ACCOUNTED, sys.executable, *arguments]
    said = subprocess.run(command, stdout=subprocess.PIPE, env=variables, text=True, check=True).stdout  # noqa: S603
    account = json.loads(said)
    if account["status"]:
        raise RuntimeError(f"{' '.join(arguments)[:200]} ended with status {account['status']}")
    return Process(account["wall"], account["cpu"], account["peak_mib"])


def write_cases(image: Tensor, folder: Path, count: int) -> Path:
    """Fill a folder with `count` PNG cases of one slice, which are links to one file; image: (H, W) in [0, 1]."""
    folder.mkdir(parents=True)
    first = folder / "case0.png"
    Image.fromarray(np.round(image.numpy() * 255).astype(np.uint8)).resize((197, 233)).save(first)
    for number in range(1, count):
        (folder / f"case{number}.png").symlink_to(first)
    return folder


def inference(folder: Path, out: Path, device: str, *overlays: str) -> list[str]:
    """Arguments of `monai.bundle run inference` on a folder of cases."""
    files = [f"bundle/configs/{name}.json" for name in ("inference", *overlays)]
    where = ["-m", "monai.bundle", "run", "inference", "--bundle_root", "bundle", "--config_file", str(files)]
    return [*where, "--device", device, "--dataset_dir", str(folder), "--output_dir", str(out)]


def measure_command(image: Tensor, rounds: int, cohort: int, device: str) -> dict[str, Any]:
    """Start-up and the cost of a case: processes in turn.

    Args:
        image: (H, W) in [0, 1].
        rounds: of the start-up processes.
        cohort: cases of the larger run. The cost of a further case is what this run costs beyond one case, divided by
            the further cases.
        device: of the command.

    Returns:
        Medians in seconds, memory in MiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one, many = write_cases(image, root / "one", 1), write_cases(image, root / "many", cohort)
        started: dict[str, list[Process]] = {"imports": [], "first result": [], "command": []}
        for number in range(rounds):
            started["imports"].append(run(IMPORTS))
            started["first result"].append(run(FIRST_RESULT))
            started["command"].append(run(inference(one, root / f"out{number}", device)))
        whole = run(inference(many, root / "out_many", device))
    result: dict[str, Any] = {"rounds": rounds, "cohort": cohort}
    for clock in ("wall", "cpu"):
        medians = {name: float(np.median([getattr(p, clock) for p in runs])) for name, runs in started.items()}
        result[clock] = {
            **medians,
            "first result beyond imports": medians["first result"] - medians["imports"],
            "command beyond imports": medians["command"] - medians["imports"],
            "a further case": (getattr(whole, clock) - medians["command"]) / (cohort - 1),
        }
    result["peak_mib"] = {"one case": max(p.peak_mib for p in started["command"]), f"{cohort} cases": whole.peak_mib}
    return result


def measure_processes(image: Tensor, cohort: int, device: str) -> dict[str, Any]:
    """Wall-clock cost of a further case, for one process and for two under torchrun, with one thread each.

    Args:
        image: (H, W) in [0, 1].
        cohort: cases of the larger runs. The time of two cases is subtracted, as it holds the start-up.
        device: of the command.

    Returns:
        Seconds of a further case by processes, and their ratio.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        folders = {count: write_cases(image, root / str(count), count) for count in (2, cohort)}
        for name, start, overlays in (("one", [], ()), ("two", torchrun, ("multi_gpu_inference",))):
            walls = {}
            for count, cases in folders.items():
                arguments = inference(cases, root / f"{name}{count}", device, *overlays)
                walls[count] = run([*start, *arguments], threads=1).wall
            seconds[name] = (walls[cohort] - walls[2]) / (cohort - 2)
    return {"cohort": cohort, "seconds": seconds, "speed": seconds["one"] / seconds["two"]}
