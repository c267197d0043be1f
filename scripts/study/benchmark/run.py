"""`python -m scripts benchmark`: measure, write performance.json, and the page made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...common.errors import PhanesInputError
from ...common.files import write_atomically
from . import subjects, training
from .command import measure_command, measure_processes
from .measure import Timing, Work, alternate, flops, has_bfloat16, machine, peak_memory
from .page import render
from .targets import against_targets

PARTS = ("inference", "stages", "peers", "training", "command")
OPTIONAL_PARTS = ("runtimes", "processes")
BATCHES = {"shipped": (1, 8, 32), "one filling": (1, 8), "paper": (1, 8)}  # the published size takes minutes at 32
GPU_BATCHES = {"shipped": (1, 8, 32, 64), "one filling": (1, 8, 64), "paper": (1, 8, 64)}
VOLUME_BATCH = 8
TRAINING_BATCH = 8


class Bench:
    """Settings shared by all parts.

    Args:
        device: where to measure.
        rounds: runs of everything, in turn.
        clock: `wall`, or `cpu`: processor time of the process, for a machine with other work on it.
        images: (N, 1, 128, 128) on the device.
        quick: smallest batches and networks only: shows that everything runs.
    """

    def __init__(self, device: torch.device, rounds: int, clock: str, images: Tensor, quick: bool) -> None:
        self.device = device
        self.rounds = rounds
        self.clock = clock
        self.images = images
        self.quick = quick

    def time(self, works: dict[str, Work], rounds: int | None = None) -> dict[str, dict[str, float]]:
        """Medians and quartiles in seconds, by name."""
        timings: dict[str, Timing] = alternate(works, rounds or self.rounds, self.device)
        return {name: timing.record(self.clock) for name, timing in timings.items()}

    def first(self, count: int) -> Tensor:
        """So many slices from the middle of the head; beyond its ends they repeat."""
        if count > len(self.images):
            return self.images.repeat(-(-count // len(self.images)), 1, 1, 1)[:count]
        start = max(0, (len(self.images) - count) // 2)
        return self.images[start : start + count]


def _row(seconds: dict[str, float], slices: int, **more: Any) -> dict[str, Any]:
    return {**more, "slices": slices, "seconds": seconds, "slices_per_second": slices / seconds["median"]}


def inference(bench: Bench, networks: dict[str, Any]) -> list[dict[str, Any]]:
    """Ours, as published and the bare networks, at each size and batch, and a volume."""
    rows = []
    batches = BATCHES if bench.device.type == "cpu" else GPU_BATCHES
    for size, network in networks.items():
        composition = subjects.published(network, bench.device)
        for batch in (1,) if bench.quick else batches[size]:
            images = bench.first(batch)
            works: dict[str, Work] = {
                "ours": subjects.no_grad(partial(network, images)),
                "as published": partial(composition, images),
                "bare networks": subjects.bare(network, images),
            }
            if has_bfloat16(bench.device):
                works["ours, bfloat16"] = subjects.bfloat16(works["ours"], bench.device)
            measured = bench.time(works)
            for system, seconds in measured.items():
                memory = peak_memory(works[system], bench.device)
                rows.append(_row(seconds, batch, size=size, system=system, batch=batch, peak_mib=memory))
        if size == "shipped":
            images = bench.first(2) if bench.quick else bench.images
            works = {
                "ours": subjects.volume_work(network, images, VOLUME_BATCH),
                "as published": subjects.volume_work(composition, images, 1),  # its batches are wrong: one at a time
            }
            for system, seconds in bench.time(works).items():
                memory = peak_memory(works[system], bench.device)
                name = f"volume of {len(images)}"
                rows.append(_row(seconds, len(images), size=size, system=system, batch=name, peak_mib=memory))
    return rows


def stages(bench: Bench, networks: dict[str, Any]) -> dict[str, Any]:
    """Where our time goes, for the shipped network at one batch."""
    images = bench.first(1 if bench.quick else VOLUME_BATCH)
    works = subjects.stages(networks["shipped"], images)
    seconds = bench.time({name: work for name, (_, work) in works.items()})
    total = sum(s["median"] for s in seconds.values())
    rows = [
        {"stage": name, "kind": works[name][0], "seconds": s, "share": s["median"] / total}
        for name, s in seconds.items()
    ]
    rest = sum(row["share"] for row in rows if row["kind"] == "other")  # type: ignore[misc]
    return {"batch": len(images), "rows": rows, "outside_networks": rest}


def peers(bench: Bench, networks: dict[str, Any]) -> dict[str, Any]:
    """One slice by other methods at published size, beside ours; and the operations of each."""
    image = bench.first(1)
    works: dict[str, Work] = {
        "PHANES, shipped": subjects.no_grad(lambda: networks["shipped"](image)),
        "PHANES, published size": subjects.no_grad(lambda: networks["paper"](image)),
    }
    autoencoder = subjects.residual_autoencoder(bench.device)
    works["residual autoencoder"] = subjects.no_grad(lambda: autoencoder.analyse(image))  # type: ignore[operator]
    if not bench.quick:
        bank = subjects.patchcore(bench.device)
        works["PatchCore"] = subjects.no_grad(lambda: bank.analyse(image))
        works["AnoDDPM, one step"] = subjects.anoddpm_step(subjects.anoddpm(bench.device), image)
    rows = [
        {"system": name, "seconds": seconds, "gflop": flops(works[name]) / 1e9}
        for name, seconds in bench.time(works).items()
    ]
    return {"rows": rows, "anoddpm_steps": subjects.ANODDPM_STEPS}


def runtimes(bench: Bench, networks: dict[str, Any]) -> dict[str, Any]:
    """Ours beside the same network in other memory format and other runtimes, as far as they are installed."""
    images = bench.first(1 if bench.quick else VOLUME_BATCH)
    works = subjects.runtimes(networks["shipped"], images)
    return {"batch": len(images), "rows": [{"system": n, "seconds": s} for n, s in bench.time(works).items()]}


def train_steps(bench: Bench, sizes: Sequence[str]) -> list[dict[str, Any]]:
    """Steps of both stages at batch 8."""
    rows = []
    stage_works: dict[str, Callable[[str, Tensor], dict[str, Work]]] = {
        "autoencoder": training.autoencoder_steps,
        "inpainter": training.inpainter_steps,
    }
    images = bench.first(1 if bench.quick else TRAINING_BATCH)
    for size in sizes:
        rounds = min(bench.rounds, 3) if size == "paper" and bench.device.type == "cpu" else None
        for stage, works in stage_works.items():
            for system, seconds in bench.time(works(size, images), rounds).items():
                rows.append({"size": size, "stage": stage, "system": system, "seconds": seconds, "batch": len(images)})
    return rows


def benchmark(
    out: str = "benchmark",
    device: str = "",
    rounds: int = 10,
    threads: int = 0,
    clock: str = "wall",
    parts: str | Sequence[str] = PARTS,
    training_sizes: str | Sequence[str] = ("compact",),
    cohort: int = 12,
    quick: bool = False,
    add: bool = False,
) -> None:
    """Measure what PHANES costs, beside the published composition and other methods; run it from the repository's root.

    Writes OUT/performance.json and OUT/performance.md.

    Args:
        out: folder.
        device: cpu or cuda; the GPU where there is one.
        rounds: runs of each piece of work, all in turn.
        threads: of PyTorch; 0 leaves its own choice.
        clock: wall, or cpu (processor time), for a machine with other work on it.
        parts: which of inference, stages, peers, training, command, and (not by default) runtimes, which exports
            first, and processes, a cohort on two processes, which needs a machine without other work.
        training_sizes: compact, paper or both; paper at three runs on a CPU.
        cohort: cases of the larger runs of command and processes.
        quick: the smallest of everything: shows that all runs, not how fast.
        add: keep the parts of OUT/performance.json that are not measured now, if they are of this machine and clock.

    Raises:
        PhanesInputError: an unknown part or clock, no configs here, or an earlier result of another machine.
    """
    chosen = parts.split(",") if isinstance(parts, str) else list(parts)
    sizes = training_sizes.split(",") if isinstance(training_sizes, str) else list(training_sizes)
    if unknown := [name for name in chosen if name not in PARTS + OPTIONAL_PARTS]:
        raise PhanesInputError(f"parts names {', '.join(unknown)}: choose among {', '.join(PARTS)}.")
    if clock not in ("wall", "cpu"):
        raise PhanesInputError(f"clock must be wall or cpu, not '{clock}'.")
    if not subjects.CONFIGS.is_dir():
        raise PhanesInputError(f"No configs in '{subjects.CONFIGS}': run this command from the repository's root.")
    if threads:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    images = subjects.template_slices(range(94, 96) if quick else subjects.LEVELS).to(place)
    middle = images[len(images) // 2, 0].cpu()
    bench = Bench(place, rounds, clock, images, quick)
    networks = subjects.networks(images, place)
    now = {"machine": machine(place), "device": place.type, "clock": clock}
    result: dict[str, Any] = {"taken": {}, **(_earlier(Path(out), now) if add else {}), **now}
    for part, measure in (
        ("inference", lambda: inference(bench, networks)),
        ("stages", lambda: stages(bench, networks)),
        ("peers", lambda: peers(bench, networks)),
        ("training", lambda: train_steps(bench, sizes)),
        ("runtimes", lambda: runtimes(bench, networks)),
        ("command", lambda: measure_command(middle, min(rounds, 3), cohort, place.type)),
        ("processes", lambda: measure_processes(middle, cohort, place.type)),
    ):
        if part in chosen:
            print(f"{part} ...", flush=True)
            before = machine(place)["load"]
            result[part] = measure()
            result["taken"][part] = {"rounds": rounds, "load": [before, machine(place)["load"]]}
            result["targets"] = against_targets(result)
            _write(Path(out), result)
    print(Path(out) / "performance.md")


def _earlier(folder: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The result in a folder, if there is one.

    Raises:
        PhanesInputError: it cannot be set beside what is measured now.
    """
    path = folder / "performance.json"
    if not path.is_file():
        return {}
    earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("processor", "cores", "threads", "gpu", "torch"):
        if earlier["machine"][name] != now["machine"][name]:
            raise PhanesInputError(
                f"'{path}' was measured with {name} {earlier['machine'][name]}, not {now['machine'][name]}: choose "
                "another folder with --out, or leave out --add."
            )
    if (earlier["device"], earlier["clock"]) != (now["device"], now["clock"]):
        raise PhanesInputError(f"'{path}' was measured with another device or clock: choose another folder with --out.")
    return earlier


def _write(folder: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(folder / "performance.json", lambda partial: partial.write_text(text, encoding="utf-8"))
    page = render(result)
    write_atomically(folder / "performance.md", lambda partial: partial.write_text(page, encoding="utf-8"))
