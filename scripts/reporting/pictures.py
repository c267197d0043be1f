"""The picture of a case: the strongest finding in three planes, the head's levels under the anomaly map."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from monai.data import MetaTensor
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from ..pipeline.findings import Finding
from ..space.levels import PIXEL_MM, level_affine

TITLES = ("Input", "Coarse reconstruction", "Mask", "Pseudo-healthy", "Anomaly map")
BELOW = "Anomaly map: the finding's other two planes, then other levels"
BELOW_WITHOUT_FINDING = "Anomaly map: the other two planes, then other levels"
COLUMNS = len(TITLES)
MAX_ROWS = 5  # when slices were asked for
TOLD = 3  # structures of the strongest finding
LEVEL_ROWS = 2  # of a whole head, below the five images: two planes, then levels
HEAT = "inferno"  # perceptually uniform and safe for colour-blind readers
BRIGHTEST = 99.0  # percentile of the brain that is shown nearly white
DARK = 0.1  # of white: what is darker everywhere in a row or column is cut off


@dataclass(frozen=True)
class Shown:
    """What pictures show of a case: its maps on the levels, (H, W, D) each.

    Attributes:
        maps: source, coarse, mask, pseudo_healthy, anomaly, pred (the label).
        heights: MNI z of the levels, mm.
        placed: whether the heights are known; those of a slice from an unknown place are not.
        sides_known: whether the input records which side is left.
        thickness: of a level, mm.
        whole: whether this is a whole head.
        white: the intensity that is shown white.
        threshold: of the label.
        top: the anomaly that has the brightest colour.
        findings: the strongest first.
        middle: row, column and level of the strongest finding; without one, of the middle of the head.
    """

    maps: Mapping[str, NDArray]
    heights: Sequence[float]
    placed: bool
    sides_known: bool
    thickness: float
    whole: bool
    white: float
    threshold: float
    top: float
    findings: Sequence[Finding]
    middle: tuple[int, int, int]

    @classmethod
    def of(cls, output: Mapping[str, Any]) -> Shown:
        """From the post-processed data of a case."""
        maps = {name: np.asarray(image[0]) for name, image in output["shown"].items()}
        meta = output["image"].meta
        heights = [float(height) for height in meta["heights"]]
        analysed = maps.pop("analysed") > 0
        threshold, findings = float(output["threshold"]), list(output["findings"])
        middle = tuple(n // 2 for n in analysed.shape)
        shown = cls(
            maps,
            heights,
            meta.get("alignment") != "outline",
            bool(output["sides_known"]),
            float(meta["thickness"]),
            bool(meta["whole"]),
            float(np.percentile(maps["source"][analysed], BRIGHTEST)) * 1.1 or 1.0,
            threshold,
            max(float(maps["anomaly"].max()), 4.0 * threshold, 1e-6),
            findings,
            (middle[0], middle[1], middle[2]),
        )
        return replace(shown, middle=shown.voxel(findings[0])) if findings else shown

    def voxel(self, finding: Finding) -> tuple[int, int, int]:
        """Row, column and level of a finding's middle."""
        place = [finding.mni_x_mm, finding.mni_y_mm, finding.mni_z_mm]
        row, column, _ = apply_affine(np.linalg.inv(level_affine()), place)
        level = np.abs(np.asarray(self.heights) - finding.mni_z_mm).argmin()
        height, width, depth = self.maps["source"].shape
        places = ((row, height), (column, width), (level, depth))
        row, column, level = (min(max(round(float(value)), 0), n - 1) for value, n in places)
        return row, column, level

    def window(self) -> tuple[slice, slice]:
        """Rows and columns with anything but air."""
        bright = np.nonzero(self.maps["source"] > DARK * self.white)
        rows, columns = bright[0], bright[1]
        if not rows.size:
            return slice(None), slice(None)
        return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)

    @property
    def sides(self) -> str:
        """Letters at the left and the right end of an axial picture; blank where the sides are not known."""
        return "LR" if self.sides_known else "  "

    def place(self, level: int) -> str:
        """The height of a level, in words."""
        return f"z = {self.heights[level]:+.0f} mm" if self.placed else "height not known"


