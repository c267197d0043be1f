"""The command line as a user starts it, in processes of its own: start-up, time and memory of a case."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

IMPORTS = ["-c", "import torch, monai"]
FIRST_RESULT = [
    "-c",
    "import torch, monai; from scripts.export import bundle_network; network, size = bundle_network('bundle'); "
    "torch.set_grad_enabled(False); network(torch.rand(1, 1, size, size))",
]


@dataclass
class Process:
    """What a process took: seconds by the clock, processor seconds, highest resident memory in MiB."""

    wall: float
    cpu: float
    peak_mib: float


def run(arguments: list[str]) -> Process:
    """Run this Python with arguments and wait for its end.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:200]} ended with status {child.returncode}")
    return Process(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def write_cases(image: Tensor, folder: Path, count: int) -> Path:
    """A folder with one slice as so many PNG cases (links to one file); image: (H, W) in [0, 1]."""
    folder.mkdir(parents=True)
    first = folder / "case0.png"
    Image.fromarray(np.round(image.numpy() * 255).astype(np.uint8)).resize((197, 233)).save(first)
    for number in range(1, count):
        (folder / f"case{number}.png").symlink_to(first)
    return folder


def measure_command(image: Tensor, rounds: int, cohort: int, device: str) -> dict[str, Any]:
    """Start-up and the cost of a case: processes in turn.

    Args:
        image: (H, W) in [0, 1].
        rounds: of the start-up processes.
        cohort: cases of the larger run; its cost beyond that of one case, divided, is the cost of a further case.
        device: of the command.

    Returns:
        Medians in seconds, memory in MiB.
    """
    where = ["-m", "monai.bundle", "run", "inference", "--bundle_root", "bundle"]
    where += ["--config_file", "bundle/configs/inference.json", "--device", device]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one, many = write_cases(image, root / "one", 1), write_cases(image, root / "many", cohort)
        started: dict[str, list[Process]] = {"imports": [], "first result": [], "command": []}
        for number in range(rounds):
            started["imports"].append(run(IMPORTS))
            started["first result"].append(run(FIRST_RESULT))
            out = ["--dataset_dir", str(one), "--output_dir", str(root / f"out{number}")]
            started["command"].append(run([*where, *out]))
        whole = run([*where, "--dataset_dir", str(many), "--output_dir", str(root / "out_many")])
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
