"""Train the restoration network. `train_restoration` reads what `prepare` wrote; `fit` is the training loop.

`model.pt` in the run's folder holds the running average of the weights, `record.json` what the run took. A run that was
stopped goes on from its `checkpoint.pt`, with optimiser, average, random numbers and step.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..common.checkpoints import save_state
from ..common.files import sha256_of_file, write_atomically
from ..method.networks.restoration import RestorationNetwork
from ..space.levels import LEVELS_MM, brain_of_levels
from .lesions import DARK
from .lessons import LessonMaker, Lessons
from .prepared import BRAIN_VALUE, prepared_files, read_prepared

BATCH = 16
LEARNING_RATE = 1e-3
WARMUP = 200  # steps from 0 to the full learning rate; then it falls as a cosine
WEIGHT_DECAY = 1e-2
LARGEST_GRADIENT = 5.0  # norm; smaller limits slow the start down
AVERAGED = 0.999  # share of the weights' average that a step keeps, once 10,000 steps are done
EDGES = 0.3  # weight of the error of the gradient beside the error of the grey value
JUDGEMENT = 0.03  # weight of saying where the lesion is
VISIBLE = 0.06  # change of brightness that counts as a whole lesion
SAVE_SECONDS = 120.0
LOG_STEPS = 200
COLUMNS = ("step", "seconds", "loss", "error", "edges", "judgement", "lesion_error", "lesion_contrast")


def restoration_loss(network: RestorationNetwork, lessons: Lessons) -> dict[str, Tensor]:
    """The loss of a step, and the parts that the curve shows.

    Returns:
        Scalars. `loss`: what the step minimises. `error`: mean absolute error over the brain. `edges`: the same of the
        gradient; it keeps the restored slice sharp. `judgement`: cross-entropy of the lesion's place. `lesion_error`:
        mean absolute error where a lesion shows. `lesion_contrast`: the same of the input.
    """
    image, target, lesion, hole, brain, level = lessons
    restored, logit = network.correct(image, level, hole)
    pixels = brain.sum().clamp(min=1)
    error = restored - target
    grey = (error.abs() * brain).sum() / pixels
    edges = (
        (error.diff(dim=2).abs() * brain[:, :, 1:]).sum() + (error.diff(dim=3).abs() * brain[..., 1:]).sum()
    ) / pixels
    change = F.max_pool2d((image - target).abs(), 5, 1, 2)
    place = (1 - hole) * lesion * (change / VISIBLE).clamp(max=1)
    judgement = (F.binary_cross_entropy_with_logits(logit, place, reduction="none") * brain).sum() / pixels
    shown = place > 0.5
    shown_pixels = shown.sum().clamp(min=1)
    return {
        "loss": grey + EDGES * edges + JUDGEMENT * judgement,
        "error": grey.detach(),
        "edges": edges.detach(),
        "judgement": judgement.detach(),
        "lesion_error": (error.detach().abs() * shown).sum() / shown_pixels,
        "lesion_contrast": ((image - target).abs() * shown).sum() / shown_pixels,
    }


def take_step(network: RestorationNetwork, optimizer: torch.optim.Optimizer, lessons: Lessons) -> dict[str, Tensor]:
    """One step on a batch; the parts of its loss, see `restoration_loss`."""
    device = lessons.image.device
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
        parts = restoration_loss(network, lessons)
    optimizer.zero_grad(set_to_none=True)
    parts["loss"].backward()
    nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
    optimizer.step()
    return parts


def adam(network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters."""
    return torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)


def fit(
    network: RestorationNetwork,
    maker: LessonMaker,
    out: Path,
    steps: int,
    batch: int = BATCH,
    minutes: float = math.inf,
    resume: bool = True,
) -> Path:
    """Train until the steps are done or the time is over, whichever comes first. The learning rate falls towards it.

    Args:
        network: on the device of the maker's lessons, its levels described.
        maker: makes the lessons.
        out: folder of `checkpoint.pt`, `model.pt`, `curve.csv` and `record.json`.
        steps: number of training steps; those of earlier runs in the same folder count.
        batch: slices a step.
        minutes: time limit of this run.
        resume: go on from the folder's checkpoint when there is one.

    Returns:
        The file of the averaged weights.
    """
    device = next(network.parameters()).device
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimizer = adam(network)
    step, spent, spent_by_processor = 0, 0.0, 0.0
    if resume and (out / "checkpoint.pt").is_file():
        state = torch.load(out / "checkpoint.pt", map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, spent = state["average"], state["step"], state["seconds"]
        spent_by_processor = state.get("processor_seconds", 0.0)
        maker.resume(state["random"])

    out.mkdir(parents=True, exist_ok=True)
    if step == 0:
        (out / "curve.csv").unlink(missing_ok=True)

    def save() -> None:
        processor_seconds = spent_by_processor + time.process_time() - started_by_processor
        save_state(
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step,
                "seconds": spent + time.monotonic() - started,
                "processor_seconds": processor_seconds,
                "random": maker.state(),
            },
            out / "checkpoint.pt",
        )
        save_state({name: value.cpu() for name, value in average.items()}, out / "model.pt")
        _write_record(out, network, step, batch, processor_seconds)

    first, started, saved, sums = step, time.monotonic(), time.monotonic(), []
    started_by_processor = time.process_time()
    progress_bar = tqdm(total=steps, initial=step, desc="Steps")
    while step < steps:
        elapsed = time.monotonic() - started
        if elapsed > 60 * minutes:
            break
        progress = max(step / steps, elapsed / (60 * minutes))
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        parts = take_step(network, optimizer, maker(batch))
        step += 1
        progress_bar.update()
        kept = min(AVERAGED, 1 - 1 / (1 + 0.1 * step))  # a young average forgets faster
        with torch.no_grad():
            for name, value in network.named_parameters():
                average[name].lerp_(value, 1 - kept)
        sums.append(torch.stack([part.detach() for part in parts.values()]))
        if step % LOG_STEPS == 0:
            means = torch.stack(sums).mean(dim=0).tolist()
            _write_row(out / "curve.csv", [step, round(spent + elapsed), *(f"{value:.5f}" for value in means)])
            sums = []
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    progress_bar.close()
    if step > first or not (out / "model.pt").is_file():
        save()
    return out / "model.pt"


