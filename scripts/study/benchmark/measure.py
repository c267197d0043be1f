"""Clocks and machine of all the benchmark's measurements."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

Work = Callable[[], object]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(works: Mapping[str, Work], rounds: int, device: torch.device, clock: str) -> dict[str, dict[str, float]]:
    """Measure pieces of work in turn, A B C A B C ..., so that a slow spell of the machine meets them all.

    Args:
        works: by name; each runs once before it is measured.
        rounds: measured runs of each.
        device: waited for before each reading of the clock.
        clock: `wall`, or `cpu`: processor time of this process, which other work on the machine does not change.

    Returns:
        By name: median and quartiles (`low`, `high`) in seconds, and the number of `runs`.
    """
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wait_for(device)
            start = CLOCKS[clock]()
            work()
            wait_for(device)
            taken[name].append(CLOCKS[clock]() - start)
    return {name: spread_of(seconds) for name, seconds in taken.items()}


def spread_of(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and number of repeated measurements."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high), "runs": len(seconds)}


class Stopwatch:
    """Times methods of objects while a piece of work runs. No timed method may call another one.

    Args:
        methods: of each part: the objects and the names of their methods.
        device: waited for before each reading of the clock.
        clock: see `alternate`.
    """

    def __init__(self, methods: Mapping[str, list[tuple[Any, str]]], device: torch.device, clock: str) -> None:
        self.methods = methods
        self.device = device
        self.clock = CLOCKS[clock]
        self.seconds: dict[str, float] = {}

    def __call__(self, work: Work) -> dict[str, float]:
        """Seconds of each part in one run of the work, and of the `rest`."""
        self.seconds = dict.fromkeys(self.methods, 0.0)
        timed = [(item, method, part) for part, pairs in self.methods.items() for item, method in pairs]
        for item, method, part in timed:
            item.__dict__[method] = self._timed(getattr(item, method), part)
        start = self.clock()
        try:
            work()
            wait_for(self.device)
            self.seconds["rest"] = self.clock() - start - sum(self.seconds.values())
        finally:
            for item, method, _ in timed:
                del item.__dict__[method]
        return self.seconds

    def _timed(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            wait_for(self.device)
            start = self.clock()
            result = method(*args, **kwargs)
            wait_for(self.device)
            self.seconds[part] += self.clock() - start
            return result

        return run


def load() -> float | None:
    """Number of processes that want a processor, averaged over the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions that the numbers belong to."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
