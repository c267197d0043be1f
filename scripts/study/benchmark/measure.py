"""Clocks, memory and machine of all the benchmark's measurements."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

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
    """Times parts of a network in a call of the whole. The time of a part excludes the parts inside of it.

    Args:
        network: the whole, with submodules that are called.
        parts: names of the timed submodules; the time outside of them is `rest`.
        device: waited for before each reading of the clock.
        clock: see `alternate`.
    """

    def __init__(self, network: nn.Module, parts: list[str], device: torch.device, clock: str) -> None:
        self.network = network
        self.parts = {"rest": network} | {name: network.get_submodule(name) for name in parts}
        self.device = device
        self.clock = CLOCKS[clock]
        self.seconds: dict[str, float] = {}
        self._open: list[tuple[str, float, float]] = []  # name, start, seconds of parts inside

    def __call__(self, *inputs: Any) -> dict[str, float]:
        """Seconds of each part in one call; they add up to the call's."""
        self.seconds = dict.fromkeys(self.parts, 0.0)
        hooks = [
            hook
            for name, part in self.parts.items()
            for hook in (
                part.register_forward_pre_hook(lambda *_, name=name: self._begin(name)),
                part.register_forward_hook(lambda *_: self._end()),
            )
        ]
        try:
            with torch.inference_mode():
                self.network(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return self.seconds

    def _begin(self, name: str) -> None:
        wait_for(self.device)
        self._open.append((name, self.clock(), 0.0))

    def _end(self) -> None:
        wait_for(self.device)
        name, start, inside = self._open.pop()
        elapsed = self.clock() - start
        self.seconds[name] += elapsed - inside
        if self._open:
            outer, began, others = self._open.pop()
            self._open.append((outer, began, others + elapsed))


def peak_memory(work: Work, device: torch.device) -> float | None:
    """Highest memory during a run, MiB. On a GPU: allocated. On the CPU: resident beyond what the process held before.

    None where the system does not report it (on the CPU: anything but Linux).
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
        before = _resident_memory("VmRSS")
        work()
        return _resident_memory("VmHWM") - before
    except (OSError, KeyError):
        return None


def _resident_memory(name: str) -> float:
    """MiB of this process, now (VmRSS) or at its highest (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1024


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has its own instructions for bfloat16 products; elsewhere bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


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
