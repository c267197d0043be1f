"""The training configs: preprocessing and network as in inference; all stages run, resume and end in a bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from scripts.common.errors import PhanesInputError
from scripts.common.fingerprint import choices, fingerprint
from tests.conftest import BUNDLE, head_slice, run_inference
from tests.method.composed import fill_threshold

CONFIGS = BUNDLE / "configs"
# Networks of a few channels, as changes of network_def.
TINY = {
    "network_def::autoencoder": {"channels": [4, 4, 8, 8, 8], "latent_dim": 4},
    "network_def::inpainter": {"channels": [4, 4, 8], "blocks": 1},
}
RECIPE = {
    "max_epochs": 2,
    "learning_rate": 1e-3,
    "batch_size": 3,
    "rotate_degrees": 2.0,
    "translate": 0.01,
}


def parser_of(*names: str, **overrides) -> ConfigParser:
    """A parser of configs of the bundle, in the order of the overlays."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    parser.update({"bundle_root": str(BUNDLE), "device": torch.device("cpu"), **overrides})
    return parser


def test_training_takes_network_and_preprocessing_from_inference_with_the_changes_of_an_overlay():
    for overlays in ([], ["released_code.json"]):
        train, infer = parser_of("train.json", *overlays), parser_of("inference.json", "paper.json", *overlays)
        networks = [parser.get_parsed_content("network_def") for parser in (train, infer)]
        assert choices(networks[0]) == choices(networks[1])
        shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in networks]
        assert shapes[0] == shapes[1]
        steps = [parser.get_parsed_content("preprocessing").transforms for parser in (train, infer)]
        assert len(steps[0]) >= 8
        assert fingerprint(steps[0]) == fingerprint(steps[1])


def test_a_change_on_the_command_line_reaches_the_network_of_training():
    parser = parser_of("train.json", **{"network_def::mask::percentile": 98})
    assert parser.get_parsed_content("network_def").mask.percentile == 98.0


@pytest.mark.parametrize(("size", "autoencoder", "inpainter"), [("paper", 29_430_785, 15_193_409)])
def test_the_paper_size_is_one_option_away(size, autoencoder, inpainter):
    parser = parser_of("train.json", size=size)
    counts = [
        sum(p.numel() for p in getattr(parser.get_parsed_content("network_def"), name).parameters())
        for name in ("autoencoder", "inpainter")
    ]
    assert counts == [autoencoder, inpainter]


def test_compact_is_an_eighth_of_the_multiply_adds_or_less():
    from torch.utils.flop_counter import FlopCounterMode

    def flops(size: str) -> int:
        parser = parser_of("train.json", size=size)
        image = torch.rand(1, 1, 128, 128)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network = parser.get_parsed_content("network_def").eval()
            network.inpainter(network.autoencoder(image), image)
        return counter.get_total_flops()

    assert flops("compact") <= flops("paper") / 8


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("slices")
    for split, count in (("train", 6), ("val", 3)):
        (root / split).mkdir()
        for n in range(count):
            Image.fromarray(head_slice(seed=n + 10 * count)).save(root / split / f"S{n:03d}.png")
    return root


def run(names: list[str], slices: Path, folder: Path, **overrides) -> None:
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in names],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=str(slices),
        device="cpu",
        **{**TINY, **RECIPE, **overrides},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def test_all_stages_run_resume_and_end_in_a_bundle_that_infers(slices, tmp_path):
    stage1 = {"output_dir": str(tmp_path / "autoencoder")}
    run(["train.json"], slices, tmp_path, **stage1)
    first = torch.load(tmp_path / "autoencoder" / "autoencoder.pt", weights_only=True)
    run(["train.json"], slices, tmp_path, **stage1)  # already complete: a resumed run changes nothing
    again = torch.load(tmp_path / "autoencoder" / "autoencoder.pt", weights_only=True)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert list((tmp_path / "autoencoder").glob("events.out.tfevents.*"))

    perceptual = tmp_path / "perceptual.pt"
    torch.save(parser_of("train.json").get_parsed_content("network_def").perceptual.state_dict(), perceptual)
    files = {
        "autoencoder_file": str(tmp_path / "autoencoder" / "autoencoder.pt"),
        "perceptual_file": str(perceptual),
    }
    run(
        ["train.json", "train_inpainter.json"],
        slices,
        tmp_path,
        output_dir=str(tmp_path / "inpainter"),
        max_epochs=1,
        batch_size=4,
        feature_trunk="distilled",
        feature_weights=str(perceptual),
        **files,
    )
    assert torch.load(tmp_path / "inpainter" / "inpainter.pt", weights_only=True)
    root = tmp_path / "bundle"
    (root / "models").mkdir(parents=True)
    for name in ("configs", "scripts"):
        (root / name).symlink_to(BUNDLE / name)
    shipped = {path: path.stat().st_mtime_ns for path in (BUNDLE / "models").iterdir()}
    run(
        ["train.json", "calibrate.json"],
        slices,
        tmp_path,
        inpainter_file=str(tmp_path / "inpainter" / "inpainter.pt"),
        output_dir=str(root / "models"),
        **files,
    )
    assert shipped == {path: path.stat().st_mtime_ns for path in (BUNDLE / "models").iterdir()}
    record = json.loads((root / "models" / "calibration.json").read_text())
    assert record["healthy_scans"] == 3
    assert np.isfinite(record["label_threshold"])
    assert record["training"]["autoencoder"]["steps"] == 4
    assert record["training"]["inpainter"]["feature_trunk"] == "distilled"
    again = tmp_path / "again"
    run(
        ["train.json", "calibrate.json"],
        slices,
        tmp_path,
        model_file=str(root / "models" / "model.pt"),
        output_dir=str(again),
    )
    assert json.loads((again / "calibration.json").read_text()) == record
    network = {f"{part}::{name}": value for part, changes in TINY.items() for name, value in changes.items()}
    run_inference(root, slices / "val", tmp_path / "results", ["paper.json"], **network)
    assert len(list((tmp_path / "results").glob("*/*_anomaly.nii.gz"))) == 3


