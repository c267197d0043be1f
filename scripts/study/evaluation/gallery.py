"""Pictures for README and docs, from real runs of the shipped weights: `python -m scripts figures`.

Rules choose the columns, not the eye: fixed seeds, fixed changes, and for the failures the worst of twenty lesions.
Without a folder of slices the head is the MNI152 template, whose licence allows the pictures to be published.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ...common.configs import from_inference
from ...method.head import HeadPhanes
from ...pipeline.thresholds import Thresholds
from ...release.demo import dice, write_demo_input
from ...release.export import bundle_network
from ...reporting.pictures import fading_heat, save_figure
from ..baselines.phanes import PhanesSystem
from .benchmarks import SyntheticBenchmark, as_slice
from .overview import overview
from .shapes import PIXEL_MM
from .synthetic import EllipseLesions, StrokeLesions

ROWS = ("input", "true lesion", "coarse", "mask", "pseudo-healthy", "anomaly map")
BATCH = 8
OVERLAY = "mid_axial.json"  # the method that these figures show


@dataclass(frozen=True)
class Column:
    """One slice of a figure.

    Attributes:
        title: above it.
        image: (1, H, W) in [0, 1].
        truth: (1, H, W) boolean, True in the lesion; all False when there is none.
    """

    title: str
    image: Tensor
    truth: Tensor


class Method:
    """The shipped method at the slices' level, with its label threshold, and the tables' preprocessing.

    Args:
        bundle_root: the bundle's folder.
        device: where to compute.
    """

    def __init__(self, bundle_root: str, device: str) -> None:
        self.device = torch.device(device)
        network = cast(HeadPhanes, bundle_network(bundle_root, overlays=[OVERLAY]).to(self.device))
        self.system = PhanesSystem(network)
        parser = ConfigParser()
        parser.read_config([str(Path(bundle_root) / "configs" / name) for name in ("inference.json", OVERLAY)])
        parser.update({"bundle_root": bundle_root})
        self.threshold = Thresholds.of(parser.get_parsed_content("calibration"), "slices").label
        self.preprocessing: Callable[[dict[str, Any]], Any] = from_inference("preprocessing", bundle_root)

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1] -> (N, 4, H, W) anomaly, pseudo-healthy, mask, coarse, on the CPU."""
        with torch.inference_mode():
            return torch.cat([self.system.outputs(part.to(self.device)).cpu() for part in images.split(BATCH)])


def draw_figures(
    out: str = "bundle/docs/images",
    bundle_root: str = "bundle",
    dataset_dir: str | None = None,
    split: str = "test",
    device: str = "cpu",
    tries: int = 20,
) -> None:
    """Draw the figures of README and docs from real runs: the method, reversed lesions, failures.

    Args:
        out: folder for method.png, ellipses.png, strokes.png and failures.png.
        bundle_root: the bundle whose weights are run.
        dataset_dir: folder with SPLIT/*.png to take heads from; without it, the MNI152 template.
        split: sub-folder of dataset_dir.
        device: cpu or cuda.
        tries: number of lesions of which the failures show the worst.
    """
    method = Method(bundle_root, device)
    heads = template_head(method) if dataset_dir is None else slices_of(method, dataset_dir, split)
    strokes = [column for size in ("small", "medium", "large") for column in lesioned(heads, StrokeLesions(size), 2)]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    example = strokes[-1].image
    save_figure(overview(example[0].numpy(), method(example[None])[0].numpy()), folder / "method.png")
    for name, columns in {
        "ellipses": lesioned(heads, EllipseLesions(), 6),
        "strokes": strokes,
        "failures": failures(method, heads, tries),
    }.items():
        outputs = method(torch.stack([column.image for column in columns]))
        save_figure(panels(columns, outputs, method.threshold), folder / f"{name}.png")
    for path in ("method", "ellipses", "strokes", "failures"):
        print(folder / f"{path}.png")


