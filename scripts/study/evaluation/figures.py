"""Figures: examples in the style of the paper's Fig. 3, and precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...common.files import write_atomically
from ...reporting.pictures import save_figure

CELL_INCHES = 1.1


def examples_figure(
    path: Path,
    images: NDArray,
    masks: NDArray,
    systems: Mapping[str, tuple[NDArray | None, NDArray]],
    cases: Sequence[str],
) -> None:
    """One column a slice; rows: input, ground truth, then each system's reconstruction and its map.

    A system's maps share one grey scale, from 0 to the 99.5th percentile of the shown maps. So equal values look equal
    in all slices, as they are for a threshold.

    Args:
        path: of the PNG.
        images: (N, H, W) in [0, 1].
        masks: (N, H, W), > 0 in the lesion.
        systems: reconstruction (or None) and map, (N, H, W) each, by name.
        cases: N names.
    """
    rows: list[tuple[str, NDArray, str, float]] = [
        ("input", images, "gray", 1.0),
        ("ground truth", masks > 0, "gray", 1.0),
    ]
    for name, (reconstruction, anomaly) in systems.items():
        if reconstruction is not None:
            rows.append((name, reconstruction, "gray", 1.0))
        label = name if reconstruction is None else ""
        rows.append((label, anomaly, "inferno", float(np.percentile(anomaly, 99.5)) or 1.0))
    figure = Figure(figsize=(CELL_INCHES * len(images) + 1.4, CELL_INCHES * len(rows) + 0.3), layout=None)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, hspace=0.0, wspace=0.0)
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (label, pictures, colours, top) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, cmap=matplotlib.colormaps[colours], vmin=0.0, vmax=top, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    for axis, case in zip(axes[0], cases, strict=True):
        axis.set_title(case, fontsize=6)
    write_figure(figure, path)


def precision_recall_figure(path: Path, curves: Mapping[str, tuple[NDArray, NDArray, str]], prevalence: float) -> None:
    """Precision over recall of every system, and chance.

    Args:
        path: of the PNG.
        curves: recall, precision and legend text (name and AUPRC) by system.
        prevalence: fraction of lesion pixels, the precision of chance.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    colours = matplotlib.colormaps["tab20"]
    for index, (recall, precision, text) in enumerate(curves.values()):
        axis.step(recall, precision, where="pre", label=text, color=colours(index % 20), linewidth=1.2)
    axis.axhline(prevalence, color="0.6", linewidth=0.8, linestyle=":", label=f"chance ({100 * prevalence:.2f})")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axis.grid(alpha=0.2)
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG whole or not at all."""
    write_atomically(path, lambda partial: save_figure(figure, partial, dpi=150))
