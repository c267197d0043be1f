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

from scripts.reporting.pictures import (
    BELOW,
    MAX_ROWS,
    TITLES,
    Shown,
    analysed_slices,
    case_figure,
    evenly_chosen,
    ranges,
    save_figure,
)
from tests.reporting.conftest import COLUMN, ROW


def test_slices_are_counted_upwards_from_all_48_storage_orders() -> None:
    volume = np.zeros((5, 6, 7), np.uint8)
    volume[1, 2, [1, 4, 5]] = 1
    image = nib.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0]))
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = image.as_reoriented(np.array(list(zip(order, flips, strict=True)), dtype=float))
        analysed = MetaTensor(torch.from_numpy(np.asarray(turned.dataobj).copy())[None])
        source = MetaTensor(torch.zeros(1), meta={"original_affine": turned.affine})
        assert analysed_slices(analysed, source) == [1, 4, 5]
    assert ranges([1, 4, 5, 9]) == "1 4-5 9"
    assert ranges([]) == ""


def test_the_planes_go_through_the_strongest_finding(case) -> None:
    shown = Shown.of(case())
    assert shown.middle == (ROW, COLUMN, 20)
    assert shown.place(20) == "z = +25 mm"
    assert Shown.of(case(level=None)).middle == (64, 64, 15)
    assert Shown.of(case(levels=1, level=0, alignment="outline")).place(0) == "height not known"
    figure = case_figure(case(), "case")
    coronal, sagittal = figure.axes[5], figure.axes[6]
    expected = case()["shown"]["pred"][0].numpy()
    np.testing.assert_array_equal(coronal.images[1].get_array() > 0, expected[ROW].T[::-1] > 0)
    np.testing.assert_array_equal(sagittal.images[1].get_array() > 0, expected[:, COLUMN].T[::-1] > 0)
    assert [text.get_text() for text in coronal.texts] == ["coronal", "L", "R"]
    assert [text.get_text() for text in sagittal.texts] == ["sagittal", "A", "P"]
    headings = [axis.get_title() for axis in figure.axes[:-1]]
    assert headings == [*TITLES, *[""] * 10]
    assert BELOW in [text.get_text() for text in figure.texts]
    lowest = min(axis.get_position().y0 for axis in figure.axes[:5])
    assert all(axis.get_position().y1 < lowest for axis in figure.axes[5:-1])


@pytest.mark.parametrize(("levels", "rows"), [(1, 1), (3, 3), (12, MAX_ROWS)])
def test_a_row_for_each_slice_up_to_a_limit(case, levels: int, rows: int) -> None:
    figure = case_figure(case(levels=levels, level=0, whole=False), "case")
    assert len(figure.axes) == 5 * rows + 1
    assert "1 finding, the strongest in left thalamus 60 %; left" in figure.get_suptitle()


@pytest.mark.parametrize("title", ["$x_{", "a" * 300, "new\nline", "名前"])
def test_any_name_and_an_empty_label_can_be_drawn(case, tmp_path: Path, title: str) -> None:
    save_figure(case_figure(case(level=None), title), tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size[0] > 1000


def test_equal_results_give_equal_pictures(case, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_figure(case_figure(case(), "case"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_colours_run_to_at_least_four_times_the_threshold(case) -> None:
    bar = case_figure(case(level=None), "case").axes[-1]
    assert bar.get_ylim() == pytest.approx((0, 0.2))
    assert "0.05" in bar.get_ylabel()


def test_levels_are_evenly_chosen() -> None:
    assert evenly_chosen(77, 3) == [0, 38, 76]
    assert evenly_chosen(10, 2, ends=False) == [2, 8]
    assert evenly_chosen(2, 5) == [0, 1]


def test_sides_that_the_input_does_not_record_are_not_lettered(case) -> None:
    for known in (True, False):
        output = {**case(), "sides_known": known}
        letters = {text.get_text() for axis in case_figure(output, "case").axes for text in axis.texts}
        assert ({"L", "R"} <= letters) == known
        assert {"A", "P"} <= letters  # of the sagittal plane
