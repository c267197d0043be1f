"""`python -m scripts benchmark`: measure, write performance.json, and the page made from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from ...common.errors import PhanesInputError
from ..evaluation.store import write_text
from . import subjects
from .command import cohort, starts, whole_head
from .measure import Work, alternate, load, machine, spread_of

PARTS = ("networks", "runtimes", "shares", "training", "start", "head", "cohort", "avx2")
BATCH = {"cpu": 8, "cuda": 64}  # slices of an analysis
TRAINING_BATCH = 8  # published
# Of PyTorch, oneDNN and MKL: no instructions beyond AVX2.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def benchmark(
    out: str = "benchmark",
    head: str = "",
    cohort_heads: str = "",
    heads: int = 20,
    device: str = "",
    rounds: int = 5,
    threads: int = 0,
    clock: str = "wall",
    parts: str | Sequence[str] = PARTS,
) -> None:
    """Measure what PHANES costs, beside the published composition; run it from the repository's root.

    Writes OUT/performance.json and OUT/performance.md. Parts that an earlier run left in OUT stay.

    Args:
        out: folder.
        head: raw T1w head; the demo's, if none is given.
        cohort_heads: folder of heads that the cohort repeats; the head, if none is given.
        heads: of the cohort.
        device: cpu or cuda; the GPU where there is one.
        rounds: runs of each piece of work, all in turn.
        threads: of PyTorch; 0 leaves its own choice.
        clock: wall, or cpu (processor time), for a machine with other work on it.
        parts: which of networks, shares, training, start, head, cohort and avx2 (networks and training once more,
            without newer instructions).

    Raises:
        PhanesInputError: an unknown part or clock, no head, or no configs here.
    """
    chosen = parts.split(",") if isinstance(parts, str) else list(parts)
    if unknown := [name for name in chosen if name not in PARTS]:
        raise PhanesInputError(f"parts names {', '.join(unknown)}: choose among {', '.join(PARTS)}.")
    if clock not in ("wall", "cpu"):
        raise PhanesInputError(f"clock is '{clock}': give wall or cpu.")
    if not subjects.CONFIGS.is_dir():
        raise PhanesInputError(f"No configs in '{subjects.CONFIGS}': run this command from the repository's root.")
    if missing := [path for path in (head, cohort_heads) if path and not Path(path).exists()]:
        raise PhanesInputError(f"'{missing[0]}' not found: give a head, or leave it out.")
    if threads:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    stored = Path(out) / "performance.json"
    result: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {"taken": {}}
    result |= {"machine": machine(place), "device": place.type, "clock": clock}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = Path(head) if head else subjects.demo_head(folder / "demo")
        volume, steps = subjects.read_head(file, clock)
        volume = volume.to(place)

        def times(works: dict[str, Work]) -> dict[str, dict[str, float]]:
            return alternate(works, rounds, place, clock)

        measures: dict[str, Callable[[], Any]] = {
            "networks": lambda: networks(volume, times),
            "runtimes": lambda: runtimes(volume, times),
            "shares": lambda: shares(volume, rounds, clock),
            "training": lambda: {
                name: times(works) for name, works in subjects.training_steps(volume, TRAINING_BATCH).items()
            },
            "start": lambda: starts(volume[0, 0, :, :, volume.shape[-1] // 2].cpu().numpy(), folder, rounds),
            "head": lambda: {
                "shape": header_of(file),
                "register": steps["AlignHeadd"],
                **whole_head(file, folder, rounds, place.type),
            },
            "cohort": lambda: cohort(Path(cohort_heads) if cohort_heads else file, folder, heads, place.type),
            "avx2": lambda: without_newer_instructions(folder, file, rounds, clock),
        }
        for part in chosen:
            if part == "avx2" and (place.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX2"):
                continue
            print(f"{part} ...", flush=True)
            before = load()
            result[part] = measures[part]()
            result["taken"][part] = {"rounds": rounds, "load": [before, load()]}
            write_text(stored, json.dumps(result, indent=1) + "\n")
            write_text(Path(out) / "performance.md", render(result) + "\n")
    print(Path(out) / "performance.md")


Times = Callable[[dict[str, Work]], dict[str, dict[str, float]]]


def middle_of(head: Tensor) -> Tensor:
    """As many of the head's middle levels as are analysed together: (1, 2, 128, 128, N)."""
    batch = min(BATCH[head.device.type], head.shape[-1])
    first = (head.shape[-1] - batch) // 2
    return head[..., first : first + batch].contiguous()


def networks(head: Tensor, times: Times) -> dict[str, Any]:
    """Seconds for a batch of slices: as shipped, and as published."""
    levels = middle_of(head)
    return {"batch": levels.shape[-1], "seconds": times(subjects.analyses(subjects.networks(head.device), levels))}


def runtimes(head: Tensor, times: Times) -> dict[str, Any]:
    """Seconds for a batch of slices by PyTorch and by other runtimes, with the same weights, on the CPU."""
    levels = middle_of(head).cpu()
    works = subjects.runtimes(subjects.networks(levels.device)["both"], levels)
    return {"batch": levels.shape[-1], "seconds": times(works)}


def shares(head: Tensor, rounds: int, clock: str) -> dict[str, Any]:
    """Seconds of the method's parts on a whole head, and the share outside of the networks."""
    network = subjects.networks(head.device)["both"]
    subjects.shares(network, head, clock)
    runs = [subjects.shares(network, head, clock) for _ in range(rounds)]
    seconds = {part: spread_of([each[part] for each in runs]) for part in runs[0]}
    outside = [1 - sum(each[part] for part in subjects.NETWORKS) / sum(each.values()) for each in runs]
    return {"levels": head.shape[-1], "seconds": seconds, "outside": spread_of(outside)}


def header_of(file: Path) -> list[int]:
    """Voxels of a head along its axes."""
    import nibabel as nib

    return [int(side) for side in nib.load(file).shape]  # type: ignore[attr-defined]


def without_newer_instructions(folder: Path, head: Path, rounds: int, clock: str) -> dict[str, Any]:
    """Networks and training once more, in a process that knows AVX2 and nothing newer."""
    words = ["--out", folder / "avx2", "--head", head, "--rounds", rounds, "--clock", clock, "--device", "cpu"]
    command = [sys.executable, "-m", "scripts", "benchmark", *(str(word) for word in words)]
    command += ["--threads", str(torch.get_num_threads()), "--parts", "networks,training"]
    subprocess.run(command, env={**os.environ, **AVX2}, check=True)  # noqa: S603
    found = json.loads((folder / "avx2" / "performance.json").read_text(encoding="utf-8"))
    return {name: found[name] for name in ("networks", "training")}


def render(result: dict[str, Any]) -> str:
    """The page as Markdown.

    Args:
        result: what `benchmark` wrote as performance.json; parts may be missing.
    """
    # Markdown, not HTML: nothing to escape.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=_number)
    return environment.get_template("performance.md.j2").render(**result).strip()


def _number(value: float, digits: int = 3) -> str:
    """Significant digits, no exponent below a million."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