def template_head(method: Method) -> dict[str, Tensor]:
    """The MNI152 template as the network sees it: name -> (1, H, W)."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_demo_input(folder)["healthy"]
        return {"template": as_slice(method.preprocessing({"image": str(path)})["image"])}


def slices_of(method: Method, dataset_dir: str, split: str, most: int = 6) -> dict[str, Tensor]:
    """The first healthy slices of a data set: subject -> (1, H, W)."""
    images, subjects = SyntheticBenchmark(dataset_dir, method.preprocessing, [], split=split).healthy
    return dict(list(zip(subjects, images, strict=True))[:most])


def lesioned(heads: Mapping[str, Tensor], lesions: EllipseLesions | StrokeLesions, count: int) -> list[Column]:
    """Paint a lesion into one head after the other; each further round over the heads has a new seed."""
    columns = []
    for n in range(count):
        subject = list(heads)[n % len(heads)]
        image, truth = lesions(heads[subject][None], [subject], n // len(heads))
        title = lesions.name.replace("_", ", ") + f"\nseed {n // len(heads)}"
        columns.append(Column(title if len(heads) == 1 else f"{title}, {subject}", image[0], truth[0]))
    return columns


def failures(method: Method, heads: Mapping[str, Tensor], tries: int) -> list[Column]:
    """Where the method fails: healthy heads it was not trained for, a faint lesion, the worst of `tries` strokes."""
    head = next(iter(heads.values()))
    none = torch.zeros_like(head, dtype=torch.bool)
    rows, columns = np.meshgrid(*(np.linspace(-1.0, 1.0, n) for n in head.shape[1:]), indexing="ij")
    noise = torch.from_numpy(np.random.default_rng(0).normal(0.0, 0.06, head.shape).astype(np.float32))
    bias = torch.from_numpy(np.exp(0.5 * rows + 0.3 * columns).astype(np.float32))
    changed = {
        "healthy, 10 % smaller,\n8 mm lower": _moved(head[0].numpy(), zoom=0.9, down=8.0 / PIXEL_MM)[None],
        "healthy,\nstrong bias field": (head * bias).clamp(0, 1),
        "healthy, noisy": ((head + noise) * (head > 0)).clamp(0, 1),
    }
    strokes = lesioned(dict(list(heads.items())[:1]), StrokeLesions("medium"), tries)
    labels = method(torch.stack([column.image for column in strokes]))[:, 0] > method.threshold
    overlaps = [dice(label.numpy(), column.truth[0].numpy()) for label, column in zip(labels, strokes, strict=True)]
    worst = strokes[int(np.argmin(overlaps))]
    faint = lesioned(heads, StrokeLesions("medium", level=(0.85, 0.9)), 1)[0]
    return [
        *(Column(title, image, none) for title, image in changed.items()),
        Column("faint stroke\n(85 to 90 % of tissue)", faint.image, faint.truth),
        Column(f"stroke, medium:\nworst of {tries} seeds", worst.image, worst.truth),
    ]


def panels(columns: Sequence[Column], outputs: Tensor, threshold: float) -> Figure:
    """One column a slice: input, true lesion, then what the method makes of it.

    Args:
        columns: N slices.
        outputs: (N, 4, H, W) of `Method`.
        threshold: of the label, which is outlined on the anomaly map. Colours run from 0 to four times the threshold.
    """
    window = head_window(torch.stack([column.image for column in columns]))
    height, width = (1.45 * (side.stop - side.start) / 100 for side in window)  # inches
    figure = Figure(figsize=(width * len(columns) + 0.6, height * len(ROWS) + 0.9), facecolor="black")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, hspace=0.0, wspace=0.0)
    axes = figure.subplots(len(ROWS), len(columns), squeeze=False)
    for n, column in enumerate(columns):
        image, truth = column.image[0].numpy()[window], column.truth[0].numpy()[window]
        anomaly, healthy, mask, coarse = outputs[n].numpy()[:, window[0], window[1]]
        label = anomaly > threshold
        for axis, shown in zip(axes[:, n], (image, image, coarse, image, healthy, image), strict=True):
            axis.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        for row, region, colours in ((1, truth, "cool"), (3, mask, "autumn")):
            axes[row, n].imshow(
                np.ma.masked_equal(region, 0), cmap=colours, vmin=0, vmax=2, alpha=0.75, interpolation="nearest"
            )
        axes[5, n].imshow(anomaly, cmap=fading_heat(), vmin=0.0, vmax=4.0 * threshold, interpolation="nearest")
        if label.any():
            axes[5, n].contour(label, levels=[0.5], colors="cyan", linewidths=0.6)
        axes[0, n].set_title(column.title, color="white", fontsize=7)
        found = f"Dice {dice(label, truth):.2f}" if truth.any() else f"{label.sum() * PIXEL_MM**2:.0f} mm² marked"
        axes[5, n].set_xlabel(found, color="white", fontsize=7)
    for axis, name in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(name, color="white", fontsize=8)
    return figure


def head_window(images: Tensor, margin: int = 3) -> tuple[slice, slice]:
    """Rows and columns that hold something in any of the (N, 1, H, W) images."""
    inside = (images > 0.02).any(dim=0)[0]
    found = (torch.nonzero(inside.any(dim=1 - axis))[:, 0] for axis in (0, 1))
    first, second = (slice(max(int(f[0]) - margin, 0), int(f[-1]) + margin + 1) for f in found)
    return first, second


def _moved(image: NDArray, zoom: float, down: float) -> Tensor:
    """(H, W) scaled about its centre and moved down by `down` pixels, as a head that was not registered."""
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - (centre + np.array([down, 0.0])) / zoom
    return torch.from_numpy(ndimage.affine_transform(image, np.eye(2) / zoom, offset=offset, order=1))
