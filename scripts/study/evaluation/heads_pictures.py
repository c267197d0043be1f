"""The best, the middle and the worst head of a set, with every system's map beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .figures import write_figure
from .heads_data import HeadCase, load

INCHES = 1.6
WIDE = 99.5  # percentile of the shown maps that is brightest


def shown_slice(values: NDArray, affine: NDArray, index: int) -> NDArray:
    """The axial slice `index`, counted upwards, of (X, Y, Z): rows anterior -> posterior, columns left -> right."""
    return _axial(values, affine)[..., index]


def most_lesion(case: HeadCase) -> int:
    """Index of the axial slice with the most lesion, counted upwards; in a healthy head, the middle of the brain."""
    affine = np.asarray(load(case.image).affine)
    region = case.brain if case.truth is None or not case.truth.any() else case.truth
    areas = _axial(region, affine).sum(axis=(0, 1))
    return int(areas.argmax())


def best_middle_worst(scores: Sequence[float]) -> list[int]:
    """Three heads by their score; fewer where there are not three."""
    order = np.argsort(scores, kind="stable")[::-1]
    return list(dict.fromkeys(int(order[place]) for place in (0, (len(order) - 1) // 2, len(order) - 1)))


def heads_figure(
    path: Path,
    cases: Sequence[HeadCase],
    maps: Mapping[str, Sequence[NDArray]],
    scores: Mapping[str, Sequence[float]],
) -> None:
    """One row a head: the slice with the most lesion, the truth outlined, then each system's map and its Dice.

    Args:
        path: of the PNG.
        cases: the heads.
        maps: by system, a slice (rows, columns) a head, from `shown_slice` at `most_lesion`.
        scores: by system, each head's best Dice, a fraction.
    """
    tops = {
        name: max(float(np.percentile(np.concatenate([m.ravel() for m in of]), WIDE)), 1e-9)
        for name, of in maps.items()
    }
    figure = Figure(figsize=(INCHES * (1 + len(maps)) + 0.3, INCHES * len(cases) * 1.1 + 0.3), layout="constrained")
    axes = figure.subplots(len(cases), 1 + len(maps), squeeze=False)
    for row, (case, line) in enumerate(zip(cases, axes, strict=True)):
        head = load(case.image)
        affine, index = np.asarray(head.affine), most_lesion(case)
        spacing = nib.affines.voxel_sizes(affine)[np.argsort(nib.orientations.io_orientation(affine)[:, 0])]
        aspect = float(spacing[1] / spacing[0])
        image = shown_slice(np.asarray(head.dataobj, dtype=np.float32), affine, index)
        line[0].imshow(image, cmap="gray", vmin=0, vmax=np.percentile(image, WIDE), aspect=aspect)
        if case.truth is not None:
            line[0].contour(shown_slice(case.truth, affine, index), [0.5], colors="lime", linewidths=0.6)
        line[0].set_ylabel(case.name, fontsize=6)
        for axis, (name, of) in zip(line[1:], maps.items(), strict=True):
            axis.imshow(of[row], cmap=matplotlib.colormaps["inferno"], vmin=0, vmax=tops[name], aspect=aspect)
            axis.set_xlabel(f"Dice {100 * scores[name][row]:.0f}", fontsize=6)
            axis.set_title(name if row == 0 else "", fontsize=7)
        for axis in line:
            axis.set(xticks=[], yticks=[])
    write_figure(figure, path)


def _axial(values: NDArray, affine: NDArray) -> NDArray:
    flips = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt("PRS")
    )
    return nib.orientations.apply_orientation(values, flips)
