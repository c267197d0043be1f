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
from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.study.benchmark.command import run, write_cases
from scripts.study.benchmark.measure import alternate, flops, has_bfloat16, peak_memory
from scripts.study.benchmark.page import render
from scripts.study.benchmark.published import AsPublished, AutoencoderStepAsPublished
from scripts.study.benchmark.run import PARTS, _earlier, benchmark
from scripts.study.benchmark.targets import against_targets
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
        AOTGenerator(channels=(4, 8, 8), blocks=1, dilations=(1, 2), init="kaiming"),
        coarse_map=CoarseMap(saliency="raw"),
    ).eval()
    with torch.no_grad():
        network.mask.threshold.copy_(network.coarse(images)[1].quantile(0.97))
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
    timings = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, CPU)
    assert "".join(calls) == "ab" + "ababab"
    assert timings["a"].record("wall")["runs"] == 3


def test_waiting_counts_on_the_wall_and_not_on_the_processor():
    timing = alternate({"wait": lambda: time.sleep(0.05)}, 3, CPU, warm_up=0)["wait"]
    assert timing.record("wall")["median"] >= 0.05
    assert timing.record("cpu")["median"] < 0.04


def test_operations_of_a_convolution_are_counted_by_hand():
    convolution = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert flops(lambda: convolution(torch.zeros(2, 3, 8, 8))) == 2 * (2 * 8 * 8) * (3 * 3 * 3 * 5)


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
    parts = [part for part in PARTS if part != "command"]
    benchmark(str(tmp_path), device="cpu", rounds=1, parts=parts, quick=True)
    result = json.loads((tmp_path / "performance.json").read_text())
    assert set(parts) <= set(result)
    kinds = {(row["size"], row["system"]) for row in result["inference"]}
    sizes, systems = ("shipped", "one filling", "paper"), ["ours", "as published", "bare networks"]
    if has_bfloat16(torch.device("cpu")):
        systems.append("ours, bfloat16")
    assert kinds == {(size, system) for size in sizes for system in systems}
    for row in (*result["inference"], *result["stages"]["rows"], *result["peers"]["rows"], *result["training"]):
        assert row["seconds"]["median"] > 0
    assert sum(row["share"] for row in result["stages"]["rows"]) == pytest.approx(1.0)
    by_name = {row["system"]: row["gflop"] for row in result["peers"]["rows"]}
    # reference: 6.48 + 6.18 GFLOP for encoder and decoder, about 49.5 for the whole method
    assert by_name["residual autoencoder"] == pytest.approx(12.66, rel=0.02)
    assert by_name["PHANES, published size"] == pytest.approx(49.5, rel=0.03)
    page = (tmp_path / "performance.md").read_text()
    for heading in ("Targets", "Inference", "Where the time goes", "Other methods", "Training", "Decided against"):
        assert f"## {heading}" in page


def made_up_result() -> dict:
    seconds = {"median": 2.0, "low": 1.0, "high": 3.0, "runs": 3}
    command = {
        "imports": 1.0,
        "first result beyond imports": 0.5,
        "command beyond imports": 2.0,
        "a further case": 0.36,
    }
    machine = dict.fromkeys(("processor", "instructions", "gpu", "system", "python", "torch"), "x")
    result = {
        "machine": {**machine, "cores": 2, "threads": 1, "load": 0.1},
        "taken": {"command": {"rounds": 3, "load": [0.1, 1.2]}},
        "device": "cpu",
        "clock": "wall",
        "command": {"rounds": 3, "cohort": 12, "wall": command, "peak_mib": {"one case": 900.0, "12 cases": 910.0}},
        "peers": {
            "rows": [
                {"system": "PHANES, shipped", "seconds": {**seconds, "median": 0.5}, "gflop": 2.0},
                {"system": "AnoDDPM, one step", "seconds": seconds, "gflop": 150.0},
            ],
            "anoddpm_steps": 200,
        },
    }
    return {**result, "targets": against_targets(result)}


def test_the_cost_of_a_cohort_is_the_arithmetic_of_the_measured_case():
    page = render(made_up_result())
    assert "100,000 x 0.36 s / 3600 = 10" in page
    assert "/ 2 = 5" in page
    assert "one case 900 MiB, 12 cases 910 MiB" in page


def test_targets_compare_within_the_run():
    values = {target["what"]: target["value"] for target in against_targets(made_up_result())}
    assert values["AnoDDPM's cost of a slice / ours"] == 200 * 2.0 / 0.5
    assert values["first slice's result beyond importing torch and monai, s"] == 0.5


def test_a_misspelt_part_is_refused():
    with pytest.raises(PhanesInputError, match="parts names stage: choose among inference"):
        benchmark(parts="stage")


def test_numbers_are_readable_at_any_size():
    from scripts.study.benchmark.page import _number

    assert [_number(v) for v in (None, 0.01234, 1.5, 99.94, 123.4, 123456.7)] == [
        "-", "0.0123", "1.5", "99.9", "123", "123,457",
    ]  # fmt: skip


def test_the_page_says_which_targets_are_reached_and_what_was_not_measured():
    result = made_up_result()
    result["targets"][0]["value"] = 499.0
    page = render(result)
    assert "| AnoDDPM's cost of a slice / ours | >= 500.0 | 499 | **not reached** |" in page
    assert "importing torch and monai, s | <= 3.0 | 0.5 | reached |" in page
    assert "Not measured in this run: inference, stages, peers, training, processes, runtimes" in page
    assert "Not measured, for want of a GPU" in page
    assert "for want of a GPU" not in render({**result, "device": "cuda"})


def test_parts_measured_at_another_time_are_kept_and_those_of_another_machine_are_refused(tmp_path):
    (tmp_path / "performance.json").write_text(json.dumps(made_up_result()))
    now = {"machine": {**made_up_result()["machine"], "load": 9.9}, "device": "cpu", "clock": "wall"}
    assert _earlier(tmp_path / "elsewhere", now) == {}
    assert _earlier(tmp_path, now)["command"]["cohort"] == 12
    with pytest.raises(PhanesInputError, match="with threads 1, not 2"):
        _earlier(tmp_path, {**now, "machine": {**now["machine"], "threads": 2}})
    with pytest.raises(PhanesInputError, match="another device or clock"):
        _earlier(tmp_path, {**now, "clock": "cpu"})


def test_a_gpu_has_its_own_target_and_its_own_largest_batch():
    seconds = {"low": 1.0, "high": 3.0, "runs": 3}
    rows = [
        {"size": size, "batch": 64, "system": system, "seconds": {**seconds, "median": median}}
        for size, system, median in (
            ("paper", "as published", 6.0),
            ("paper", "ours", 0.1),
            ("shipped", "ours", 0.05),
            ("one filling", "ours", 0.04),
        )
    ]
    found = against_targets({"device": "cuda", "inference": rows})
    assert [(row["target"], round(row["value"])) for row in found] == [(30.0, 60), (10.0, 120), (10.0, 150)]
