"""How well the distilled perceptual distance agrees with its teacher.

The module holds the correlations of maps, a training handler that follows them, and a report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from ..common.checkpoints import save_state
from ..method.equalize import equalize_adapthist
from ..method.filters import gaussian_filter
from ..method.networks.perceptual import SpatialLPIPS
from . import degrade
from .principal_components import PrincipalComponents

Pairs = Mapping[str, tuple[Tensor, Tensor]]


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's r of each row: two (N, P) -> (N,); NaN for a constant row."""
    return stats.pearsonr(a, b, axis=1).statistic


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's r of each row: two (N, P) -> (N,)."""
    return pearson(stats.rankdata(a, axis=1), stats.rankdata(b, axis=1))


def fixed_pairs(slices: Tensor, components: PrincipalComponents, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of slices and changed versions of them, the same every time. Each kind comes plain and equalised.

    Args:
        slices: (N, 1, H, W) held-out slices in [0, 1].
        components: principal components of the training slices.
        seed: of the painted lesions, which are drawn on the CPU.

    Returns:
        kind -> two tensors (N, 1, H, W) in [0, 1].
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        changed = {
            "pca32": components.reconstruct(slices, 32),
            "pca64": components.reconstruct(slices, 64),
            "blurred": gaussian_filter(slices, 2.0),
            "painted": degrade.paint(slices.cpu()).to(slices.device),
        }
        pairs = {kind: (slices, images) for kind, images in changed.items()}
        equalized = equalize_adapthist(slices)
        return pairs | {f"{kind}_eq": (equalized, equalize_adapthist(images)) for kind, images in changed.items()}


@torch.no_grad()
def distance_maps(model: SpatialLPIPS, pairs: Pairs, batch_size: int = 32) -> dict[str, Tensor]:
    """kind -> distance maps, (N, H * W)."""
    return {
        kind: torch.cat([model(x, y).flatten(1) for x, y in zip(a.split(batch_size), b.split(batch_size), strict=True)])
        for kind, (a, b) in pairs.items()
    }


def agreement(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Correlations of the maps of each kind: the mean over the images, and one over all pixels of all images."""
    table = {}
    for kind, target in teacher.items():
        rows = student[kind].double().cpu().numpy(), target.double().cpu().numpy()
        pooled = rows[0].reshape(1, -1), rows[1].reshape(1, -1)
        table[kind] = {
            "pearson": float(np.nanmean(pearson(*rows))),
            "spearman": float(np.nanmean(spearman(*rows))),
            "pearson_pooled": float(pearson(*pooled)[0]),
            "spearman_pooled": float(spearman(*pooled)[0]),
        }
    return table


def mean_agreement(table: Mapping[str, Mapping[str, float]]) -> float:
    """One number to choose by: both per-image coefficients, averaged over the kinds."""
    return sum(row["pearson"] + row["spearman"] for row in table.values()) / (2 * len(table))


class AgreementHandler:
    """After every epoch, prints the agreement on fixed pairs and keeps the weights that agree best so far.

    The weights are chosen by `agreement`. `engine.state.metrics` gets it, and also `pearson_<kind>` and
    `spearman_<kind>`. A run that can be resumed keeps the handler's state in its checkpoint.

    Args:
        student: the network that is evaluated.
        teacher: the network it is compared with; its maps are computed once.
        pairs: kind -> two batches of images.
        path: file for the best weights, a state dict in half precision.
    """

    def __init__(self, student: SpatialLPIPS, teacher: SpatialLPIPS, pairs: Pairs, path: str) -> None:
        self.student, self.pairs, self.path = student, pairs, Path(path)
        self.targets = distance_maps(teacher, pairs)
        self.best = -1.0

    def state_dict(self) -> dict[str, float]:
        """The best agreement so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up an interrupted run."""
        self.best = state["best"]

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Evaluate, print, keep."""
        table = agreement(distance_maps(self.student, self.pairs), self.targets)
        value = mean_agreement(table)
        engine.state.metrics["agreement"] = value
        for kind, row in table.items():
            engine.state.metrics |= {f"{name}_{kind}": row[name] for name in ("pearson", "spearman")}
        rows = ", ".join(f"{kind} {row['pearson']:.4f}/{row['spearman']:.4f}" for kind, row in table.items())
        tqdm.write(f"epoch {engine.state.epoch}: agreement {value:.4f}; Pearson/Spearman {rows}")
        if value > self.best:
            self.best = value
            save_state({name: tensor.half().cpu() for name, tensor in self.student.state_dict().items()}, self.path)


def report(
    student: SpatialLPIPS, teacher: SpatialLPIPS, pairs: Pairs, path: str, facts: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Print the agreement on some pairs, and write it as JSON with facts on how it came about.

    Args:
        student: the distilled distance.
        teacher: the distance it reproduces.
        pairs: kind -> two batches of images.
        path: file to write.
        facts: what else to write, such as command and split.

    Returns:
        kind -> coefficient -> value, see `agreement`.
    """
    table = agreement(distance_maps(student, pairs), distance_maps(teacher, pairs))
    images = len(next(iter(pairs.values()))[0])
    parameters = sum(p.numel() for p in student.parameters())
    content = {**facts, "images": images, "parameters": parameters, "mean": mean_agreement(table), "kinds": table}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=4) + "\n")
    for kind, row in table.items():
        print(f"{kind:18s}", *(f"{name} {value:.4f}" for name, value in row.items()), sep="  ")
    return table
