"""What a page shows of one case: its levels as volumes of bytes, its findings, and the healthy images beside them.

The pages have a canvas viewer of their own (`page/viewer.js`). nilearn's `view_img` shows one image under one map, and
none to compare. NiiVue (`ipyniivue`) fades between two, but is a Jupyter widget of 5 MB. It needs a running kernel and
WebGL 2, which remote desktops often lack.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pipeline.findings import COLUMNS, Finding
from ..pipeline.guard import look_at, objection
from ..pipeline.thresholds import Thresholds
from ..space.levels import PIXEL_MM, level_affine
from .pictures import HEAT, Shown

FINDINGS = 20  # that are listed
THUMBNAIL = 64  # pixels
BRIGHTER = 1.5  # bytes reach this far beyond white, so that window and level have room
ANALYSED, MASK = 1, 2  # bits of the flags


def case_view(output: Mapping[str, Any]) -> dict[str, Any]:
    """The view of a case, ready for JSON.

    Args:
        output: the post-processed data of the case.

    Returns:
        - `volumes`: base64 of the deflated bytes (zlib) of five volumes, one after the other, each (D, H, W), lowest
          level and anterior row and left column first: the input; the pseudo-healthy tissue where the mask is 1, 0
          elsewhere; the anomaly map; the label's numbers; flags, `ANALYSED` + `MASK`.
        - `shape`: D, H, W; `spacing`: mm between levels, rows, columns; `origin`: MNI x of the first column and y of
          the first row, mm.
        - `heights`: MNI z of the levels, mm; `placed`: whether they are known; `whole`: whether this is a whole head;
          `sides_known`: whether the input records which side is left.
        - `white`: the byte that is shown white at first.
        - `threshold`, `top`: on the anomaly map's own scale; `top` is stored as 255.
        - `findings`: rows of `findings.csv`, the strongest first, with `voxel`, the (level, row, column) of the middle.
        - `start`: (level, row, column) to begin with, the middle of the strongest finding.
        - `unlike`: see `unlike_levels`.
        - `score`, `healthy`: the anomaly score, and of the calibration's healthy images `scores`, `peaks` and
          `findings` (peak and size of each, an image after the other), None where not recorded.
        - `thumbnail`: the first level to be seen under its anomaly map.
    """
    shown = Shown.of(output)
    rows, columns = shown.window()
    maps = {name: np.moveaxis(volume[rows, columns], -1, 0) for name, volume in shown.maps.items()}
    brightest = BRIGHTER * shown.white
    analysed = np.moveaxis(np.asarray(output["shown"]["analysed"][0])[rows, columns], -1, 0) > 0
    mask = maps["mask"] > 0
    volumes = [
        to_byte(maps["source"], brightest),
        np.where(mask, to_byte(maps["pseudo_healthy"], brightest), 0).astype(np.uint8),
        to_byte(maps["anomaly"], shown.top),
        maps["pred"].astype(np.uint8),
        (ANALYSED * analysed + MASK * mask).astype(np.uint8),
    ]
    corner = (rows.start or 0, columns.start or 0)
    x, y, _ = level_affine()[:3] @ [*corner, 0, 1]
    first = {key: shown.maps[key][rows, columns, shown.middle[2]] for key in ("source", "anomaly")}
    limits: Thresholds = output["limits"]
    return {
        "volumes": packed(volumes),
        "shape": list(volumes[0].shape),
        "spacing": [shown.thickness, PIXEL_MM, PIXEL_MM],
        "origin": [x, y],
        "heights": list(shown.heights),
        "placed": shown.placed,
        "whole": shown.whole,
        "sides_known": shown.sides_known,
        "white": 255 / BRIGHTER,
        "threshold": shown.threshold,
        "top": shown.top,
        "findings": [
            {**_row(finding), "voxel": _within(shown.voxel(finding), corner, volumes[0].shape)}
            for finding in shown.findings[:FINDINGS]
        ],
        "start": _within(shown.middle, corner, volumes[0].shape),
        "unlike": unlike_levels(output, shown.heights),
        "score": float(output["anomaly_score"]),
        "healthy": {
            "scores": limits.healthy_scores,
            "peaks": limits.healthy_peaks,
            "findings": limits.healthy_findings,
        },
        "thumbnail": thumbnail(to_byte(first["source"], shown.white), to_byte(first["anomaly"], shown.top)),
    }


def unlike_levels(output: Mapping[str, Any], heights: Sequence[float]) -> list[str | None]:
    """Why each level does not look like a healthy T1w head's, by the guard's rules for a single slice.

    It is "" where nothing speaks against the level, and None where it shows too little brain.
    """
    image, analysed = np.asarray(output["image"][0]), np.asarray(output["shown"]["analysed"][0]) > 0
    looks = [look_at(image[..., k : k + 1], analysed[..., k : k + 1], [height]) for k, height in enumerate(heights)]
    return [None if look is None else objection(look, whole=False) for look in looks]


def _row(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in COLUMNS} | {"structures": [str(one) for one in finding.structures]}


def _within(voxel: tuple[int, int, int], corner: tuple[int, int], shape: tuple[int, ...]) -> list[int]:
    """Turn (row, column, level) of the whole grid into (level, row, column) of the part that is shown."""
    place = (voxel[2], voxel[0] - corner[0], voxel[1] - corner[1])
    return [min(max(value, 0), n - 1) for value, n in zip(place, shape, strict=True)]


def to_byte(image: NDArray, white: float) -> NDArray[np.uint8]:
    """Values 0 to `white` as bytes 0 to 255, rounded. Any value above 0 is at least 1."""
    scaled = np.clip(np.asarray(image, dtype=np.float32) / white, 0.0, 1.0) * 255.0
    return np.where(scaled > 0, np.maximum(np.rint(scaled), 1), 0).astype(np.uint8)


def packed(volumes: list[NDArray[np.uint8]]) -> str:
    """Volumes one after the other: base64 of their deflated bytes."""
    deflated = zlib.compress(b"".join(np.ascontiguousarray(volume).tobytes() for volume in volumes), 9)
    return base64.b64encode(deflated).decode("ascii")


def thumbnail(grey: NDArray[np.uint8], heat: NDArray[np.uint8]) -> str:
    """A small colour picture of a slice under its anomaly map, as a data URL."""
    colours = matplotlib.colormaps[HEAT](heat)[..., :3]
    weight = np.clip(2.0 * heat[..., None] / 255.0, 0.0, 0.9)
    blended = grey[..., None] / 255.0 * (1.0 - weight) + colours * weight
    image = Image.fromarray((blended * 255).round().astype(np.uint8))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