def _write_row(path: Path, row: list[object]) -> None:
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, row] if new else [row])


def _write_record(out: Path, network: nn.Module, step: int, batch: int, processor_seconds: float) -> None:
    """What the run took so far, under the names of the baselines' records (`baselines_page` reads either)."""
    curve_file = out / "curve.csv"
    curve = csv.DictReader(curve_file.read_text(encoding="utf-8").splitlines()) if curve_file.is_file() else []
    record = {
        "system": "PHANES, restoration network",
        "trained_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "steps": step,
        "batch_size": batch,
        "processor_seconds": round(processor_seconds, 1),
        "error": "mean absolute error of the training slices with lesions, in brain medians",
        "healthy_error_by_step": [[int(row["step"]), float(row["error"])] for row in curve],
        "weights_sha256": sha256_of_file(out / "model.pt"),
    }
    text = json.dumps(record, indent=4) + "\n"
    write_atomically(out / "record.json", lambda partial: partial.write_text(text, encoding="utf-8"), shared=True)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself. Where it does not, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    newest = torch.backends.cpu.get_cpu_capability() != "AVX2"  # ATEN_CPU_CAPABILITY forbids the rest
    return device.type == "cpu" and newest and torch.cpu._is_avx512_bf16_supported()


def read_heads(folder: str | Path, heights: Sequence[float] = LEVELS_MM) -> Tensor:
    """Levels of all prepared heads of a folder, in the order of their names: (N, 128, 128, D) uint8.

    Args:
        folder: of prepared heads.
        heights: MNI z of the levels, mm.

    Raises:
        PhanesInputError: there are no heads, a file is not a prepared head, or lacks a level.
    """
    heads = [read_prepared(file, heights) * BRAIN_VALUE for file in prepared_files(folder)]
    return torch.stack([torch.from_numpy(head).round().to(torch.uint8) for head in heads])


def train_restoration(
    dataset_dir: str,
    out: str,
    levels_mm: Sequence[float] | None = None,
    variety: float = 1.0,
    dark: float = DARK,
    steps: int = 16000,
    minutes: float = math.inf,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> str:
    """Train the restoration network on prepared heads.

    Args:
        dataset_dir: folder that `prepare` wrote; its `train` is read.
        out: folder of the run; a run stopped there goes on.
        levels_mm: MNI z of the levels to learn, evenly spaced, rising; None for all.
        variety: see `LessonMaker`.
        dark: see `LessonMaker`.
        steps: number of training steps, each with a batch of 16 slices.
        minutes: time limit.
        seed: of weights and lessons.
        device: where heads, lessons and network lie.

    Returns:
        The file of the trained weights.

    Raises:
        PhanesInputError: there are no heads, a file is not a prepared head, or lacks a level.
    """
    heights = LEVELS_MM if levels_mm is None else levels_mm
    heads = read_heads(Path(dataset_dir) / "train", heights)
    network, maker = start(heads, seed, device, heights, variety, dark)
    return str(fit(network, maker, Path(out), steps, minutes=minutes))


def start(
    heads: Tensor,
    seed: int,
    device: str | torch.device,
    heights: Sequence[float] = LEVELS_MM,
    variety: float = 1.0,
    dark: float = DARK,
) -> tuple[RestorationNetwork, LessonMaker]:
    """An untrained network and its lessons, from prepared heads (N, 128, 128, D) uint8 at D heights, MNI z in mm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = RestorationNetwork(heights)
    network.describe_levels(heads, BRAIN_VALUE)
    brain = torch.from_numpy(brain_of_levels(heights).copy())
    return network.to(device), LessonMaker(heads, brain, seed, device, variety, dark)
