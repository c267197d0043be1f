"""What report.html shows of one case: small pictures of its slices, kept as `<case>_view.json` beside its results.

The page is made from these files, so that a cohort's report needs no more memory than one case's, and a run that was
resumed or shared out among processes ends with the same report as an undisturbed one.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from PIL import Image

from .pictures import HEAT, analysed_window, axial, axial_spacing, evenly_chosen, lies_in_mni

MAX_SLICES = 9  # of a slab, evenly chosen
MAX_PIXELS = 320  # longer side of a picture; larger sections are reduced
SAGITTAL_MM = 1.5  # pixel of the sagittal picture
THUMBNAIL = 64  # pixels
QUALITY = 88  # of the grey pictures, JPEG; off by 2 grey levels of 255 on average (tests/reporting/test_view.py)


def case_view(
    output: Mapping[str, MetaTensor], slices: Sequence[int], scales: Sequence[float], threshold: float
) -> dict[str, Any]:
    """The view of a case, ready for JSON.

    Args:
        output: `source`, `mask`, `pseudo_healthy`, `anomaly`, `pred` and `analysed` on the aligned grid, (1, X, Y, Z).
        slices: analysed slices, counted upwards.
        scales: the intensity that is shown white, one a slice.
        threshold: label threshold.

    Returns:
        - `threshold`, `top`: on the anomaly map's own scale; `top` is stored as 255.
        - `spacing`: mm a pixel along rows and columns; `coordinates`: of the heights, MNI152's or the file's.
        - `slices`: for each, `index`, `z_mm` and three pictures (data URLs, anterior up, patient left on the left):
          `input`; `inside`, the pseudo-healthy tissue where the mask is 1; `maps`, lossless, with the anomaly map in
          red, the label in green, the mask in blue.
        - `sagittal`: a section through the middle of the head with the heights of the slices, None for one slice.
        - `thumbnail`: the middle slice under its anomaly map.
    """
    affine = np.asarray(output["source"].meta["original_affine"], dtype=float)
    spacing = axial_spacing(affine)
    keys = ("source", "mask", "pseudo_healthy", "anomaly", "pred", "analysed")
    volumes = {key: axial(output[key], affine) for key in keys}
    top = max(float(volumes["anomaly"].max()), 4.0 * threshold, 1e-6)
    chosen = evenly_chosen(len(slices), MAX_SLICES)
    step, shown = 1, []
    panes: list[dict[str, NDArray]] = []
    for n in chosen:
        window = analysed_window(volumes["analysed"][..., slices[n]])
        pane = {key: volume[..., slices[n]][window] for key, volume in volumes.items()}
        step = -(-max(pane["source"].shape) // MAX_PIXELS)
        pane = {key: reduced(image, step, peak=key in ("anomaly", "pred", "mask")) for key, image in pane.items()}
        low = min(float(pane["source"].min()), 0.0)
        pane["grey"] = to_byte(pane["source"] - low, (scales[n] or 1.0) - low)
        pane["inside"] = np.where(pane["mask"] > 0, to_byte(pane["pseudo_healthy"] - low, (scales[n] or 1.0) - low), 0)
        pane["heat"] = to_byte(pane["anomaly"], top)
        maps = np.stack([pane["heat"], to_byte(pane["pred"], 1), to_byte(pane["mask"], 1)], axis=-1)
        shown.append(
            {
                "index": int(slices[n]),
                "z_mm": round(height_mm(affine, volumes["source"].shape[2], slices[n]), 1),
                "input": picture(pane["grey"]),
                "inside": picture(pane["inside"]),
                "maps": data_url(Image.fromarray(maps), "PNG", optimize=True),
            }
        )
        panes.append(pane)
    middle = panes[len(panes) // 2]
    return {
        "threshold": threshold,
        "top": top,
        "coordinates": "MNI152 space" if lies_in_mni(output["source"]) else "the file's coordinates",
        "spacing": [spacing[0] * step, spacing[1] * step],
        "slices": shown,
        "sagittal": sagittal(volumes["source"], spacing, [slices[n] for n in chosen]),
        "thumbnail": thumbnail(middle["grey"], middle["heat"], spacing[0] / spacing[1]),
    }


def sagittal(volume: NDArray, spacing: Sequence[float], slices: Sequence[int]) -> dict[str, Any] | None:
    """The section through the middle of the field of view, (rows, columns, slices) -> picture and heights of slices.

    Anterior on the left, superior up; heights are fractions of the picture's height, from its top.
    """
    if volume.shape[2] == 1:
        return None
    section = volume[:, volume.shape[1] // 2, ::-1].T.astype(np.float32)  # superior first, anterior on the left
    low, high = np.percentile(section, (1, 99))
    size = (max(round(section.shape[1] * spacing[0] / SAGITTAL_MM), 1),
            max(round(section.shape[0] * spacing[2] / SAGITTAL_MM), 1))  # fmt: skip
    image = Image.fromarray(to_byte(section - low, max(high - low, 1e-6))).resize(size, Image.Resampling.BOX)
    depth = volume.shape[2]
    return {"image": picture(np.asarray(image)), "heights": [round(1.0 - (k + 0.5) / depth, 4) for k in slices]}


def height_mm(affine: NDArray, depth: int, index: int) -> float:
    """World z (mm) of the middle of an axial slice, counted upwards, in the coordinates of the file."""
    axis = int(np.abs(affine[2, :3]).argmax())
    step = affine[2, axis]
    lowest = affine[2, 3] if step > 0 else affine[2, 3] + step * (depth - 1)
    return float(lowest + abs(step) * index)


def reduced(image: NDArray, step: int, peak: bool = False) -> NDArray:
    """Every block of step x step pixels as its mean, or as its largest value, so that no small finding is lost."""
    if step == 1:
        return image
    rows, columns = (n // step * step for n in image.shape)
    blocks = image[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return blocks.max(axis=(1, 3)) if peak else blocks.mean(axis=(1, 3))


def to_byte(image: NDArray, white: float) -> NDArray[np.uint8]:
    """Values 0 to `white` as 0 to 255, rounded; any value above 0 is at least 1."""
    scaled = np.clip(np.asarray(image, dtype=np.float32) / white, 0.0, 1.0) * 255.0
    return np.where(scaled > 0, np.maximum(np.rint(scaled), 1), 0).astype(np.uint8)


def picture(array: NDArray[np.uint8]) -> str:
    """Grey bytes as a JPEG in a data URL: half the size of a lossless file, so that a page can hold 1,000 cases."""
    return data_url(Image.fromarray(array), "JPEG", quality=QUALITY, optimize=True)


def thumbnail(grey: NDArray[np.uint8], heat: NDArray[np.uint8], aspect: float) -> str:
    """A small colour picture of a slice under its anomaly map; `aspect` is mm a row over mm a column."""
    colours = matplotlib.colormaps[HEAT](heat)[..., :3]
    weight = np.clip(2.0 * heat[..., None] / 255.0, 0.0, 0.9)
    blended = grey[..., None] / 255.0 * (1.0 - weight) + colours * weight
    image = Image.fromarray((blended * 255).round().astype(np.uint8))
    image = image.resize((image.width, max(round(image.height * aspect), 1)))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_url(image, "JPEG", quality=80)


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """An image file as text that a page can hold; the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def view_path(folder: Path, case: str) -> Path:
    """Where the view of a case lies: beside its results in `folder`."""
    return folder / f"{case}_view.json"


def save_view(view: Mapping[str, Any], path: Path) -> None:
    """Write a view."""
    path.write_text(json.dumps(view), encoding="utf-8")


def read_view(path: Path) -> dict[str, Any] | None:
    """The view of a case, None where there is none (the case failed, or was analysed without a report)."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
