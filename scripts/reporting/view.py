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
from numpy.typing import NDArray
from PIL import Image

from ..pipeline.findings import COLUMNS
from ..space.levels import PIXEL_MM
from .pictures import HEAT, Shown, evenly_chosen

MAX_SLICES = 26  # of a head, evenly chosen; those of its strongest findings are there in any case
FINDINGS = 20  # that are listed
THUMBNAIL = 64  # pixels
QUALITY = 88  # of the grey pictures, JPEG; off by 2 grey levels of 255 on average (tests/reporting/test_view.py)


def case_view(output: Mapping[str, Any]) -> dict[str, Any]:
    """The view of a case, ready for JSON.

    Args:
        output: the post-processed data of the case.

    Returns:
        - `threshold`, `top`: on the anomaly map's own scale; `top` is stored as 255.
        - `spacing`: mm a pixel along rows and columns.
        - `slices`: for each, `name` (its height) and three pictures (data URLs, anterior up, patient left on the left):
          `input`; `inside`, the pseudo-healthy tissue where the mask is 1; `maps`, lossless, with the anomaly map in
          red, the label in green, the mask in blue.
        - `start`: the slice to begin with, that of the strongest finding.
        - `findings`: rows of `findings.csv`, the strongest first, with `slice`, where in `slices` its middle lies.
        - `sagittal`: a section through the strongest finding with the heights of the slices, None for one slice.
        - `thumbnail`: the first slice to be seen under its anomaly map.
    """
    shown = Shown.of(output)
    found = shown.findings[:FINDINGS]
    levels = [int(np.abs(np.asarray(shown.heights) - finding.mni_z_mm).argmin()) for finding in found]
    chosen = sorted({*evenly_chosen(len(shown.heights), MAX_SLICES), *levels, shown.middle[2]})
    rows, columns = shown.window()
    pictures = []
    for level in chosen:
        pane = {key: volume[rows, columns, level] for key, volume in shown.maps.items()}
        grey = to_byte(pane["source"], shown.white)
        inside = np.where(pane["mask"] > 0, to_byte(pane["pseudo_healthy"], shown.white), 0)
        maps = np.stack(
            [to_byte(pane["anomaly"], shown.top), to_byte(pane["pred"] > 0, 1), to_byte(pane["mask"], 1)], -1
        )
        pictures.append(
            {
                "name": shown.place(level),
                "input": picture(grey),
                "inside": picture(inside.astype(np.uint8)),
                "maps": data_url(Image.fromarray(maps), "PNG", optimize=True),
            }
        )
    first = {key: shown.maps[key][rows, columns, shown.middle[2]] for key in ("source", "anomaly")}
    return {
        "threshold": shown.threshold,
        "top": shown.top,
        "spacing": [PIXEL_MM, PIXEL_MM],
        "slices": pictures,
        "start": chosen.index(shown.middle[2]),
        "findings": [
            {**{name: getattr(finding, name) for name in COLUMNS}, "slice": chosen.index(level)}
            for finding, level in zip(found, levels, strict=True)
        ],
        "sagittal": sagittal(shown, chosen),
        "thumbnail": thumbnail(to_byte(first["source"], shown.white), to_byte(first["anomaly"], shown.top)),
    }


def sagittal(shown: Shown, levels: Sequence[int]) -> dict[str, Any] | None:
    """The section through the strongest finding and the heights of some levels; None for a single one.

    Anterior on the left, superior up; heights are fractions of the picture's height, from its top.
    """
    depth = len(shown.heights)
    if depth == 1:
        return None
    section = to_byte(shown.maps["source"][shown.window()[0], shown.middle[1], ::-1].T, shown.white)
    size = (section.shape[1], max(round(depth * shown.thickness / PIXEL_MM), 1))
    image = Image.fromarray(section).resize(size, Image.Resampling.BOX)
    return {"image": picture(np.asarray(image)), "heights": [round(1.0 - (k + 0.5) / depth, 4) for k in levels]}


def to_byte(image: NDArray, white: float) -> NDArray[np.uint8]:
    """Values 0 to `white` as 0 to 255, rounded; any value above 0 is at least 1."""
    scaled = np.clip(np.asarray(image, dtype=np.float32) / white, 0.0, 1.0) * 255.0
    return np.where(scaled > 0, np.maximum(np.rint(scaled), 1), 0).astype(np.uint8)


def picture(array: NDArray[np.uint8]) -> str:
    """Grey bytes as a JPEG in a data URL: half the size of a lossless file, so that a page can hold 1,000 cases."""
    return data_url(Image.fromarray(array), "JPEG", quality=QUALITY, optimize=True)


def thumbnail(grey: NDArray[np.uint8], heat: NDArray[np.uint8]) -> str:
    """A small colour picture of a slice under its anomaly map."""
    colours = matplotlib.colormaps[HEAT](heat)[..., :3]
    weight = np.clip(2.0 * heat[..., None] / 255.0, 0.0, 0.9)
    blended = grey[..., None] / 255.0 * (1.0 - weight) + colours * weight
    image = Image.fromarray((blended * 255).round().astype(np.uint8))
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
