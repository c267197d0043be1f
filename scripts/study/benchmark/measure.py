"""Clocks, memory and machine: what every number of the benchmark is taken with."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]


@dataclass
class Timing:
    """Repeated measurements of one piece of work, in seconds.

    Attributes:
        wall: by the clock on the wall.
        cpu: processor time of this process, all threads; other load on the machine does not add to it, though it does
            compete for caches.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def record(self, clock: str) -> dict[str, float]:
        """Median and quartiles of one clock, and the number of runs."""
        values = getattr(self, clock)
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return {"median": float(median), "low": float(low), "high": float(high), "runs": len(values)}


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(works: Mapping[str, Work], rounds: int, device: torch.device, warm_up: int = 1) -> dict[str, Timing]:
    """Measure pieces of work in turn, A B C A B C ..., so that a change of the machine's mood meets them all.

    Args:
        works: by name.
        rounds: measured runs of each.
        device: waited for before each reading of the clocks.
        warm_up: runs of each before, which do not count.
    """
    for work in works.values():
        for _ in range(warm_up):
            work()
    timings = {name: Timing() for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wait_for(device)
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            wait_for(device)
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].cpu.append(time.process_time() - cpu)
    return timings


def peak_memory(work: Work, device: torch.device) -> float | None:
    """Highest memory during a run, in MiB: allocated on a GPU; on the CPU resident beyond what the process held before.

    None where the system does not say (on the CPU: anything but Linux).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier runs left
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = resident_memory()
        work()
        return resident_memory("VmHWM") - before
    except (OSError, KeyError):
        return None


def resident_memory(name: str = "VmRSS") -> float:
    """Resident memory of this process in MiB, now (VmRSS) or at its highest (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1024


def flops(work: Work) -> float:
    """Floating-point operations of the matrix products and convolutions of a run (two for a multiplication and its
    addition); elementwise work is not counted."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by instructions of its own; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were taken on; `load` is the number of processes that wanted a processor just now."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16(device),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
