"""The same lesions under a change of the input: skull off, another contrast, bias field, noise, blur.

A lesion is painted first. Then the whole slice changes, as if the same head had been scanned or processed otherwise.
The mask stays. The clean slice changes in the same way, so that LPIPS still compares like with like. The
preprocessing's own rule normalises the result again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from monai.transforms import Randomizable
from torch import Tensor

from ...common.errors import PhanesInputError
from ...pipeline.transforms import slice_scale
from .benchmarks import Benchmark, LesionSet, as_slice
from .figures import write_figure
from .report import chosen_keys
from .scoring import OWN
from .summary import Cell
from .synthetic import subject_rng
from .tables import Line

UNCHANGED = "unchanged"


class Shift:
    """One change of the input.

    Args:
        name: as tables and figures call it.
        transform: any MONAI array transform, or another function, (1, H, W) in [0, 1] -> same shape. A random one is
            seeded by the subject and the lesions' seed. So it is the same in any batch, subset or order, and for the
            slice and its clean twin. Its probability should be 1.
        curve: name of the varied parameter, where several shifts are points of one curve.
        value: of that parameter.
        percentile: the preprocessing's; it normalises the changed slice again. It is taken on the clean slice, because
            the unchanged sets, too, get their lesions after normalisation.
    """

    def __init__(
        self,
        name: str,
        transform: Callable[[Tensor], Tensor],
        curve: str | None = None,
        value: float | None = None,
        percentile: float = 98.0,
    ) -> None:
        if (curve is None) != (value is None):
            raise ValueError(f"shift '{name}': a point of a curve needs both curve and value")
        self.name = name
        self.transform = transform
        self.curve = curve
        self.value = value
        self.percentile = percentile

    def __call__(
        self, images: Tensor, clean: Tensor | None, subjects: Sequence[str], seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """Change slices and their clean twins in the same way.

        Args:
            images: (N, 1, H, W) in [0, 1].
            clean: the same slices without lesions. None where they are unknown; the images then set their own scale.
            subjects: N names.
            seed: of the lesions.

        Returns:
            Both, changed, (N, 1, H, W) in [0, 1].
        """
        changed = torch.empty_like(images)
        twins = None if clean is None else torch.empty_like(clean)
        for index, subject in enumerate(subjects):
            state = int(subject_rng(seed, subject, f"shift/{self.name}").integers(2**32))
            image = self._applied(images[index], state)
            twin = None if clean is None else self._applied(clean[index], state)
            scale = slice_scale(image if twin is None else twin, self.percentile)
            scale = torch.where(scale > 0, scale, 1.0)
            changed[index] = (image / scale).clamp(0.0, 1.0)
            if twins is not None and twin is not None:
                twins[index] = (twin / scale).clamp(0.0, 1.0)
        return changed, twins

    def _applied(self, image: Tensor, state: int) -> Tensor:
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=state)
        return as_slice(self.transform(image.clone())).clamp(min=0.0)


class ShiftedBenchmark:
    """Every set of another benchmark, unchanged and under each shift. A shifted set is called `<set>, <shift>`.

    Args:
        benchmark: has the sets to change; they need a seed.
        shifts: the changes.
        sets: names of the sets that are taken, a list or one string with commas; None for all.

    Raises:
        PhanesInputError: an unknown set, or two shifts of one name.
    """

    def __init__(self, benchmark: Benchmark, shifts: Sequence[Shift], sets: Sequence[str] | str | None = None) -> None:
        self.benchmark = benchmark
        self.shifts = {shift.name: shift for shift in shifts}
        if len(self.shifts) < len(shifts):
            raise PhanesInputError(
                f"Two shifts have one name ({', '.join(shift.name for shift in shifts)}): rename one."
            )
        self.sets = chosen_keys("sets", sets, dict.fromkeys(name for name, _ in benchmark.tasks()))
        self._parts: dict[str, tuple[str, Shift | None]] = {}
        for name in self.sets:
            self._parts[name] = (name, None)
            self._parts |= {shifted_name(name, shift): (name, shift) for shift in shifts}

    def tasks(self) -> list[tuple[str, int | None]]:
        """The (name, seed) of every set; its shifts follow each set."""
        seeds = {name: [seed for other, seed in self.benchmark.tasks() if other == name] for name in self.sets}
        return [(name, seed) for name, (source, _) in self._parts.items() for seed in seeds[source]]

    def load(self, name: str, seed: int | None) -> LesionSet:
        """One set; the same at every call."""
        source, shift = self._parts[name]
        lesions = self.benchmark.load(source, seed)
        if shift is None:
            return lesions
        images, clean = shift(lesions.images, lesions.clean, lesions.subjects, int(seed or 0))
        return LesionSet(name, seed, images, lesions.masks, lesions.cases, lesions.subjects, clean)

    def read_maps(self, folder: str | Path, name: str, seed: int | None) -> Tensor:
        """Refuse, see `SyntheticBenchmark.read_maps`."""
        return self.benchmark.read_maps(folder, name, seed)


def shifted_name(name: str, shift: Shift) -> str:
    """Name of a set under a shift."""
    return f"{name}, {shift.name}"


class ShiftChart:
    """A picture of the AUPRC over all shifts: curves for those with a parameter, bars for the others.

    Args:
        shifts: as in the benchmark.
        sets: names of the unchanged sets, one row each; those that were not run are left out.
        neutral: for each curve, the parameter's value that changes nothing; the unchanged set is drawn there.
    """

    MEASURE, FILE = f"{OWN}.auprc", "shifts.png"

    def __init__(self, shifts: Sequence[Shift], sets: Sequence[str], neutral: Mapping[str, float]) -> None:
        self.shifts = list(shifts)
        self.sets = list(sets)
        self.neutral = dict(neutral)

    def draw(self, folder: Path, cells: Sequence[Cell], lines: Mapping[str, Line]) -> Path | None:
        """Draw what was measured; None when there is nothing.

        Args:
            folder: to draw into.
            cells: of the evaluation.
            lines: the systems.
        """
        values = {(cell.set, cell.system): cell for cell in cells if cell.measure == self.MEASURE}
        sets = [name for name in self.sets if any(name == found for found, _ in values)]
        if not sets:
            return None
        curves = list(dict.fromkeys(shift.curve for shift in self.shifts if shift.curve is not None))
        bars = [shift for shift in self.shifts if shift.curve is None]
        widths = [1.0] * len(curves) + [0.35 * (len(bars) + 1)]
        figure = Figure(figsize=(3.2 * sum(widths), 2.9 * len(sets) + 0.6), layout="constrained")
        grid = figure.subplots(len(sets), len(widths), squeeze=False, sharey="row", width_ratios=widths)
        for axes, name in zip(grid, sets, strict=True):
            groups = {UNCHANGED: name} | {shift.name: shifted_name(name, shift) for shift in bars}
            width = 0.8 / len(lines)
            for number, (key, line) in enumerate(lines.items()):
                style: dict[str, Any] = {"color": matplotlib.colormaps["tab10"](number), "label": line.label}
                for axis, curve in zip(axes, curves, strict=False):
                    x, y, spread = _measured(values, key, self._points(name, curve))
                    axis.errorbar(x, y, spread, marker="o", markersize=3, linewidth=1.2, capsize=2, **style)
                    axis.set_xlabel(curve)
                x, y, spread = _measured(values, key, dict(enumerate(groups.values())))
                places = [place - 0.4 + (number + 0.5) * width for place in x]
                axes[-1].bar(places, y, width, yerr=spread, error_kw={"linewidth": 0.8}, **style)
            axes[-1].set_xticks(range(len(groups)), [group.replace(", ", ",\n") for group in groups], fontsize=7)
            axes[0].set_ylabel(f"AUPRC, {name}")
            for axis in axes:
                axis.grid(alpha=0.2, axis="y")
                axis.set_ylim(0, 100)
        grid[0, -1].legend(fontsize=7, frameon=False, loc="upper right", ncols=len(lines))
        write_figure(figure, folder / self.FILE)
        return folder / self.FILE

    def _points(self, name: str, curve: str) -> dict[float, str]:
        """Sets by the curve's parameter, ascending; with the unchanged set where the neutral value is known."""
        points = {
            shift.value: shifted_name(name, shift)
            for shift in self.shifts
            if shift.curve == curve and shift.value is not None
        }
        return dict(sorted((points | ({self.neutral[curve]: name} if curve in self.neutral else {})).items()))


def _measured(
    values: Mapping[tuple[str, str], Cell], system: str, sets: Mapping[float, str]
) -> tuple[list[float], list[float], list[float]]:
    """Where a system was measured: places, scores times 100, and their spread (0 where there is none)."""
    found = {place: values[name, system] for place, name in sets.items() if (name, system) in values}
    spread = [100 * cell.std if np.isfinite(cell.std) else 0.0 for cell in found.values()]
    return list(found), [100 * cell.value for cell in found.values()], spread
