"""The picture shows what the arrays hold, the right way round."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from scripts.reporting.pictures import MAX_ROWS, axial, axial_spacing, case_figure, save_figure


def images(depth: int = 3, label: bool = True) -> dict[str, MetaTensor]:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.random((1, 30, 20, depth), dtype=np.float32))
    mask = torch.zeros(1, 30, 20, depth)
    if label:
        mask[:, 5:10, 5:9] = 1
    arrays = {"source": source, "coarse": source, "pseudo_healthy": source, "mask": mask, "anomaly": mask * 0.1}
    arrays |= {"pred": mask, "analysed": torch.ones_like(mask)}
    return {name: MetaTensor(array, meta={"original_affine": affine}) for name, array in arrays.items()}


def test_axial_view_is_the_same_from_all_48_storage_orders() -> None:
    volume = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    image = nib.Nifti1Image(volume.astype(np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    expected = volume.transpose(1, 0, 2)[::-1]  # rows anterior to posterior, columns left to right
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = image.as_reoriented(np.array(list(zip(order, flips, strict=True)), dtype=float))
        view = axial(MetaTensor(torch.from_numpy(np.asarray(turned.dataobj).copy())[None]), turned.affine)
        np.testing.assert_array_equal(view, expected)
        assert axial_spacing(turned.affine) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(("slices", "rows"), [([1], 1), ([0, 1, 2], 3), (list(range(12)), MAX_ROWS)])
def test_a_row_for_each_slice_up_to_a_limit(slices: list[int], rows: int) -> None:
    figure = case_figure(images(12), slices, [1.0] * len(slices), 0.05, "case")
    assert len(figure.axes) == 5 * rows + 1
    title = figure.get_suptitle()
    assert "research use only" in title
    assert ("of 12 analysed" in title) == (rows == MAX_ROWS)


@pytest.mark.parametrize("title", ["$x_{", "a" * 300, "new\nline", "名前"])
def test_any_name_and_an_empty_label_can_be_drawn(tmp_path: Path, title: str) -> None:
    save_figure(case_figure(images(label=False), [1], [1.0], 0.05, title), tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size[0] > 1000


def test_equal_results_give_equal_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_figure(case_figure(images(), [1], [1.0], 0.05, "case"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_colours_run_to_at_least_four_times_the_threshold() -> None:
    bar = case_figure(images(), [1], [1.0], 0.05, "case").axes[-1]
    assert bar.get_ylim() == pytest.approx((0, 0.2))
    assert "0.05" in bar.get_ylabel()
