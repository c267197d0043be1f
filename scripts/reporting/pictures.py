"""The picture of a case: input, coarse reconstruction, mask, pseudo-healthy and anomaly overlay, one row a slice."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from monai.data import MetaTensor
from numpy.typing import NDArray

TITLES = ("Input", "Coarse reconstruction", "Mask", "Pseudo-healthy", "Anomaly map")
MAX_ROWS = 5
HEAT = "inferno"  # perceptually uniform and safe for colour-blind readers


def fading_heat() -> Colormap:
    """A colour map that fades in from fully transparent, so that the anatomy shows where there is little anomaly."""
    colours = matplotlib.colormaps[HEAT](np.linspace(0.25, 1.0, 256))
    colours[:, 3] = np.clip(np.linspace(0.0, 1.5, 256), 0.0, 0.9)
    return LinearSegmentedColormap.from_list("fading_heat", colours)


def axial(image: MetaTensor, affine: NDArray) -> NDArray:
    """(1, X, Y, Z) on any grid -> (rows anterior to posterior, columns left to right, slices upwards)."""
    flips = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt("PRS")
    )
    return nib.orientations.apply_orientation(np.asarray(image[0]), flips)


def axial_spacing(affine: NDArray) -> tuple[float, float, float]:
    """mm a voxel along rows, columns and slices of `axial`."""
    axes = np.argsort(nib.orientations.io_orientation(affine)[:, 0])
    sizes = nib.affines.voxel_sizes(affine)[axes]  # along x, y, z of the patient
    return float(sizes[1]), float(sizes[0]), float(sizes[2])


def lies_in_mni(image: MetaTensor) -> bool:
    """True for an image on the template's grid, or which was believed to lie there (`alignment.AlignHeadd`)."""
    return image.meta.get("alignment") in ("mni", "header")


def analysed_slices(analysed: MetaTensor, source: MetaTensor) -> list[int]:
    """Axial slices of the input, counted upwards, that hold analysed voxels; (1, X, Y, Z) on the native grid each."""
    return np.flatnonzero(axial(analysed, np.asarray(source.meta["original_affine"])).any(axis=(0, 1))).tolist()


def case_figure(
    output: Mapping[str, MetaTensor], slices: Sequence[int], scales: Sequence[float], threshold: float, title: str
) -> Figure:
    """Figure of one case.

    Args:
        output: `source`, `coarse`, `mask`, `pseudo_healthy`, `anomaly`, `pred` and `analysed` on the aligned grid.
        slices: analysed slices, counted upwards.
        scales: the intensity that is shown white, one a slice.
        threshold: label threshold; the overlay's colours run from 0 to at least four times of it.
        title: first line.

    Returns:
        A matplotlib figure with at most `MAX_ROWS` rows, evenly chosen, for a slab of more slices.
    """
    affine = np.asarray(output["source"].meta["original_affine"], dtype=float)
    spacing = axial_spacing(affine)
    in_mni_space = lies_in_mni(output["source"])
    volumes = {
        key: axial(output[key], affine)
        for key in ("source", "coarse", "mask", "pseudo_healthy", "anomaly", "pred", "analysed")
    }
    chosen = evenly_chosen(len(slices), MAX_ROWS)
    top = max(float(volumes["anomaly"].max()), 4.0 * threshold, 1e-6)
    height = 3.3 * len(chosen) + 0.55  # inches
    figure = Figure(figsize=(13.2, height), facecolor="black")
    FigureCanvasAgg(figure)
    # Fixed places: letting matplotlib find them takes longer than all the rest of the picture.
    top_edge = 1.0 - 0.5 / height
    places = {"left": 0.004, "right": 0.93, "bottom": 0.01, "top": top_edge, "wspace": 0.02, "hspace": 0.02}
    axes = figure.subplots(len(chosen), len(TITLES), squeeze=False, gridspec_kw=places)
    for row, n in zip(axes, chosen, strict=True):
        index = slices[n]
        window = analysed_window(volumes["analysed"][..., index])
        pane = {key: volume[..., index][window] for key, volume in volumes.items()}
        grey = {"cmap": "gray", "vmin": min(float(pane["source"].min()), 0.0), "vmax": scales[n] or 1.0}
        for axis, key in zip(row, ("source", "coarse", "source", "pseudo_healthy", "source"), strict=True):
            axis.imshow(pane[key], aspect=spacing[0] / spacing[1], interpolation="nearest", **grey)
            axis.set_axis_off()
        style = {"aspect": spacing[0] / spacing[1], "interpolation": "nearest"}
        row[2].imshow(np.ma.masked_equal(pane["mask"], 0), cmap="autumn", vmin=0, vmax=2, alpha=0.75, **style)
        row[4].imshow(pane["anomaly"], cmap=fading_heat(), vmin=0.0, vmax=top, **style)
        if pane["pred"].any() and not pane["pred"].all():
            row[4].contour(pane["pred"], levels=[0.5], colors="cyan", linewidths=0.7)
        where = f"MNI z = {affine[2, 3] + affine[2, 2] * index:+.0f} mm" if in_mni_space else f"slice {index}"
        row[0].text(0.02, 0.02, where, color="white", fontsize=8, transform=row[0].transAxes)
        for axis in row:
            for x, letter in ((0.01, "L"), (0.99, "R")):
                side = "left" if letter == "L" else "right"
                axis.text(x, 0.5, letter, color="0.7", fontsize=8, ha=side, transform=axis.transAxes)
    for axis, name in zip(axes[0], TITLES, strict=True):
        axis.set_title(name, color="white", fontsize=10)
    place = figure.add_axes((0.938, 0.03, 0.010, top_edge - 0.05))
    bar = figure.colorbar(ScalarMappable(Normalize(0.0, top), fading_heat()), cax=place)
    bar.ax.set_facecolor("black")
    bar.ax.axhline(threshold, color="cyan", linewidth=1.2)
    bar.ax.tick_params(colors="white", labelsize=7)
    bar.set_label(f"anomaly (label above {threshold:.3g})", color="white", fontsize=8)
    shown = "" if len(chosen) == len(slices) else f" - {len(chosen)} of {len(slices)} analysed slices"
    figure.suptitle(f"{_plain(title)}{shown} - research use only", color="white", fontsize=10, y=1.0 - 0.06 / height)
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """PNG without a date in it, so that equal results give equal files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that matplotlib's font lacks
        figure.savefig(path, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})


def evenly_chosen(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` indices, ends included, evenly spread."""
    return [int(n) for n in np.unique(np.linspace(0, count - 1, min(count, limit)).round())]


def analysed_window(analysed: NDArray) -> tuple[slice, slice]:
    """Rows and columns that were analysed, of one section (rows, columns)."""
    rows, columns = np.nonzero(analysed)
    if rows.size == 0:
        return slice(None), slice(None)
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics, on one short line."""
    text = "".join(character if character.isprintable() else "?" for character in text).replace("$", r"\$")
    return text if len(text) <= 80 else f"{text[:77]}..."
