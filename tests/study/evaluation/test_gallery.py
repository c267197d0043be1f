"""The figures of the docs come from runs, follow their rules and need no folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.__main__ import Commands
from scripts.study.evaluation.gallery import Column, head_window, lesioned, panels
from scripts.study.evaluation.overview import head_square
from scripts.study.evaluation.synthetic import EllipseLesions
from tests.conftest import head_slice


def heads(count: int) -> dict[str, torch.Tensor]:
    image = torch.from_numpy(head_slice(shape=(128, 128)).astype(np.float32) / 255)[None]
    return {f"head{n}": image * (1 - 0.1 * n) for n in range(count)}


def test_every_head_has_its_turn_before_a_seed_comes_again() -> None:
    columns = lesioned(heads(2), EllipseLesions(), 4)
    assert [column.title.split("\n")[1] for column in columns] == [
        "seed 0, head0", "seed 0, head1", "seed 1, head0", "seed 1, head1",
    ]  # fmt: skip
    assert all(column.truth.any() for column in columns)
    again = lesioned(heads(2), EllipseLesions(), 4)
    assert all(torch.equal(a.image, b.image) for a, b in zip(columns, again, strict=True))


def test_a_columns_overlap_is_that_of_the_label() -> None:
    image = heads(1)["head0"]
    truth = torch.zeros(1, 128, 128, dtype=torch.bool)
    truth[:, 40:60, 40:60] = True
    outputs = torch.zeros(2, 4, 128, 128)
    outputs[:, 0, 40:60, 50:60] = 0.5  # half of the lesion: Dice 2 * 200 / (400 + 200)
    figure = panels([Column("a", image, truth), Column("b", image, torch.zeros_like(truth))], outputs, 0.1)
    below = [axis.get_xlabel() for axis in figure.axes[-2:]]
    assert below == ["Dice 0.67", "663 mm² marked"]  # 200 pixels of (233 / 128 mm)^2


def test_windows_hold_the_whole_head() -> None:
    image = torch.zeros(1, 1, 128, 128)
    image[0, 0, 20:101, 30:91] = 1
    rows, columns = head_window(image)
    assert (rows, columns) == (slice(17, 104), slice(27, 94))
    square = head_square(image[0, 0].numpy())
    assert image[0, 0].numpy()[square].sum() == image.sum()
    assert np.ptp([square[0].start, square[0].stop]) == np.ptp([square[1].start, square[1].stop])


@pytest.mark.slow
def test_one_command_draws_all_figures(scratch_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "slices" / "test").mkdir(parents=True)
    for n in range(2):
        Image.fromarray(head_slice(n)).save(tmp_path / "slices" / "test" / f"s{n}.png")
    source = {"bundle_root": str(scratch_bundle), "dataset_dir": str(tmp_path / "slices")}
    Commands.figures(str(tmp_path / "out"), **source, tries=2)
    names = ["method.png", "ellipses.png", "strokes.png", "failures.png"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / name) for name in names]
    assert all(Image.open(tmp_path / "out" / name).size[0] > 600 for name in names)
