"""What each network carries: numbers that are known beforehand, from networks that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from scripts.__main__ import Commands
from scripts.method.head import HeadPhanes
from scripts.method.networks.both import BothNetworks
from scripts.space.levels import brain_of_levels
from scripts.study import removals
from scripts.study.evaluation import stages as study
from scripts.study.evaluation.metrics import average_precision, rank
from scripts.study.removals import row_label
from scripts.training.prepared import write_prepared
from tests.method.networks.test_linear import HEIGHTS, brain_mask, network, random_heads  # noqa: F401 - a fixture

DEPTH = 0.35
ALONE, UNFILLED, WITHOUT_S = (row_label([part]) for part in (removals.LINEAR, removals.FILLING, removals.SIMILARITY))


class Copy(nn.Module):
    """A network that draws what it sees."""

    def forward(self, x: Tensor, hole: Tensor | None = None) -> Tensor:
        return x[:, :1]

    fill = forward


def method_of(restoration: nn.Module, linear: nn.Module) -> HeadPhanes:
    method = HeadPhanes(BothNetworks(restoration, linear), brain_mask(), HEIGHTS)  # type: ignore[arg-type]
    method.mask.threshold.fill_(4.0)
    return method.eval()


@pytest.fixture
def heads() -> list[study.PaintedHead]:
    """Two heads with lesions of 4 x 4 x 3 voxels that lie apart."""
    made = []
    for number, clean in enumerate(random_heads(2, brain_mask(), seed=12)):
        lesion = torch.zeros_like(clean, dtype=torch.bool)
        lesion[7 + 5 * number : 11 + 5 * number, 10:14, 1:4] = True
        volumes = [torch.stack([x, torch.tensor(HEIGHTS).expand_as(x)])[None] for x in (clean, clean - DEPTH * lesion)]
        made.append(study.PaintedHead(*volumes, lesion[None, None]))
    return made


def test_with_the_stand_in_in_every_place_ratios_are_1_and_no_points_are_lost(network, heads):  # noqa: F811
    rows = study.measured(method_of(network, network), heads)
    assert rows[study.METHOD]["AUPRC"] > 90
    cells = {
        line[0]: line[1:]
        for line in ([*map(str.strip, t.split("|")[1:])] for t in study.table(rows).split("\n"))
        if line
    }
    for name in (study.METHOD, ALONE, study.LINEAR):
        assert rows[name] == rows[study.LINEAR]
        assert cells[name][1:8:2] == ["1.00", "1.00", "1.00", "0.0"]


def test_a_network_that_copies_fails_in_lesions_and_in_holes(network, heads):  # noqa: F811
    rows = study.measured(method_of(Copy(), network), heads)
    copy, linear = rows[ALONE], rows[study.LINEAR]
    assert pytest.approx(200 * DEPTH, rel=1e-5) == copy["in lesions"] > 5 * linear["in lesions"]
    assert copy["elsewhere"] == 0
    assert copy["in clean holes"] > 5 * linear["in clean holes"]  # the holes are blank
    assert rows[study.METHOD]["AUPRC"] - copy["AUPRC"] > 50


def test_a_hole_is_the_other_heads_lesion_grown_and_the_mean_stands_where_all_is_hidden(network, heads):  # noqa: F811
    rows = study.measured(method_of(network, network), heads)
    errors: dict[str, list[Tensor]] = {study.LINEAR: [], study.MEAN: []}
    for head, other in zip(heads, heads[::-1], strict=True):
        hole = ndimage.binary_dilation(other.lesion[0, 0].numpy(), np.ones((5, 5, 5))) & brain_mask().numpy()
        slices, levels = head.clean[0].permute(3, 0, 1, 2), torch.from_numpy(hole).permute(2, 0, 1)[:, None]
        for name, hidden in ((study.LINEAR, levels), (study.MEAN, torch.ones_like(levels))):
            errors[name].append((network.fill(slices, hidden.float()) - slices[:, :1]).abs()[levels])
    for name, found in errors.items():
        assert rows[name]["in clean holes"] == pytest.approx(200 * float(torch.cat(found).mean()), rel=1e-3)


@torch.no_grad()
def test_scores_are_those_of_the_method_and_of_its_steps(network, heads):  # noqa: F811
    method, brain = method_of(Copy(), network), brain_mask()[None, None]
    rows = study.measured(method, heads)
    expected: dict[str, list[Tensor]] = {study.METHOD: [], UNFILLED: [], WITHOUT_S: []}
    for head in heads:
        coarse, coarse_map = method.coarse(head.painted)
        mask = method.mask(coarse_map) * brain
        filled = torch.where(mask > 0, method.fill(head.painted, mask), coarse)
        expected[study.METHOD].append(method(head.painted)[:, :1][brain])
        expected[UNFILLED].append(method.complete(head.painted, 0 * mask, coarse, coarse_map)[0][brain])
        expected[WITHOUT_S].append((coarse_map + method.map_of(head.painted, filled))[brain])
    truth = torch.cat([head.lesion[brain] for head in heads])
    for name, maps in expected.items():
        assert rows[name]["AUPRC"] == pytest.approx(100 * average_precision(rank(torch.cat(maps), truth)), abs=0.05)


@pytest.mark.slow
def test_one_command_paints_into_prepared_heads_and_prints_the_table(scratch_bundle: Path, tmp_path: Path, capsys):
    file = tmp_path / "val" / "head.nii.gz"
    file.parent.mkdir()
    brain = brain_of_levels()
    write_prepared(file, brain * np.random.default_rng(0).normal(1.0, 0.05, brain.shape))
    (head,) = study.painted_heads([file], study.made_up_shapes(0), seed=0)
    assert np.median(head.painted[0, 0].numpy()[brain]) == pytest.approx(0.5, abs=1e-3)
    left = (head.painted[:, 0] / head.clean[:, 0].clamp(min=1e-6))[0].numpy()
    assert 0.1 < left[head.lesion[0, 0]].mean() < 0.6  # half as bright; the noise's contrast is doubled, as tissue's is
    assert (left[brain] == 1).mean() > 0.9
    Commands.stages(str(tmp_path), str(scratch_bundle), shapes_dir="")
    assert f"| {WITHOUT_S} | - |" in capsys.readouterr().out
