"""Where the loss is: both stages apart, and the worst cases as one picture. `python -m scripts stages`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ...method.anomaly_map import AnomalyMap
from ...method.phanes import Phanes
from ...reporting.pictures import save_figure
from .benchmarks import LesionSet, SyntheticBenchmark, chosen_sets
from .gallery import BATCH, Column, Method, panels
from .metrics import average_precision, rank
from .shapes import PIXEL_MM
from .synthetic import EllipseLesions, StrokeLesions
from .tables import to_markdown

MAPS = {
    "coarse": "coarse map, eq. (3)",
    "anomaly": "map of the first filling, eq. (4)",
    "final": "final map, with refinements",
    "perfect": "perfect inpainter, own mask",
    "grown": "own inpainter, grown mask",
    "perfect_grown": "perfect inpainter, grown mask",
    "given": "own inpainter, true mask",
}


@dataclass(frozen=True)
class Stages:
    """What each stage made of N slices, (N, 1, H, W) each; but for the map `final`, of the first filling.

    Attributes:
        mask: m, boolean.
        coarse: the coarse reconstruction.
        filling: what the inpainter sees in the hole.
        pseudo_healthy: its result.
        maps: by key of `MAPS`.
    """

    mask: Tensor
    coarse: Tensor
    filling: Tensor
    pseudo_healthy: Tensor
    maps: Mapping[str, Tensor]

    def outputs(self) -> Tensor:
        """The network's own four channels after the first filling, (N, 4, H, W)."""
        return torch.cat([self.maps["anomaly"], self.pseudo_healthy, self.mask.to(self.coarse), self.coarse], dim=1)


