"""The pictures of the report's viewer hold the arrays they were made from."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.reporting.pictures import Shown
from scripts.reporting.view import MAX_SLICES, case_view, picture, read_view, save_view


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))).astype(int)


def test_layers_are_the_arrays_anterior_up_patient_left_on_the_left(case) -> None:
    view = case_view(case())
    assert view["top"] == pytest.approx(0.3)
    first = view["slices"][view["start"]]
    assert first["name"] == "z = +25 mm"
    layers = {name: decoded(first[name]) for name in ("input", "inside", "maps")}
    shown = Shown.of(case())
    rows, columns = shown.window()
    expected = {name: volume[rows, columns, 20] for name, volume in shown.maps.items()}
    assert np.abs(layers["input"] - expected["source"] / shown.white * 255).mean() < 3  # JPEG
    np.testing.assert_array_equal(layers["maps"][..., 0], expected["anomaly"] / np.float32(0.3) * 255)
    np.testing.assert_array_equal(layers["maps"][..., 1], expected["pred"] * 255)
    np.testing.assert_array_equal(layers["maps"][..., 2], expected["mask"] * 255)
    inside = layers["inside"][expected["mask"] > 0]
    assert inside.mean() == pytest.approx(50 / shown.white * 255, abs=15)


@pytest.mark.real_data
def test_compression_changes_a_real_slice_by_less_than_two_grey_levels(data_root: Path) -> None:
    slice_ = np.asarray(Image.open(sorted((data_root / "ixi_midaxial" / "val").glob("*.png"))[0]).convert("L"))
    url = picture(slice_)
    assert np.abs(decoded(url) - slice_).mean() < 2
    assert len(url) < 16_000


def test_findings_lead_to_their_slices(case) -> None:
    view = case_view(case(levels=77, level=41))
    assert MAX_SLICES <= len(view["slices"]) <= MAX_SLICES + 1
    (finding,) = view["findings"]
    assert finding["number"] == 1
    assert view["slices"][finding["slice"]]["name"] == "z = +67 mm"
    assert finding["slice"] == view["start"]
    assert len(view["sagittal"]["heights"]) == len(view["slices"])
    assert view["sagittal"]["heights"][view["start"]] == pytest.approx(1 - 41.5 / 77, abs=1e-4)


def test_a_single_slice_has_no_sagittal_view(case) -> None:
    view = case_view(case(levels=1, level=0, whole=False))
    assert view["sagittal"] is None
    assert len(view["slices"]) == 1
    assert case_view(case(level=None))["findings"] == []


def test_a_view_is_read_as_it_was_written_and_the_same_each_time(case, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_view(case_view(case()), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_view(tmp_path / "a") == json.loads((tmp_path / "a").read_text())
    assert read_view(tmp_path / "none") is None
