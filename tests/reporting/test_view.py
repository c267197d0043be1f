"""What a page shows of a case: the volumes are the arrays they were made from, at their place, and small."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.pipeline.guard import template_levels
from scripts.reporting.pictures import Shown
from scripts.reporting.view import ANALYSED, BRIGHTER, MASK, case_view
from scripts.space.levels import level_affine, nearest_level
from tests.reporting.conftest import COLUMN, ROW


def volumes(view: dict) -> np.ndarray:
    """(5, D, H, W): input, pseudo-healthy inside the mask, anomaly, label, flags."""
    data = zlib.decompress(base64.b64decode(view["volumes"]))
    return np.frombuffer(data, np.uint8).reshape(5, *view["shape"]).astype(int)


def test_volumes_are_the_arrays_lowest_level_first_anterior_up_patient_left_on_the_left(case) -> None:
    view, shown = case_view(case()), Shown.of(case())
    given, inside, anomaly, label, flags = volumes(view)
    rows, columns = shown.window()
    expected = {name: np.moveaxis(volume[rows, columns], -1, 0) for name, volume in shown.maps.items()}
    np.testing.assert_allclose(given, expected["source"] / shown.white / BRIGHTER * 255, atol=1)
    np.testing.assert_array_equal(anomaly, np.round(expected["anomaly"] / np.float32(0.3) * 255))
    np.testing.assert_array_equal(label, expected["pred"])
    np.testing.assert_array_equal(flags & MASK > 0, expected["mask"] > 0)
    np.testing.assert_array_equal(flags & ANALYSED > 0, expected["source"] > 50)
    assert inside[flags & MASK > 0] == pytest.approx(50 / shown.white / BRIGHTER * 255, abs=1)
    assert not inside[flags & MASK == 0].any()
    assert view["white"] * BRIGHTER == 255
    assert view["top"] == pytest.approx(0.3)


def test_findings_lead_to_their_place(case) -> None:
    view = case_view(case(levels=77, level=41))
    (finding,) = view["findings"]
    rows, columns = Shown.of(case(levels=77, level=41)).window()
    assert finding["voxel"] == view["start"] == [41, ROW - rows.start, COLUMN - columns.start]
    assert finding["structures"] == ["left thalamus 60 %", "left cerebral white matter 30 %"]
    assert volumes(view)[3][tuple(finding["voxel"])] == 1
    x, y, z = level_affine(view["heights"][0])[:3] @ [ROW, COLUMN, 41, 1]
    level, row, column = finding["voxel"]
    assert view["origin"][0] + view["spacing"][2] * column == pytest.approx(x)
    assert view["origin"][1] - view["spacing"][1] * row == pytest.approx(y)
    assert view["heights"][level] == pytest.approx(z)
    assert case_view(case(level=None))["findings"] == []


def test_healthy_images_are_told(case) -> None:
    view = case_view(case())
    assert view["score"] == 0.0015
    assert view["healthy"] == {"scores": (0.001, 0.002), "peaks": (0.0, 0.2), "findings": ((), ((0.2, 400.0),))}
    assert json.loads(json.dumps(view, allow_nan=False))["whole"]


def test_levels_that_are_no_t1w_heads_are_told(case) -> None:
    """The template itself, with one level inverted as a T2w image's; and levels without a brain."""
    head, heights = case(levels=30), [-15.0 + 2.0 * k for k in range(30)]
    levels = template_levels()[..., [nearest_level(height) for height in heights]].copy()
    brain = levels > 0.05
    levels[..., 12] = np.where(brain[..., 12], 1.2 - levels[..., 12], 0)
    brain[..., 20] = False
    head["image"] = MetaTensor(torch.from_numpy(levels)[None], meta=head["image"].meta)
    head["shown"]["analysed"] = MetaTensor(torch.from_numpy(brain.astype(np.float32))[None])
    unlike = case_view(head)["unlike"]
    assert "white matter is not brighter" in str(unlike.pop(12))
    assert unlike.pop(19) is None
    assert set(unlike) == {""}


def test_a_single_slice_and_a_height_that_is_not_known(case) -> None:
    view = case_view(case(levels=1, level=0, whole=False, alignment="outline"))
    assert view["shape"][0] == 1
    assert (view["whole"], view["placed"]) == (False, False)
    assert view == case_view(case(levels=1, level=0, whole=False, alignment="outline"))


def test_a_noisy_head_of_all_levels_stays_below_three_megabytes(case) -> None:
    head = case(levels=77, level=41)
    noise = np.random.default_rng(0).standard_normal((128, 128, 77)).astype(np.float32)
    head["shown"]["source"] += torch.from_numpy(5 * noise)  # a twentieth of the tissue's brightness
    head["shown"]["anomaly"] += torch.from_numpy(0.02 * np.abs(noise))
    assert len(case_view(head)["volumes"]) < 3e6
