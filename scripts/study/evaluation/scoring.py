"""Score one system on one set of slices: its own map, the common maps, its reconstruction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...common.errors import PhanesInputError
from ..baselines.protocol import AnomalySystem
from .benchmarks import LesionSet
from .metrics import average_precision, best_dice, evaluate_map, lpips_by_region, precision_recall_points, rank
from .statistics import bootstrap, resample_weights, subject_indices

VERSION = 2  # of the scores; raise it when they change, so that stored results are not used again
OWN = "own"  # the map that the system defines itself, not a common one


class Result(NamedTuple):
    """Scores as they are stored: plain values for JSON, arrays for NPZ."""

    record: dict[str, Any]
    arrays: dict[str, NDArray]


class Maps(NamedTuple):
    """What a system made of a set: maps by name and its reconstruction, (N, 1, H, W) each."""

    maps: dict[str, Tensor]
    reconstruction: Tensor | None
    seconds: float


class Scorer:
    """Runs a system and measures its maps. All settings that change a number are arguments here.

    Args:
        common_maps: (image, reconstruction) -> map by name, applied to every system that reconstructs.
        lpips: spatial perceptual distance, two (B, 1, H, W) in [0, 1] -> (B, 1, H, W); None leaves those columns out.
        lpips_drop_zeros: see `metrics.lpips_by_region`.
        size_bins: ascending lesion areas in pixels of the 128 x 128 grid. Slices with lesions of each size are scored
            apart: [3, 71, 570] makes 3-71, 72-570 and more than 570. Empty for none.
        resamples: of the bootstrap over subjects; 0 for none.
        bootstrap_seed: draws the resamples.
        batch_size: slices analysed at once.
        device: where.
        examples: number of slices, evenly spaced, kept for the figure.
    """

    def __init__(
        self,
        common_maps: Mapping[str, nn.Module] | None = None,
        lpips: nn.Module | None = None,
        lpips_drop_zeros: bool = False,
        size_bins: Sequence[int] = (),
        resamples: int = 1000,
        bootstrap_seed: int = 0,
        batch_size: int = 8,
        device: torch.device | str = "cpu",
        examples: int = 4,
    ) -> None:
        self.common_maps = {name: module.to(device).eval() for name, module in (common_maps or {}).items()}
        self.lpips = None if lpips is None else lpips.to(device).eval()
        self.lpips_drop_zeros = lpips_drop_zeros
        self.size_bins = list(size_bins)
        self.resamples = resamples
        self.bootstrap_seed = bootstrap_seed
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.examples = examples

    def settings(self) -> list[Any]:
        """What a stored result depends on, besides the system and the data."""
        return [
            VERSION,
            self.common_maps,
            self.lpips,
            self.lpips_drop_zeros,
            self.size_bins,
            self.resamples,
            self.bootstrap_seed,
            self.examples,
        ]

    @torch.inference_mode()
    def analyse(self, system: AnomalySystem, lesions: LesionSet, progress: Callable[[int], Any] | None = None) -> Maps:
        """Run the system over a set, batch by batch.

        Raises:
            PhanesInputError: a map holds NaN, as happens when a network lacks its weights or calibration.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in (OWN, *self.common_maps)}
        reconstructions: list[Tensor] = []
        seconds = 0.0
        for start in range(0, len(lesions.images), self.batch_size):
            images = lesions.images[start : start + self.batch_size].to(self.device)
            masks = lesions.masks[start : start + self.batch_size].to(images)
            began = time.perf_counter()
            found = system.analyse(images, masks if system.needs_masks else None)
            parts[OWN].append(found.anomaly_map.cpu())  # waits for the device
            seconds += time.perf_counter() - began
            if found.reconstruction is not None:
                reconstructions.append(found.reconstruction.cpu())
                for name, module in self.common_maps.items():
                    parts[name].append(module(images, found.reconstruction).cpu())
            if progress is not None:
                progress(len(images))
        maps = {name: torch.cat(batches) for name, batches in parts.items() if batches}
        if not all(bool(torch.isfinite(values).all()) for values in maps.values()):
            raise PhanesInputError(f"The map of {system.name} holds NaN: train and calibrate it first.")
        return Maps(maps, torch.cat(reconstructions) if reconstructions else None, seconds)

    def score(self, found: Maps, lesions: LesionSet, threshold: float | None = None) -> Result:
        """Measure maps and reconstruction against the set's masks and clean slices.

        Args:
            found: what a system made of the set.
            lesions: the set.
            threshold: of the label, for the system's own map, fixed on healthy slices. None leaves out the label's
                Dice.
        """
        record: dict[str, Any] = {
            "set": lesions.name,
            "seed": lesions.seed,
            "slices": len(lesions.images),
            "subjects": len(set(lesions.subjects)),
            "seconds_per_slice": found.seconds / len(lesions.images),
            "maps": {},
        }
        arrays: dict[str, NDArray] = {}
        if lesions.region is not None:
            found = found._replace(maps={name: values * lesions.region for name, values in found.maps.items()})
        owners = subject_indices(lesions.subjects)
        subjects = int(owners.max()) + 1
        weights = resample_weights(subjects, self.resamples if subjects > 1 else 0, self.bootstrap_seed)
        for name, values in found.maps.items():
            record["maps"][name] = evaluate_map(values, lesions.masks)
            if len(weights):
                resampled = bootstrap(values, lesions.masks, owners, weights)
                arrays[f"{name}.auprc"], arrays[f"{name}.best_dice"] = resampled
        self._by_subject(found.maps[OWN], lesions.masks, owners, weights, threshold, record, arrays)
        arrays["recall"], arrays["precision"] = precision_recall_points(rank(found.maps[OWN], lesions.masks))
        record["by_size"] = self._by_size(found.maps[OWN], lesions.masks)
        if found.reconstruction is not None and lesions.clean is not None and self.lpips is not None:
            healthy, anomaly = self._lpips(found.reconstruction, lesions)
            arrays["lpips.healthy"], arrays["lpips.anomaly"] = healthy.numpy(), anomaly.numpy()
            record["lpips"] = {"healthy": float(healthy.nanmean()), "anomaly": float(anomaly.nanmean())}
        kept = example_indices(len(lesions.images), self.examples)
        arrays["example.map"] = found.maps[OWN][kept, 0].numpy()
        if found.reconstruction is not None:
            arrays["example.reconstruction"] = found.reconstruction[kept, 0].numpy()
        return Result(record, arrays)

    @staticmethod
    def _by_subject(
        maps: Tensor,
        masks: Tensor,
        owners: NDArray[np.intp],
        weights: NDArray[np.float64],
        threshold: float | None,
        record: dict[str, Any],
        arrays: dict[str, NDArray],
    ) -> None:
        """Add scores of the own map, as means over subjects, and the label's Dice with all subjects pooled."""
        chosen = [torch.from_numpy(owners == n) for n in range(int(owners.max()) + 1)]
        lesioned = np.array([bool(masks[own].any()) for own in chosen])
        rankings = [rank(maps[own], masks[own]) for own, there in zip(chosen, lesioned, strict=True) if there]
        means = {
            "auprc": np.array([average_precision(ranking) for ranking in rankings]),
            "best_dice": np.array([best_dice(ranking) for ranking in rankings]),
        }
        record["maps"]["mean"] = {metric: float(values.mean()) for metric, values in means.items()}
        drawn = weights[:, lesioned]
        resampled = {f"mean.{metric}": drawn @ values / drawn.sum(axis=1) for metric, values in means.items()}
        if threshold is not None:
            label = maps > threshold
            hits = np.array([int((label[own] & masks[own]).sum()) for own in chosen])
            sizes = np.array([int(label[own].sum()) + int(masks[own].sum()) for own in chosen])
            record["label_threshold"] = threshold
            record["more"] = {"label.dice": 2.0 * hits.sum() / sizes.sum()}
            resampled["label.dice"] = 2.0 * (weights @ hits) / (weights @ sizes)
        if len(weights):
            arrays |= resampled

    def _by_size(self, maps: Tensor, masks: Tensor) -> dict[str, dict[str, float]]:
        """The own map's scores on the slices of each size of lesion, each with its own best threshold."""
        areas = masks.flatten(1).sum(dim=1)
        scores: dict[str, dict[str, float]] = {}
        for label, low, high in size_ranges(self.size_bins):
            chosen = (areas >= low) & (areas <= high)
            scores[label] = {"slices": int(chosen.sum())}
            if chosen.any():
                scores[label] |= evaluate_map(maps[chosen], masks[chosen])
        return scores

    @torch.inference_mode()
    def _lpips(self, reconstruction: Tensor, lesions: LesionSet) -> tuple[Tensor, Tensor]:
        """Mean distance to the clean slices outside and inside the lesions, (N,) each."""
        assert self.lpips is not None  # noqa: S101 - the caller looked
        assert lesions.clean is not None  # noqa: S101
        found = []
        for start in range(0, len(reconstruction), self.batch_size):
            part = slice(start, start + self.batch_size)
            distance = self.lpips(reconstruction[part].to(self.device), lesions.clean[part].to(self.device)).cpu()
            found.append(lpips_by_region(distance, lesions.masks[part], self.lpips_drop_zeros))
        healthy, anomaly = zip(*found, strict=True)
        return torch.cat(healthy), torch.cat(anomaly)


def size_ranges(bins: Sequence[int]) -> list[tuple[str, int, float]]:
    """[3, 71, 570] -> ("3-71", 3, 71), ("72-570", 72, 570), (">570", 571, inf)."""
    ranges: list[tuple[str, int, float]] = []
    for index, low in enumerate(bins):
        first = low if index == 0 else low + 1
        if index + 1 < len(bins):
            ranges.append((f"{first}-{bins[index + 1]}", first, bins[index + 1]))
        else:
            ranges.append((f">{low}", low + 1, float("inf")))
    return ranges


def example_indices(slices: int, examples: int) -> list[int]:
    """Evenly spaced slices for the figure, chosen by number alone."""
    return sorted({round(i) for i in np.linspace(0, slices - 1, min(examples, slices))})
