"""The pictures of the report's viewer hold the arrays they were made from."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from scripts.reporting.view import MAX_PIXELS, MAX_SLICES, case_view, height_mm, picture, read_view, reduced, save_view

AFFINE = np.array([[1.0, 0, 0, -10], [0, 2.0, 0, -20], [0, 0, 3.0, -9], [0, 0, 0, 1]])


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1])))).astype(int)


def images(shape: tuple[int, int, int] = (20, 30, 6)) -> dict[str, MetaTensor]:
    """RAS arrays (X, Y, Z): a bright lesion at one known voxel block, healthy tissue given there as 0.25."""
    source = np.full(shape, 0.5, np.float32)
    source[2:4, 25:28, 2] = 1.0
    mask = np.zeros(shape, np.float32)
    mask[2:5, 24:29, 2] = 1
    label = np.zeros(shape, np.float32)
    label[2:4, 25:28, 2] = 1
    arrays = {
        "source": source,
        "mask": mask,
        "pseudo_healthy": np.where(mask > 0, 0.25, source),
        "anomaly": label * 0.3,
        "pred": label,
        "analysed": np.ones(shape, np.float32),
    }
    return {
        name: MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], meta={"original_affine": AFFINE})
        for name, array in arrays.items()
    }


def test_layers_are_the_arrays_anterior_up_patient_left_on_the_left() -> None:
    view = case_view(images(), [2], [1.0], 0.05)
    assert view["top"] == pytest.approx(0.3)
    assert view["spacing"] == [2.0, 1.0]
    assert view["coordinates"] == "the file's coordinates"
    layers = {name: decoded(view["slices"][0][name]) for name in ("input", "inside", "maps")}
    # A RAS array (X, Y) becomes rows from anterior (large y) to posterior, columns from small to large x.
    expected = {name: image[0, :, :, 2].numpy().T[::-1] for name, image in images().items()}
    assert np.abs(layers["input"] - expected["source"] * 255).mean() < 2  # JPEG
    assert np.abs(layers["inside"] - np.where(expected["mask"] > 0, 64, 0)).mean() < 2
    np.testing.assert_array_equal(layers["maps"][..., 0], expected["anomaly"] / 0.3 * 255)
    np.testing.assert_array_equal(layers["maps"][..., 1], expected["pred"] * 255)
    np.testing.assert_array_equal(layers["maps"][..., 2], expected["mask"] * 255)


@pytest.mark.real_data
def test_compression_changes_a_real_slice_by_less_than_two_grey_levels(data_root: Path) -> None:
    slice_ = np.asarray(Image.open(sorted((data_root / "ixi_midaxial" / "val").glob("*.png"))[0]).convert("L"))
    url = picture(slice_)
    assert np.abs(decoded(url) - slice_).mean() < 2
    assert len(url) < 16_000


def test_the_level_is_where_the_slice_lies() -> None:
    view = case_view(images(), [2], [1.0], 0.05)
    assert view["slices"][0]["index"] == 2
    assert view["slices"][0]["z_mm"] == -3.0  # -9 + 2 * 3
    assert view["sagittal"]["heights"] == [pytest.approx(1 - 2.5 / 6, abs=1e-4)]
    assert decoded(view["sagittal"]["image"]).shape == (12, 40)  # 18 mm high, 60 mm long, 1.5 mm a pixel
    upside_down = AFFINE @ np.diag([1, 1, -1, 1.0])
    assert height_mm(upside_down, 6, 0) == -9 - 5 * 3
    assert height_mm(upside_down, 6, 5) == -9


def test_a_single_slice_has_no_sagittal_view_and_a_slab_only_some_slices() -> None:
    assert case_view(images((20, 30, 3)), [2], [1.0], 0.05)["sagittal"] is not None
    flat = {name: image[..., 2:3] for name, image in images().items()}
    assert case_view(flat, [0], [1.0], 0.05)["sagittal"] is None
    slab = case_view(images((20, 30, 40)), list(range(40)), [1.0] * 40, 0.05)
    assert len(slab["slices"]) == len(slab["sagittal"]["heights"]) == MAX_SLICES
    assert [slab["slices"][0]["index"], slab["slices"][-1]["index"]] == [0, 39]


def test_large_sections_are_reduced_without_losing_a_small_finding() -> None:
    view = case_view(images((2 * MAX_PIXELS, 700, 6)), [2], [1.0], 0.05)
    maps = decoded(view["slices"][0]["maps"])
    assert max(maps.shape) <= MAX_PIXELS
    assert maps[..., 0].max() == 255
    assert view["spacing"] == [6.0, 3.0]
    np.testing.assert_array_equal(reduced(np.arange(16.0).reshape(4, 4), 2), [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(reduced(np.arange(16.0).reshape(4, 4), 2, peak=True), [[5, 7], [13, 15]])


def test_a_view_is_read_as_it_was_written_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_view(case_view(images(), [2], [1.0], 0.05), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_view(tmp_path / "a") == json.loads((tmp_path / "a").read_text())
    assert read_view(tmp_path / "none") is None
