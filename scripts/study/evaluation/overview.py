"""The method in one drawing, with the pictures of a real run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray

from ...reporting.pictures import fading_heat

WIDTH, HEIGHT = 13.6, 4.05  # inches, and the drawing's own units
SIDE = 1.5  # of a picture
ROW = 2.15  # height of the pictures' middle
GREY, BLUE, ORANGE = "0.25", "#0b5394", "#a64d00"


def overview(image: NDArray, output: NDArray) -> Figure:
    """Draw input, stage 1, mask, stage 2 and anomaly map, and what joins them.

    Args:
        image: (H, W) in [0, 1].
        output: (4, H, W): anomaly map, pseudo-healthy image, mask, coarse reconstruction.
    """
    square = head_square(image)
    image, (anomaly, healthy, mask, coarse) = image[square], output[:, square[0], square[1]]
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axis.set_axis_off()
    pictures = [
        (0.9, image, "input x"),
        (4.1, coarse, "coarse reconstruction"),
        (6.7, mask, "mask m"),
        (10.0, healthy, "pseudo-healthy $x_{ph}$"),
        (12.6, image, "anomaly map s"),
    ]
    for x, picture, title in pictures:
        _picture(figure, x, picture)
        axis.text(x, ROW - SIDE / 2 - 0.2, title, ha="center", va="top", fontsize=9.5)
    inset = figure.axes[-1]
    top = float(anomaly.max()) or 1.0
    inset.imshow(anomaly, cmap=fading_heat(), vmin=0.0, vmax=top, interpolation="nearest")
    _box(axis, 2.5, "stage 1\nboth networks\ndraw x anew", BLUE)
    _box(axis, 8.35, "stage 2\nboth networks\nfill the mask", ORANGE)
    for start, end in ((1.7, 1.85), (3.15, 3.3), (4.9, 5.9), (7.5, 7.7), (9.0, 9.2), (10.8, 11.8)):
        _arrow(axis, (start, ROW), (end, ROW))
    axis.text(5.4, ROW + 0.12, "coarse map", ha="center", fontsize=8.5)
    axis.text(11.3, ROW + 0.12, "$s = \\sqrt{(s_c + s_{ph}) S}$", ha="center", fontsize=8.5)
    # Three more arrows of the input: into both maps and, outside the mask, into the inpainter.
    axis.plot([0.9, 0.9, 11.3], [ROW + SIDE / 2, HEIGHT - 0.55, HEIGHT - 0.55], color=GREY, linewidth=1.2)
    for x, low, text in ((5.4, 0.42, "how far $x_c$ is from x,\n> healthy 99.9th percentile"),
                         (8.35, 0.62, "x outside the mask"),
                         (11.3, 0.42, "how far $x_{ph}$ and $x_c$ are from x")):  # fmt: skip
        _arrow(axis, (x, HEIGHT - 0.55), (x, ROW + low))
        axis.text(x, HEIGHT - 0.47, text, ha="center", va="bottom", fontsize=8.5)
    text = "Trained on healthy slices alone: what they draw otherwise is not healthy."
    axis.text(WIDTH / 2, 0.2, text, ha="center", fontsize=10, style="italic", color=GREY)
    return figure


def head_square(image: NDArray) -> tuple[slice, slice]:
    """The square around the head, (H, W) -> rows and columns."""
    rows, columns = np.nonzero(image > 0.02)
    middle = [(int(axis.min()) + int(axis.max())) // 2 for axis in (rows, columns)]
    half = max(int(np.ptp(rows)), int(np.ptp(columns))) // 2 + 4
    first, second = (slice(max(m - half, 0), m + half) for m in middle)
    return first, second


def _picture(figure: Figure, x: float, picture: NDArray) -> None:
    inset = figure.add_axes(((x - SIDE / 2) / WIDTH, (ROW - SIDE / 2) / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT))
    inset.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    inset.set(xticks=[], yticks=[])


def _box(axis: Axes, x: float, text: str, colour: str) -> None:
    shape = "round,pad=0.02,rounding_size=0.12"
    box = FancyBboxPatch((x - 0.62, ROW - 0.6), 1.24, 1.2, boxstyle=shape, linewidth=1.8, fc="white", ec=colour)
    axis.add_patch(box)
    axis.text(x, ROW, text, ha="center", va="center", fontsize=9, color=colour)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=GREY, shrinkA=0, shrinkB=0))