def fading_heat() -> Colormap:
    """A colour map that begins transparent, so that the anatomy shows where there is little anomaly."""
    colours = matplotlib.colormaps[HEAT](np.linspace(0.25, 1.0, 256))
    colours[:, 3] = np.clip(np.linspace(0.0, 1.5, 256), 0.0, 0.9)
    return LinearSegmentedColormap.from_list("fading_heat", colours)


def analysed_slices(analysed: MetaTensor, source: MetaTensor) -> list[int]:
    """Numbers of the axial slices with analysed voxels, counted upwards. Images (1, X, Y, Z) on the input's grid."""
    axes = nib.orientations.io_orientation(np.asarray(source.meta["original_affine"]))
    axis = int(np.flatnonzero(axes[:, 0] == 2)[0])
    planes = np.unique(np.argwhere(np.asarray(analysed[0]))[:, axis])
    return sorted(planes.tolist() if axes[axis, 1] > 0 else (analysed.shape[1 + axis] - 1 - planes).tolist())


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: `3 7-9`."""
    runs = np.split(np.asarray(numbers), np.flatnonzero(np.diff(numbers) > 1) + 1) if len(numbers) else []
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def case_figure(output: Mapping[str, Any], title: str) -> Figure:
    """Figure of one case.

    A whole head: the level of the strongest finding as input, coarse reconstruction, mask, pseudo-healthy image and
    anomaly map. Below, under a heading of their own, the anomaly map on the coronal and the sagittal plane through that
    finding, and on other levels, evenly chosen. Slices: the five images of each, at most `MAX_ROWS`, evenly chosen.

    Args:
        output: the post-processed data of the case.
        title: first line.
    """
    shown = Shown.of(output)
    rows = [shown.middle[2]] if shown.whole else evenly_chosen(len(shown.heights), MAX_ROWS)
    below = LEVEL_ROWS if shown.whole else 0
    heading = 0.3 if below else 0.0  # inches, as the height
    height = 3.3 * (len(rows) + below) + 0.55 + heading
    figure = Figure(figsize=(13.2, height), facecolor="black")
    FigureCanvasAgg(figure)
    # Fixed places: letting matplotlib find them takes longer than all the rest of the picture.
    top_edge = 1.0 - 0.5 / height
    places = {"left": 0.004, "right": 0.93, "wspace": 0.02, "hspace": 0.02}
    middle = (3.3 * below + heading) / height + 0.01 if below else 0.01  # where the five images end
    upper = {**places, "bottom": middle, "top": top_edge}
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False, gridspec_kw=upper)
    for row, level in zip(axes, rows, strict=True):
        _five_images(row, shown, level)
    if below:
        lower = {**places, "bottom": 0.01, "top": middle - heading / height}
        others = list(figure.subplots(below, COLUMNS, squeeze=False, gridspec_kw=lower).flat)
        text = BELOW if shown.findings else BELOW_WITHOUT_FINDING
        figure.text(0.467, middle - 0.22 / height, text, color="white", fontsize=10, ha="center")
        row, column, _ = shown.middle
        _overlay(others[0], shown, lambda volume: volume[row].T[::-1], shown.thickness, "coronal", shown.sides)
        _overlay(others[1], shown, lambda volume: volume[:, column].T[::-1], shown.thickness, "sagittal", "AP")
        for axis, level in zip(others[2:], evenly_chosen(len(shown.heights), len(others), ends=False), strict=False):
            _overlay(axis, shown, _axial(shown, level), PIXEL_MM, shown.place(level), shown.sides)
    for axis in figure.axes:
        axis.set_axis_off()
    for axis, name in zip(axes[0], TITLES, strict=True):
        axis.set_title(name, color="white", fontsize=10)
    place = figure.add_axes((0.938, 0.03, 0.010, top_edge - 0.05))
    bar = figure.colorbar(ScalarMappable(Normalize(0.0, shown.top), fading_heat()), cax=place)
    bar.ax.set_facecolor("black")
    bar.ax.axhline(shown.threshold, color="cyan", linewidth=1.2)
    bar.ax.tick_params(colors="white", labelsize=7)
    bar.set_label(f"anomaly (label above {shown.threshold:.3g})", color="white", fontsize=8)
    found = f"{len(shown.findings)} finding{'' if len(shown.findings) == 1 else 's'}"
    if shown.findings and shown.findings[0].structures:
        found += f", the strongest in {'; '.join(map(str, shown.findings[0].structures[:TOLD]))}"
    text = f"{_plain(title)} - {found} - research use only"
    figure.suptitle(text, color="white", fontsize=10, y=1.0 - 0.06 / height)
    return figure


def _axial(shown: Shown, level: int) -> Any:
    """Takes the section at a level out of a volume."""
    rows, columns = shown.window()
    return lambda volume: volume[rows, columns, level]


def _five_images(row: Sequence[Axes], shown: Shown, level: int) -> None:
    cut = _axial(shown, level)
    for axis, key in zip(row, ("source", "coarse", "source", "pseudo_healthy"), strict=False):
        axis.imshow(cut(shown.maps[key]), cmap="gray", vmin=0, vmax=shown.white, interpolation="nearest")
    mask = np.ma.masked_equal(cut(shown.maps["mask"]), 0)
    row[2].imshow(mask, cmap="autumn", vmin=0, vmax=2, alpha=0.75, interpolation="nearest")
    _overlay(row[4], shown, cut, PIXEL_MM, "", shown.sides)
    row[0].text(0.02, 0.02, shown.place(level), color="white", fontsize=8, transform=row[0].transAxes)
    for axis in row[:4]:
        _ends(axis, shown.sides)


def _overlay(axis: Axes, shown: Shown, cut: Any, row_mm: float, name: str, ends: str) -> None:
    """A section under the anomaly map, the label outlined."""
    style: dict[str, Any] = {"aspect": row_mm / PIXEL_MM, "interpolation": "nearest"}
    axis.imshow(cut(shown.maps["source"]), cmap="gray", vmin=0, vmax=shown.white, **style)
    axis.imshow(cut(shown.maps["anomaly"]), cmap=fading_heat(), vmin=0.0, vmax=shown.top, **style)
    label = cut(shown.maps["pred"]) > 0
    if label.any() and not label.all():
        axis.contour(label, levels=[0.5], colors="cyan", linewidths=0.7)
    axis.text(0.02, 0.02, name, color="white", fontsize=8, transform=axis.transAxes)
    _ends(axis, ends)


def _ends(axis: Axes, letters: str) -> None:
    for x, letter, side in ((0.01, letters[0], "left"), (0.99, letters[1], "right")):
        axis.text(x, 0.5, letter, color="0.7", fontsize=8, ha=side, transform=axis.transAxes)


def save_figure(figure: Figure, path: Path, dpi: int = 100) -> None:
    """PNG without a date in it, so that equal results give equal files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that matplotlib's font lacks
        figure.savefig(path, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})


def evenly_chosen(count: int, limit: int, ends: bool = True) -> list[int]:
    """At most `limit` of `count` indices, evenly spread. `ends` includes the first and the last."""
    if count <= limit:
        return list(range(count))
    places = np.linspace(0, count - 1, limit) if ends else (np.arange(limit) + 0.5) * count / limit
    return [int(n) for n in np.unique(places.round())]


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics, on one short line."""
    text = "".join(character if character.isprintable() else "?" for character in text).replace("$", r"\$")
    return text if len(text) <= 80 else f"{text[:77]}..."
