"""The benchmark compares like with like, and its page is whole; how fast anything is, is not tested."""

from __future__ import annotations

import copy
import json
import sys
import time

import pytest
import torch
from torch.optim import SGD

from scripts.common.errors import PhanesInputError
from scripts.method.coarse_map import CoarseMap
from scripts.method.filling import ConstantFilling
from scripts.method.mask_rule import ScanQuantileMask
from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.study.benchmark.command import run, write_cases
from scripts.study.benchmark.measure import Stopwatch, alternate, has_bfloat16, peak_memory
from scripts.study.benchmark.published import AsPublished, AutoencoderStepAsPublished
from scripts.study.benchmark.run import _number, benchmark, render
from scripts.training.losses import SoftIntroLoss
from scripts.training.steps import AutoencoderStep
from tests.conftest import REPOSITORY
from tests.method.composed import composed

CPU = torch.device("cpu")


@pytest.fixture
def images() -> torch.Tensor:
    coarse = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1)


def test_the_published_composition_and_ours_give_the_same_result_by_the_published_choices(images):
    torch.manual_seed(0)
    network = composed(
        SoftIntroVAE(channels=(4, 8)),
        AOTGenerator(channels=(4, 8, 8), blocks=1, dilations=(1, 2)),
        perceptual=SpatialLPIPS("distilled", smoothing=2.0),
        coarse_map=CoarseMap(saliency="raw"),
        mask=ScanQuantileMask(),
        filling=ConstantFilling(1.0),
    ).eval()
    # The distance is ours, in the form that the package has; everything around it is not.
    lpips = SpatialLPIPS("distilled")
    lpips.load_state_dict(network.perceptual.state_dict())
    published = AsPublished(network, lambda a, b: lpips((a[:, :1] + 1) / 2, (b[:, :1] + 1) / 2))
    with torch.no_grad():
        ours = network(images)
    theirs = published(images)
    assert 0 < ours[:, 2].mean() < 0.5
    torch.testing.assert_close(theirs[:, 3], ours[:, 3], rtol=0, atol=1e-5)
    same = (theirs[:, 2] == ours[:, 2]).flatten(1).all(dim=1)  # a pixel on the threshold may fall either way
    assert same.sum() >= 2
    torch.testing.assert_close(theirs[same], ours[same], rtol=0, atol=1e-5)


def test_the_step_that_shares_passes_moves_the_networks_as_the_one_that_repeats_them(images):
    small = torch.nn.functional.avg_pool2d(images, 4)
    torch.manual_seed(0)
    shared = SoftIntroVAE(image_size=32, channels=(4, 8), latent_dim=6, frozen_norm=True).train()
    repeated = copy.deepcopy(shared)
    moved = []
    for kind, network in ((AutoencoderStep, shared), (AutoencoderStepAsPublished, repeated)):
        optimizers = [SGD(part.parameters(), 1.0) for part in (network.encoder, network.decoder)]
        before = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        torch.manual_seed(1)
        kind(network, *optimizers, SoftIntroLoss())(small)
        moved.append(torch.nn.utils.parameters_to_vector(network.parameters()).detach() - before)
    assert moved[0].norm() > 1e-3
    torch.testing.assert_close(*moved, rtol=1e-3, atol=1e-5)


def test_work_is_measured_in_turn_after_a_warm_up():
    calls: list[str] = []
    timings = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, CPU, "wall")
    assert "".join(calls) == "ab" + "ababab"
    assert timings["a"]["runs"] == 3


def test_waiting_counts_on_the_wall_and_not_on_the_processor():
    wait = {"wait": lambda: time.sleep(0.05)}
    assert alternate(wait, 3, CPU, "wall")["wait"]["median"] >= 0.05
    assert alternate(wait, 3, CPU, "cpu")["wait"]["median"] < 0.04


def test_a_parts_time_is_its_own_without_the_parts_inside_of_it():
    class Waits(torch.nn.Module):
        def __init__(self, seconds: float, inside: torch.nn.Module | None = None) -> None:
            super().__init__()
            self.seconds, self.inside = seconds, inside

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(self.seconds)
            return x if self.inside is None else self.inside(self.inside(x))

    whole = Waits(0.03, Waits(0.06, Waits(0.01)))
    found = Stopwatch(whole, ["inside", "inside.inside"], CPU, "wall")(torch.zeros(1))
    assert found == pytest.approx({"rest": 0.03, "inside": 0.12, "inside.inside": 0.04}, abs=0.02)
    assert not whole.inside._forward_hooks


