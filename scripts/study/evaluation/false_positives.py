"""Label thresholds fixed on healthy slices, and false positives of the shipped one in other healthy slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.errors import PhanesInputError
from ...common.fingerprint import fingerprint
from ...pipeline.inference import read_calibration
from ...pipeline.thresholds import Thresholds
from ...training.calibration import false_positives
from ..baselines.phanes import WholeMethod
from ..baselines.protocol import AnomalySystem
from .benchmarks import SyntheticBenchmark
from .shapes import PIXEL_MM
from .shifts import Shift
from .tables import Line

CLEAN = "clean slices"
HEADINGS = (
    "System", "Slices", "Marked brain pixels, %", "95 % interval", "Marked, mm²", "Mask m, mm²", "Mask m, % of pixels",
)  # fmt: skip


class OperatingPoint:
    """The label threshold that a system is used with. It is read late, because its files may be missing.

    Args:
        calibration_file: the record of the calibration.
        weights: the weights it was made for.
        override: a number in place of the calibration's, or "calibrated".
    """

    def __init__(
        self, calibration_file: str | Path, weights: str | Path, override: float | str | None = "calibrated"
    ) -> None:
        self.calibration_file = calibration_file
        self.weights = weights
        self.override = override

    def threshold(self) -> float:
        """The threshold.

        Raises:
            PhanesInputError: the calibration is missing, or belongs to other weights.
        """
        try:
            record = read_calibration(self.calibration_file, self.weights)
            return Thresholds.of(record, "slices", self.override).label
        except SystemExit as error:  # a workflow would end so
            raise PhanesInputError(str(error.code).removeprefix("Error: ")) from error


class LabelThreshold:
    """The one rule for the label threshold of all systems without a calibration.

    Args:
        benchmark: has healthy slices that no number is reported on.
        brain: (H, W) boolean.
        quantile: the threshold is this quantile of a system's map over the brain in all slices. 0.99 marks 1 % of a
            healthy brain.
        batch_size: slices analysed at once.
        device: where.
    """

    def __init__(
        self,
        benchmark: SyntheticBenchmark,
        brain: Tensor,
        quantile: float = 0.99,
        batch_size: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        self.benchmark = benchmark
        self.brain = brain
        self.quantile = quantile
        self.batch_size = batch_size
        self.device = torch.device(device)

    def stamp(self) -> str:
        """Checksum of all that a threshold depends on, besides the system."""
        return fingerprint(self.benchmark.healthy[0], self.brain, self.quantile)

    def of(self, system: AnomalySystem) -> float:
        """The threshold of a system."""
        parts = self.benchmark.healthy[0].split(self.batch_size)
        maps = torch.cat([system.analyse(part.to(self.device)).anomaly_map.cpu() for part in parts])
        return float(np.quantile(maps[:, 0, self.brain].numpy(), self.quantile))


class CleanSlices:
    """False positives on healthy slices, as they are and under shifts (skull off).

    Args:
        benchmark: has the healthy slices.
        brain: (H, W) boolean; the share of marked pixels is over these.
        shifts: changes under which the slices are measured again.
        resamples: of the bootstrap over subjects.
        seed: of the bootstrap, and of random shifts.
        batch_size: slices analysed at once.
        device: where.
        pixel_mm: side of a pixel, mm.
    """

    def __init__(
        self,
        benchmark: SyntheticBenchmark,
        brain: Tensor,
        shifts: Sequence[Shift] = (),
        resamples: int = 1000,
        seed: int = 0,
        batch_size: int = 8,
        device: torch.device | str = "cpu",
        pixel_mm: float = PIXEL_MM,
    ) -> None:
        self.benchmark = benchmark
        self.brain = brain
        self.shifts = list(shifts)
        self.resamples = resamples
        self.seed = seed
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.pixel_mm = pixel_mm

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        """The slices by set, (N, 1, H, W) each; those that are shifted are called `clean slices, <shift>`."""
        images, subjects = self.benchmark.healthy
        return {CLEAN: images} | {
            f"{CLEAN}, {shift.name}": shift(images, None, subjects, self.seed)[0] for shift in self.shifts
        }

    def stamp(self, threshold: float) -> str:
        """Checksum of all that the numbers depend on, besides the system."""
        settings = [self.brain, self.resamples, self.seed, self.pixel_mm, self.benchmark.healthy[1], threshold]
        return fingerprint(self.sets, settings)

    def measure(self, system: WholeMethod, threshold: float) -> list[dict[str, Any]]:
        """Run a method on every set.

        Args:
            system: gives map and mask.
            threshold: of the label.

        Returns:
            One plain dictionary a set: `set`, `slices`, `subjects`, `threshold`, `rate` and its `interval_95` (shares
            of the brain's pixels), `marked_mm2`, `mask_mm2` (a slice, on average), `mask_share` (of all pixels).
        """
        subjects = self.benchmark.healthy[1]
        rows = []
        for name, images in self.sets.items():
            with torch.inference_mode():
                outputs = [
                    system.outputs(part.to(self.device))[:, [0, 2]].cpu() for part in images.split(self.batch_size)
                ]
            output = torch.cat(outputs)
            found = false_positives(
                output[:, :1], threshold, self.brain, self.pixel_mm, 1.0, self.resamples, self.seed, subjects
            )
            masked = output[:, 1] > 0
            rows.append(
                {
                    "set": name,
                    "slices": len(images),
                    "subjects": len(set(subjects)),
                    "threshold": threshold,
                    "rate": found.rate,
                    "interval_95": found.interval,
                    "marked_mm2": found.volume,
                    "mask_mm2": float(masked.sum(dim=(1, 2)).float().mean()) * self.pixel_mm**2,
                    "mask_share": float(masked.float().mean()),
                }
            )
        return rows


def clean_table(
    found: Mapping[str, Sequence[Mapping[str, Any]]], lines: Mapping[str, Line]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table."""
    rows = []
    for key, sets in found.items():
        for row in sets:
            low, high = row["interval_95"]
            rows.append([
                lines[key].label, row["set"], f"{100 * row['rate']:.2f}", f"{100 * low:.2f} to {100 * high:.2f}",
                f"{row['marked_mm2']:.0f}", f"{row['mask_mm2']:.0f}", f"{100 * row['mask_share']:.2f}",
            ])  # fmt: skip
    return list(HEADINGS), rows
