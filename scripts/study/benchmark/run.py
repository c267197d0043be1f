"""`python -m scripts benchmark`: measure, write performance.json, and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from ...common.errors import PhanesInputError
from ..evaluation.store import write_text
from . import subjects
from .command import measure_command, measure_processes
from .measure import Stopwatch, alternate, load, machine, peak_memory, spread_of

PARTS = ("inference", "stages", "training", "command", "processes", "runtimes")
# On a CPU the published size takes minutes for 32 slices: there its largest batch is 8.
BATCHES = {"cpu": (1, 8, 32), "cuda": (1, 8, 64)}
BATCH = 8
# Where the networks compute; the trunk is what `SpatialLPIPS` calls for its features.
NETWORKS = ("autoencoder", "inpainter", "perceptual")


class Bench:
    """Settings shared by all parts.

    Args:
        device: where to measure.
        rounds: runs of everything, in turn.
        clock: see `measure.alternate`.
        images: (N, 1, 128, 128) on the device.
        quick: smallest batches and networks only: shows that everything runs.
    """

    def __init__(self, device: torch.device, rounds: int, clock: str, images: Tensor, quick: bool) -> None:
        self.device = device
        self.rounds = rounds
        self.clock = clock
        self.images = images
        self.quick = quick

    def first(self, count: int) -> Tensor:
        """The middle `count` slices of the head, or one when quick; slices repeat where the head has too few."""
        count = 1 if self.quick else count
        if count > len(self.images):
            return self.images.repeat(-(-count // len(self.images)), 1, 1, 1)[:count]
        start = max(0, (len(self.images) - count) // 2)
        return self.images[start : start + count]

    def rows(self, works: dict[str, Callable[[], object]], **about: Any) -> list[dict[str, Any]]:
        """One row for each piece of work: `system`, its seconds, and the values that all rows share."""
        measured = alternate(works, self.rounds, self.device, self.clock)
        return [{**about, "system": system, "seconds": seconds} for system, seconds in measured.items()]


def inference(bench: Bench) -> list[dict[str, Any]]:
    """Ours and as published, at each size and batch, and a volume."""
    rows = []
    for size, network in subjects.networks(bench.images, bench.device).items():
        batches = BATCHES[bench.device.type]
        for batch in (1,) if bench.quick else batches if size == "shipped" else batches[:2]:
            works = subjects.compositions(network, bench.first(batch))
            rows += _with_memory(bench, works, bench.rows(works, size=size, batch=str(batch), slices=batch))
        if size == "shipped":
            works = subjects.compositions(network, bench.images, BATCH)
            name = f"volume of {len(bench.images)}"
            rows += _with_memory(bench, works, bench.rows(works, size=size, batch=name, slices=len(bench.images)))
    return rows


def _with_memory(bench: Bench, works: dict, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "peak_mib": peak_memory(works[row["system"]], bench.device)} for row in rows]


def stages(bench: Bench) -> dict[str, Any]:
    """Time of each part of the shipped network, at one batch size."""
    network, images = subjects.networks(bench.images, bench.device)["shipped"], bench.first(BATCH)
    inside = [f"perceptual.{name}" for name, _ in network.perceptual.named_children()]
    parts = [name for name, _ in network.named_children()] + inside
    watch = Stopwatch(network, parts, bench.device, bench.clock)
    watch(images)
    runs = [watch(images) for _ in range(bench.rounds)]
    total = float(np.median([sum(run.values()) for run in runs]))
    rows, other = [], 0.0
    for name in watch.parts:
        seconds = spread_of([run[name] for run in runs])
        share = seconds["median"] / total
        kind = "network" if name.split(".")[0] in NETWORKS else "other"
        other += share if kind == "other" else 0.0
        if seconds["median"]:
            rows.append({"stage": name, "kind": kind, "seconds": seconds, "share": share})
    return {"batch": len(images), "rows": rows, "outside_networks": other}


def training(bench: Bench, size: str) -> list[dict[str, Any]]:
    """Steps of both stages."""
    images = bench.first(BATCH)
    return [
        row
        for stage, works in subjects.training_steps(size, images).items()
        for row in bench.rows(works, size=size, stage=stage, batch=len(images))
    ]


def runtimes(bench: Bench) -> dict[str, Any]:
    """Ours beside other runtimes, as far as they are installed."""
    network, images = subjects.networks(bench.images, bench.device)["shipped"], bench.first(BATCH)
    return {"batch": len(images), "rows": bench.rows(subjects.runtimes(network, images))}


def benchmark(
    out: str = "benchmark",
    device: str = "",
    rounds: int = 10,
    threads: int = 0,
    clock: str = "wall",
    parts: str | Sequence[str] = PARTS,
    training_size: str = "compact",
    cohort: int = 12,
    quick: bool = False,
) -> None:
    """Measure what PHANES costs, beside the published composition; run it from the repository's root.

    Writes OUT/performance.json and OUT/performance.md.

    Args:
        out: folder.
        device: cpu or cuda; the GPU where there is one.
        rounds: runs of each piece of work, all in turn.
        threads: of PyTorch; 0 leaves its own choice.
        clock: wall, or cpu (processor time), for a machine with other work on it.
        parts: which of inference, stages, training, command, processes and runtimes.
        training_size: compact or paper.
        cohort: cases of the larger runs of command and processes.
        quick: the smallest of everything: shows that all runs, not how fast.

    Raises:
        PhanesInputError: an unknown part or clock, or no configs here.
    """
    chosen = parts.split(",") if isinstance(parts, str) else list(parts)
    if unknown := [name for name in chosen if name not in PARTS]:
        raise PhanesInputError(f"parts names {', '.join(unknown)}: choose among {', '.join(PARTS)}.")
    if clock not in ("wall", "cpu"):
        raise PhanesInputError(f"clock is '{clock}': give wall or cpu.")
    if not subjects.CONFIGS.is_dir():
        raise PhanesInputError(f"No configs in '{subjects.CONFIGS}': run this command from the repository's root.")
    if threads:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    images = subjects.template_slices(range(94, 96) if quick else subjects.LEVELS).to(place)
    middle = images[len(images) // 2, 0].cpu()
    bench = Bench(place, rounds, clock, images, quick)
    result: dict[str, Any] = {"machine": machine(place), "device": place.type, "clock": clock, "taken": {}}
    measures: dict[str, Callable[[], Any]] = {
        "inference": lambda: inference(bench),
        "stages": lambda: stages(bench),
        "training": lambda: training(bench, training_size),
        "command": lambda: measure_command(middle, min(rounds, 3), cohort, place.type),
        "processes": lambda: measure_processes(middle, cohort, place.type),
        "runtimes": lambda: runtimes(bench),
    }
    for part in chosen:
        print(f"{part} ...", flush=True)
        before = load()
        result[part] = measures[part]()
        result["taken"][part] = {"rounds": rounds, "load": [before, load()]}
        text, page = json.dumps(result, indent=1) + "\n", render(result) + "\n"
        write_text(Path(out) / "performance.json", text)
        write_text(Path(out) / "performance.md", page)
    print(Path(out) / "performance.md")


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
    return environment.get_template("performance.md.j2").render(**result)


def _number(value: float | None, digits: int = 3) -> str:
    """Significant digits, no exponent below a million; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
