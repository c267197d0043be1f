"""Curves are the logged scalars, whatever file of a resumed run they lie in."""

import pytest
from torch.utils.tensorboard import SummaryWriter

from scripts.common.errors import PhanesInputError
from scripts.reporting.curves import plot_curves, read_curves


def log(folder, steps):
    with SummaryWriter(str(folder)) as writer:
        for step in steps:
            writer.add_scalar("loss", 1.0 / step, step)


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    log(tmp_path / "run", [1, 2, 3])
    log(tmp_path / "run", [3, 4])
    steps, values = read_curves(tmp_path / "run")["loss"]
    assert steps == [1, 2, 3, 4]
    assert values == pytest.approx([1.0, 0.5, 1 / 3, 0.25])
    assert plot_curves([tmp_path / "run"], tmp_path / "x" / "curves.png").stat().st_size > 1000


def test_a_folder_without_curves_says_what_to_give(tmp_path):
    with pytest.raises(PhanesInputError, match="holds no TensorBoard files"):
        read_curves(tmp_path)