def test_stage_1_starts_from_a_file_and_a_resumed_training_takes_the_new_rate(slices, tmp_path):
    start = tmp_path / "start.pt"
    network = parser_of("train.json", **TINY).get_parsed_content("network_def").autoencoder
    torch.save(network.state_dict(), start)
    still = {"start_file": str(start), "learning_rate": 0.0, "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    run(["train.json"], slices, tmp_path, **still)
    trained = torch.load(tmp_path / "run" / "autoencoder.pt", weights_only=True)
    names = dict(network.named_parameters())
    assert names
    assert all(torch.equal(trained[name], value) for name, value in names.items())
    assert json.loads((tmp_path / "run" / "autoencoder.json").read_text())["start_file"] == str(start)
    run(["train.json"], slices, tmp_path, **{**still, "learning_rate": 0.01, "max_epochs": 2})
    best = torch.load(tmp_path / "run" / "checkpoints" / "checkpoint.pt", weights_only=True)["network"]
    assert any(not torch.equal(best[name], value) for name, value in names.items())


def test_training_goes_on_from_given_weights_and_ends_calibrated(slices, tmp_path):
    """As MONAI Label asks for it: its items, its epochs, the weights by a loader put before the handlers."""
    parser = parser_of("train.json", **TINY)
    network = parser.get_parsed_content("network_def")
    fill_threshold(network)
    weights = tmp_path / "bundle_model.pt"
    torch.save(network.state_dict(), weights)
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(weights),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    scans = [{"image": str(path), "label": "label.nii.gz"} for path in sorted((slices / "train").glob("*.png"))]
    out = tmp_path / "run"
    for _ in range(2):  # the second request is not taken for a resumed first
        run(
            ["train.json"],
            tmp_path / "nowhere",
            tmp_path,
            output_dir=str(out),
            **{
                "train::trainer::max_epochs": 1,
                "train::dataset::data": scans[:4],
                "validate::dataset::data": scans[4:],
                "train::handlers": [loader, *parser["train::handlers"]],
            },
        )
    state = torch.load(out / "models" / "model.pt", weights_only=True)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in network.state_dict().items()}
    moved = {
        k for k, v in network.state_dict().items() if not torch.equal(state[k].float(), v.to(state[k].dtype).float())
    }
    assert "autoencoder.decoder.output.weight" in moved
    assert not any(name.startswith(("inpainter", "perceptual")) for name in moved)
    record = json.loads((out / "models" / "calibration.json").read_text())
    assert record["healthy_scans"] == 2
    assert float(state["mask_threshold"]) == pytest.approx(record["mask_threshold"])
    assert torch.equal(torch.load(weights, weights_only=True)["mask_threshold"], torch.tensor(0.05))


def test_stage_2_without_stage_1_says_what_to_run_first(slices, tmp_path):
    stages = ["train.json", "train_inpainter.json"]
    with pytest.raises(RuntimeError) as raised:
        run(stages, slices, tmp_path, output_dir=str(tmp_path / "x"), feature_trunk="distilled")
    assert isinstance(raised.value.__cause__, PhanesInputError)
    assert "autoencoder.pt' does not exist: run train.json first" in str(raised.value.__cause__)


def test_on_the_command_line_a_mistake_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "train", "--bundle_root", str(BUNDLE)]
    config = ["--config_file", str(CONFIGS / "train.json"), "--dataset_dir", str(tmp_path / "nothing")]
    result = subprocess.run([*command, *config], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "nothing" in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_two_processes_train_together_and_write_once(slices, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    configs = f"['{CONFIGS / 'train.json'}','{CONFIGS / 'multi_gpu_train.json'}']"
    options = {
        "bundle_root": str(BUNDLE),
        "config_file": configs,
        "dataset_dir": str(slices),
        "output_dir": str(tmp_path / "run"),
        "max_epochs": "1",
        "batch_size": "4",
        "network_def::autoencoder::latent_dim": "4",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = subprocess.run(
        [*torchrun, "-m", "monai.bundle", "run", "train", *flags],
        capture_output=True,
        text=True,
        cwd=BUNDLE.parent,
        timeout=240,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("checkpoint*")] == ["checkpoint.pt"]
    state = torch.load(tmp_path / "run" / "autoencoder.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in state)