def stages(
    dataset_dir: str = "../shared/data/ixi_midaxial",
    split: str = "val",
    out: str = "eval/stages",
    bundle_root: str = "bundle",
    shapes_dir: str = "../shared/data/stroke_masks",
    sets: Sequence[str] | str | None = None,
    seeds: Sequence[int] = (0,),
    grow: int = 2,
    worst: int = 20,
    device: str = "cpu",
) -> None:
    """Measure both stages apart on synthetic lesions, and draw the worst cases.

    Args:
        dataset_dir: folder with SPLIT/*.png of healthy slices.
        split: val to choose by, test to report.
        out: folder for stages.md and a picture of the worst cases of each lesion set.
        bundle_root: the bundle whose weights are run.
        shapes_dir: folder of stroke masks; "" for made-up outlines.
        sets: ellipses, stroke_small, stroke_medium, stroke_large, or several, separated by commas; all by default.
        seeds: of the lesions.
        grow: pixels by which the grown mask is larger.
        worst: number of cases in a picture.
        device: cpu or cuda.
    """
    method = Method(bundle_root, device)
    network = cast(Phanes, method.network)
    lesions = [EllipseLesions(), *(StrokeLesions(size, shapes_dir or None) for size in ("small", "medium", "large"))]
    chosen = [int(seed) for seed in (seeds if isinstance(seeds, Sequence) else [seeds])]
    benchmark = SyntheticBenchmark(dataset_dir, method.preprocessing, lesions, chosen, split)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, dict[str, float]] = {}
    for name in chosen_sets(sets, list(benchmark.lesions)):
        painted = [benchmark.load(name, seed) for seed in chosen]
        found = [run_stages(network, lesion_set, grow, method.device) for lesion_set in painted]
        columns[name] = measured(painted, found)
        save_figure(worst_figure(painted, found, worst, method.threshold), folder / f"worst_{name}.png")
    text = _page(columns, split, len(benchmark.healthy[0]), chosen, grow)
    (folder / "stages.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"{folder}: stages.md, {', '.join(f'worst_{name}.png' for name in columns)}")


@torch.inference_mode()
def run_stages(network: Phanes, lesions: LesionSet, grow: int, device: torch.device | str = "cpu") -> Stages:
    """Run the method, and its second stage with other masks and with a perfect inpainter.

    A perfect inpainter puts the clean slice into the hole: what is lost then is lost by the mask. The true mask gives
    what the inpainter alone is worth.

    Args:
        network: PHANES with its weights.
        lesions: a set whose clean slices are known.
        grow: pixels by which the grown mask is larger.
        device: where the network is.
    """
    if lesions.clean is None:
        raise ValueError("the stages are told apart by the clean slices, which this set has not")
    starts = tqdm(range(0, len(lesions.images), BATCH), desc=lesions.name, unit="batch")
    parts: list[list[Tensor]] = []
    for start in starts:
        image, clean, truth = (
            values[start : start + BATCH].to(device) for values in (lesions.images, lesions.clean, lesions.masks)
        )
        coarse, coarse_map = network.coarse(image)
        mask = network.mask(coarse_map)
        grown = F.max_pool2d(mask, 2 * grow + 1, stride=1, padding=grow)
        anomaly, pseudo_healthy = network.forward_with_mask(image, mask, coarse)
        parts.append([
            part.cpu() for part in (
                mask, coarse, network.masked_input(image, mask, coarse), pseudo_healthy,
                coarse_map, anomaly, network(image)[:, :1], _perfect(network, image, clean, mask),
                network.forward_with_mask(image, grown, coarse)[0], _perfect(network, image, clean, grown),
                network.forward_with_mask(image, truth.to(image), coarse)[0],
            )
        ])  # fmt: skip
    mask, coarse, filling, pseudo_healthy, *maps = (torch.cat(values) for values in zip(*parts, strict=True))
    return Stages(mask > 0, coarse, filling, pseudo_healthy, dict(zip(MAPS, maps, strict=True)))


def _perfect(network: Phanes, image: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Equation (4) when the hole holds the clean slice."""
    pseudo_healthy = torch.where(mask > 0, clean, image)
    return AnomalyMap()(image, pseudo_healthy, network.saliency(pseudo_healthy, image))


def measured(sets: Sequence[LesionSet], found: Sequence[Stages]) -> dict[str, float]:
    """The numbers of a table's column: averages over the seeds, all times 100 but the areas (mm2).

    Args:
        sets: of one kind of lesion, a seed each.
        found: what the stages made of them.
    """
    columns = [_column(lesions, stage) for lesions, stage in zip(sets, found, strict=True)]
    return {row: sum(column[row] for column in columns) / len(columns) for row in columns[0]}


def _column(lesions: LesionSet, found: Stages) -> dict[str, float]:
    assert lesions.clean is not None  # noqa: S101 - run_stages looked
    truth, mask = lesions.masks, found.mask
    covered = (truth & mask).flatten(1).sum(dim=1)
    rows = {
        "lesion pixels covered by m, %": 100 * _share(covered.sum(), truth.sum()),
        "slices with no lesion pixel covered, %": 100 * float((covered == 0).float().mean()),
        "share of m outside the lesions, %": 100 * _share((mask & ~truth).sum(), mask.sum()),
        "area of m, mm² a slice": float(mask.flatten(1).sum(dim=1).float().mean()) * PIXEL_MM**2,
        "area of the lesions, mm² a slice": float(truth.flatten(1).sum(dim=1).float().mean()) * PIXEL_MM**2,
    }
    holes = {"in m": mask, "in m and the lesion": mask & truth}
    images = {
        "input": lesions.images,
        "coarse": found.coarse,
        "filling": found.filling,
        "pseudo-healthy": found.pseudo_healthy,
    }
    for where, hole in holes.items():
        for what, image in images.items():
            error = (image - lesions.clean).abs()[hole]
            rows[f"error {where}: {what}"] = 100 * float(error.mean()) if error.numel() else float("nan")
    for key, text in MAPS.items():
        rows[f"AUPRC: {text}"] = 100 * average_precision(rank(found.maps[key], truth))
    return rows


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole else float("nan")


def worst_cases(sets: Sequence[LesionSet], found: Sequence[Stages], count: int) -> list[tuple[float, int, int]]:
    """(average precision of the slice's map, first filling, index of the set, of the slice), the lowest first."""

    def precisions() -> Iterator[tuple[float, int, int]]:
        for number, (lesions, stage) in enumerate(zip(sets, found, strict=True)):
            for index, truth in enumerate(lesions.masks):
                if truth.any():
                    yield average_precision(rank(stage.maps["anomaly"][index], truth)), number, index

    return sorted(precisions())[:count]


def worst_figure(sets: Sequence[LesionSet], found: Sequence[Stages], count: int, threshold: float) -> Figure:
    """One column a case: input, truth, coarse, mask, pseudo-healthy, map."""
    cases = worst_cases(sets, found, count)
    columns = [
        Column(f"{sets[n].cases[i]}\nseed {sets[n].seed}, AP {100 * score:.1f}", sets[n].images[i], sets[n].masks[i])
        for score, n, i in cases
    ]
    outputs = torch.stack([found[n].outputs()[i] for _, n, i in cases])
    return panels(columns, outputs, threshold)


def _page(columns: Mapping[str, Mapping[str, float]], split: str, slices: int, seeds: Sequence[int], grow: int) -> str:
    """The table, with what a reader must know."""
    rows = [[row, *(f"{column[row]:.1f}" for column in columns.values())] for row in next(iter(columns.values()))]
    return (
        f"# Stages apart, split {split}\n\n{slices} slices, seeds {', '.join(map(str, seeds))}. Errors are mean "
        "absolute differences from the clean slice, times 100; AUPRC times 100, all pixels pooled. A perfect inpainter "
        f"puts the clean slice into the hole; the grown mask is {grow} pixels larger on every side.\n\n"
        + to_markdown(["", *columns], rows)
    )
