"""A case after the whole pipeline, made by hand: what pictures and the report's viewer take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.pipeline.findings import Finding
from scripts.pipeline.thresholds import Thresholds
from scripts.space.levels import level_affine
from scripts.space.structures import Share

SHARES = (Share("thalamus", "left", 0.6), Share("cerebral white matter", "left", 0.3))
ROW, COLUMN = 60, 40  # of the finding's middle


@pytest.fixture
def case() -> Callable[..., dict[str, Any]]:
    """Makes a case: `levels` of them, the finding on `level` (None for none)."""

    def make(levels: int = 30, level: int | None = 20, whole: bool = True, alignment: str = "mni") -> dict[str, Any]:
        shape = (128, 128, levels)
        heights = [-15.0 + 2.0 * k for k in range(levels)]
        source = np.full(shape, 20.0, np.float32)
        source[20:110, 30:100] = 100.0
        label = np.zeros(shape, np.float32)
        findings = []
        if level is not None:
            label[ROW - 5 : ROW + 6, COLUMN - 4 : COLUMN + 5, max(level - 2, 0) : level + 3] = 1
            x, y, z = level_affine(heights[0])[:3] @ [ROW, COLUMN, level, 1]
            findings = [Finding(1, 900.0, x, y, z, x, y, z, "left", SHARES, 0.2, 0.3, 0.5, 0.0)]
        arrays = {
            "source": source,
            "coarse": 0.9 * source,
            "mask": label,
            "pseudo_healthy": np.where(label > 0, 50.0, source).astype(np.float32),
            "anomaly": label * 0.3,
            "pred": label,
            "analysed": (source > 50).astype(np.float32),
        }
        meta = {"heights": heights, "thickness": 2.0, "whole": whole, "alignment": alignment}
        return {
            "image": MetaTensor(torch.zeros(2, *shape), meta=meta),
            "shown": {name: MetaTensor(torch.from_numpy(array)[None]) for name, array in arrays.items()},
            "findings": findings,
            "threshold": 0.05,
            "limits": Thresholds(0.05, 300.0, (0.0, 0.2), (0.001, 0.002), ((), ((0.2, 400.0),))),
            "sides_known": True,
            "anomaly_score": 0.0015,
        }

    return make
