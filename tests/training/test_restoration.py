"""Training the restoration network: it learns, goes on where it was stopped, keeps to its time."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.common.errors import PhanesInputError
from scripts.common.files import sha256_of_file
from scripts.method.networks.restoration import RestorationNetwork
from scripts.space.levels import GRID, LEVELS_MM, brain_of_levels
from scripts.training import restoration as module
from scripts.training.lessons import LessonMaker
from scripts.training.prepared import BRAIN_VALUE, write_prepared
from scripts.training.restoration import COLUMNS, fit, read_heads, restoration_loss, start
from tests.conftest import BUNDLE


@pytest.fixture(scope="module")
def heads():
    """Heads of one brightness: a lesion is easy to see."""
    brain = torch.from_numpy(brain_of_levels().copy())
    return torch.where(brain, BRAIN_VALUE, 0).to(torch.uint8).expand(3, *GRID).contiguous()


def small(heads, seed: int = 0) -> tuple[RestorationNetwork, LessonMaker]:
    torch.manual_seed(seed)
    network = RestorationNetwork(LEVELS_MM, widths=(16, 32))
    network.describe_levels(heads, BRAIN_VALUE)
    return network, LessonMaker(heads, torch.from_numpy(brain_of_levels().copy()), seed)


def test_it_learns_to_repaint_lesions(heads, tmp_path, monkeypatch):
    """The same eight lessons again and again are learnt."""
    monkeypatch.setattr(module, "WARMUP", 10)
    network, maker = small(heads)
    lessons = maker(8)

    def repeats(count: int):
        return lessons

    repeats.state = maker.state
    before = restoration_loss(network, lessons)
    fit(network, repeats, tmp_path, steps=160)
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    after = restoration_loss(network, lessons)
    assert before["lesion_error"] == before["lesion_contrast"]  # at first it copies
    assert after["lesion_error"] < 0.6 * after["lesion_contrast"]
    assert after["error"] < 0.8 * before["error"]


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(heads, tmp_path, monkeypatch):
    network, maker = small(heads)
    fit(network, maker, tmp_path / "whole", steps=6, batch=2)

    class Killed(Exception):
        pass

    monkeypatch.setattr(module, "SAVE_SECONDS", -1.0)  # after every step
    network, maker = small(heads)
    calls = iter(range(6))

    def dies(count: int):
        if next(calls) == 4:
            raise Killed
        return LessonMaker.__call__(maker, count)

    dies.state, dies.resume = maker.state, maker.resume
    with pytest.raises(Killed):
        fit(network, dies, tmp_path / "broken", steps=6, batch=2)
    network, maker = small(heads, seed=9)  # neither weights nor lessons of the first start survive in memory
    network.describe_levels(heads, BRAIN_VALUE)
    maker.noise.fields = small(heads)[1].noise.fields
    fit(network, maker, tmp_path / "broken", steps=6, batch=2)
    whole, broken = (torch.load(tmp_path / run / "model.pt", weights_only=True) for run in ("whole", "broken"))
    for name, value in whole.items():
        torch.testing.assert_close(broken[name], value, atol=1e-7, rtol=0, msg=name)


def test_it_keeps_to_its_time_and_leaves_weights(heads, tmp_path):
    network, maker = small(heads)
    fit(network, maker, tmp_path, steps=10**6, batch=2, minutes=0.03)
    assert 1 < torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] < 10**4
    assert (tmp_path / "model.pt").is_file()


def test_a_finished_run_is_left_alone(heads, tmp_path):
    network, maker = small(heads)
    fit(network, maker, tmp_path, steps=2, batch=2)
    before = (tmp_path / "model.pt").read_bytes()
    fit(network, maker, tmp_path, steps=2, batch=2)
    assert (tmp_path / "model.pt").read_bytes() == before


def test_the_curve_has_a_row_every_so_many_steps(heads, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_STEPS", 2)
    network, maker = small(heads)
    out = tmp_path / "runs" / "new"  # a run's folder need not be there yet
    fit(network, maker, out, steps=4, batch=2)
    rows = list(csv.reader((out / "curve.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert [row[0] for row in rows[1:]] == ["2", "4"]
    assert all(math.isfinite(float(value)) for row in rows[1:] for value in row)
    fit(network, maker, out, steps=6, batch=2)
    record = json.loads((out / "record.json").read_text())
    assert [step for step, _ in record["healthy_error_by_step"]] == [2, 4, 6]
    assert record["steps"] == 6
    assert record["trained_parameters"] == sum(p.numel() for p in network.parameters())
    assert record["weights_sha256"] == sha256_of_file(out / "model.pt")
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    assert 0 < checkpoint["processor_seconds"] == pytest.approx(record["processor_seconds"], abs=0.06)


@pytest.mark.parametrize("heights", [LEVELS_MM, [23]])
def test_it_trains_on_what_prepare_wrote(tmp_path, heights):
    for name in ("a", "b"):
        write_prepared(tmp_path / "data/train" / f"{name}.nii.gz", np.where(brain_of_levels(), 1.0, 0.2))
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train_restoration.json"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "run"),
        levels_mm=heights,
        steps=2,
        device=torch.device("cpu"),
    )
    workflow.initialize()
    (weights,) = workflow.run()
    workflow.finalize()
    network = RestorationNetwork(heights)
    network.load_state_dict(torch.load(weights, weights_only=True))
    assert not network(torch.full((1, 2, 128, 128), 0.5)).isnan().any()


def test_a_folder_without_heads_is_refused(tmp_path):
    with pytest.raises(PhanesInputError, match="No prepared heads"):
        read_heads(tmp_path)


def test_the_seed_decides_the_weights_and_leaves_the_global_one_alone(heads):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, _ = start(heads, 0, "cpu")
    assert torch.equal(torch.rand(3), expected)
    second, _ = start(heads, 0, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