@pytest.mark.skipif(sys.platform != "linux", reason="the system says its memory on Linux")
def test_memory_is_what_the_work_needs_while_it_runs():
    needed = peak_memory(lambda: torch.ones(50 * 2**20, dtype=torch.uint8), CPU)
    assert needed == pytest.approx(50, abs=15)


def test_a_process_is_timed_with_its_memory_and_its_failure_is_not_overlooked():
    process = run(["-c", "x = bytearray(80 * 2**20); x[::4096] = b'1' * len(x[::4096])"])
    assert process.wall > 0
    assert process.peak_mib > 80
    with pytest.raises(RuntimeError, match="status 3"):
        run(["-c", "raise SystemExit(3)"])


@pytest.mark.skipif(sys.platform != "linux", reason="the system says its memory on Linux")
def test_the_memory_of_a_process_is_not_that_of_the_one_that_started_it():
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"1" * len(ballast[::4096])
    assert 80 < run(["-c", "import time; x = b'1' * (80 * 2**20); time.sleep(0.1)"]).peak_mib < 200


def test_a_cohort_of_one_slice_has_as_many_cases_as_asked(tmp_path):
    folder = write_cases(torch.rand(128, 128), tmp_path / "cases", 4)
    assert len({path.read_bytes() for path in folder.glob("*.png")}) == 1
    assert len(list(folder.iterdir())) == 4


@pytest.mark.slow
def test_a_quick_run_fills_every_table_but_the_command_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    parts = ["inference", "stages", "training"]
    benchmark(str(tmp_path), device="cpu", rounds=1, parts=parts, quick=True)
    result = json.loads((tmp_path / "performance.json").read_text())
    assert set(parts) <= set(result)
    systems = ["ours", "as published"] + ["ours, bfloat16"] * has_bfloat16(CPU)
    kinds = {(row["size"], row["system"]) for row in result["inference"]}
    assert kinds == {(size, system) for size in ("shipped", "paper") for system in systems}
    for row in (*result["inference"], *result["stages"]["rows"], *result["training"]):
        assert row["seconds"]["median"] > 0
    assert sum(row["share"] for row in result["stages"]["rows"]) == pytest.approx(1.0)
    assert 0 < result["stages"]["outside_networks"] < 0.5
    page = (tmp_path / "performance.md").read_text()
    for heading in ("Inference", "Where the time goes", "Training"):
        assert f"## {heading}" in page


def test_a_cohort_is_the_arithmetic_of_the_measured_case_and_ratios_those_of_the_run():
    command = {
        "imports": 1.0,
        "first result beyond imports": 0.5,
        "command beyond imports": 2.0,
        "a further case": 0.36,
    }
    machine = dict.fromkeys(("processor", "instructions", "gpu", "system", "python", "torch"), "x")
    rows = [
        {"size": size, "system": system, "batch": "8", "slices": 8, "peak_mib": None,
         "seconds": {"median": median, "low": 1.0, "high": 3.0, "runs": 3}}
        for size, system, median in (("paper", "as published", 6.0), ("shipped", "ours", 1.5))
    ]  # fmt: skip
    result = {
        "machine": {**machine, "cores": 2, "threads": 1}, "device": "cpu", "clock": "wall", "inference": rows,
        "taken": {"command": {"rounds": 3, "load": [0.1, 1.2]}},
        "command": {"rounds": 3, "cohort": 12, "wall": command, "peak_mib": {"one case": 900.0, "12 cases": 910.0}},
    }  # fmt: skip
    page = render(result)
    assert "100,000 cases take one process 10 hours" in page
    assert "one case 900 MiB, 12 cases 910 MiB" in page
    assert "the shipped method is 4 times as fast as" in page
    assert "Nothing here was measured on a GPU" in page
    assert "measured on a GPU" not in render({**result, "device": "cuda"})


def test_the_page_of_the_docs_is_made_from_its_numbers():
    result = json.loads((REPOSITORY / "bundle" / "docs" / "performance.json").read_text())
    assert (REPOSITORY / "bundle" / "docs" / "performance.md").read_text() == render(result) + "\n"


def test_a_misspelt_part_is_refused():
    with pytest.raises(PhanesInputError, match="parts names stage: choose among inference"):
        benchmark(parts="stage")


def test_numbers_are_readable_at_any_size():
    assert [_number(v) for v in (None, 0.01234, 1.5, 99.94, 123.4, 123456.7)] == [
        "-", "0.0123", "1.5", "99.9", "123", "123,457",
    ]  # fmt: skip
