"""The paper at its own size: three steps of each stage, calibration and inference; every number of its recipe.

The weights of VGG19 and of LPIPS' SqueezeNet are random here: the test gives their files by name, as a user gives the
published ones. Minutes on two cores.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import RandAffined, RandFlipd
from PIL import Image
from torch import nn

from scripts.method.networks.perceptual import LPIPS_MEAN, LPIPS_STD
from scripts.method.networks.trunks import squeezenet
from scripts.training.engines import train_loader
from scripts.training.features import PERCEPTUAL_TAPS, STYLE_TAPS
from scripts.training.holes import PublishedHoles
from tests.conftest import BUNDLE, REPOSITORY, head_slice
from tests.training.test_features import vgg19_file
from tests.training.test_train_configs import parser_of

STEPS, BATCH = 3, 8
ADAM = {"lr": 5e-5, "betas": (0.9, 0.999), "weight_decay": 0, "amsgrad": False}
Weights = dict[str, torch.Tensor]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", STEPS * BATCH), ("val", 2)):
        (root / split).mkdir()
        for n in range(count):
            Image.fromarray(head_slice(seed=n + 100 * count)).save(root / split / f"S{n:03d}.png")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def files(runs: Path) -> dict[str, str]:
    torch.manual_seed(1)
    torch.save(squeezenet(LPIPS_MEAN, LPIPS_STD).state_dict(), runs / "squeezenet.pt")
    return {
        "autoencoder_file": str(runs / "autoencoder.pt"),
        "inpainter_file": str(runs / "inpainter.pt"),
        "perceptual_file": str(runs / "squeezenet.pt"),
    }


def trained(stage: tuple[str, ...], data: Path, output_dir: Path, **options: Any) -> ConfigWorkflow:
    """Run a stage at the paper's size; nothing else is named but files."""
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / f"{name}.json") for name in ("train", *stage)],
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=str(data),
        output_dir=str(output_dir),
        device="cpu",
        size="paper",
        **{"network_def::perceptual::trunk": "squeezenet"},
        **options,
    )
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.fixture(scope="module")
def stage_1(data: Path, runs: Path, files: dict[str, str]) -> ConfigWorkflow:
    return trained((), data, runs / "stage1", max_epochs=1, autoencoder_file=files["autoencoder_file"])


@pytest.fixture(scope="module")
def stage_2(data: Path, runs: Path, files: dict[str, str], stage_1: ConfigWorkflow) -> ConfigWorkflow:
    trunk = vgg19_file(runs / "vgg19.pt")
    return trained(("train_inpainter",), data, runs / "stage2", max_epochs=1, feature_weights=trunk, **files)


def test_the_recipe_of_both_stages() -> None:
    """Table 1.5: epochs, early stopping, seed; and the number of steps an epoch of 711 slices has."""
    for stage in ([], ["train_inpainter.json"]):
        parser = parser_of("train.json", *stage)
        wanted = {"max_epochs": 1500, "early_stopping_patience": 500, "seed": 2109}
        assert {name: parser.get_parsed_content(name) for name in wanted} == wanted
        assert len(train_loader(range(711), parser.get_parsed_content("batch_size"))) == 88  # type: ignore[arg-type]


def check_training(workflow: ConfigWorkflow, optimizers: list[str]) -> None:
    """What both stages share, of the objects that ran."""
    parser = workflow.parser
    trainer, loader = parser.get_parsed_content("train::trainer"), parser.get_parsed_content("train_loader")
    assert trainer.state.iteration == STEPS
    assert (loader.batch_size, loader.drop_last) == (BATCH, True)
    assert isinstance(loader.sampler, torch.utils.data.RandomSampler)
    for name in optimizers:
        optimizer = parser.get_parsed_content(name)
        (group,) = optimizer.param_groups
        assert type(optimizer) is torch.optim.Adam
        assert {key: group[key] for key in ADAM} == ADAM  # after the steps: the rate is constant
        assert next(iter(optimizer.state.values()))["step"] == STEPS
    assert parser.get_parsed_content("best").patience == 500
    transforms = parser.get_parsed_content("train::dataset").transform.transforms
    (affine,) = [t for t in transforms if isinstance(t, RandAffined)]
    ranges = affine.rand_affine.rand_affine_grid
    assert [math.degrees(r) for r in ranges.rotate_range] == pytest.approx([10.0])
    assert list(ranges.translate_range) == pytest.approx([12.8, 12.8])  # a tenth of 128 pixels
    assert list(ranges.scale_range) == pytest.approx([0.1, 0.1])
    assert (affine.prob, str(affine.padding_mode[0])) == (1.0, "zeros")
    (flip,) = [t for t in transforms if isinstance(t, RandFlipd)]
    assert (flip.prob, flip.flipper.spatial_axis) == (0.5, 1)
    assert trainer.state.epoch == 1


def test_stage_1_is_the_papers(stage_1: ConfigWorkflow) -> None:
    parser = stage_1.parser
    check_training(stage_1, ["encoder_optimizer", "decoder_optimizer"])
    step = parser.get_parsed_content("step")
    weights = {"beta_rec": 0.5, "beta_kl": 1.0, "beta_neg": 128.0, "gamma_rec": 1e-8, "lambda_reversed": 0.005}
    assert {name: getattr(step.loss, name) for name in weights} == weights
    assert step.loss.alpha == 2.0
    assert not step.detach_rereconstruction
    network = step.network
    assert (parameters(network), parameters(network.encoder)) == (29_430_785, 16_360_896)
    assert network.latent_dim == 128
    assert not network.sample_latent
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    # Trained: the encoder sees a batch, and what was made of it, six times a step.
    assert norms[0].num_batches_tracked >= STEPS
    assert not torch.equal(norms[0].running_var, torch.ones_like(norms[0].running_var))


def test_stage_2_is_the_papers(stage_2: ConfigWorkflow) -> None:
    parser = stage_2.parser
    check_training(stage_2, ["generator_optimizer", "discriminator_optimizer"])
    step = parser.get_parsed_content("step")
    assert step.weights == {"l1": 1.0, "style": 250.0, "perceptual": 0.1, "adversarial": 0.01}
    assert (parameters(step.network.inpainter), parameters(step.discriminator)) == (15_193_409, 2_761_729)
    assert step.trunk.name == "vgg19"
    style, perceptual = step.trunk(torch.rand(1, 1, 128, 128))
    assert STYLE_TAPS == ("relu2_2", "relu3_4", "relu4_4", "relu5_2")
    assert PERCEPTUAL_TAPS == ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    assert [tuple(f.shape[1:]) for f in style] == [(128, 64, 64), (256, 32, 32), (512, 16, 16), (512, 8, 8)]
    assert [f.shape[1] for f in perceptual] == [64, 128, 256, 512, 512]
    assert (step.adversarial.SIGMA, step.adversarial.RADIUS) == (10.0, 35)
    holes = step.holes
    assert type(holes) is PublishedHoles
    image = torch.rand(2, 1, 128, 128)
    filled, mask = holes(image)
    assert torch.equal(filled, image * (1 - mask))  # a hole of 0
    record = json.loads((Path(parser.get_parsed_content("trained_file")).with_suffix(".json")).read_text())
    assert (record["feature_trunk"], record["steps"]) == ("vgg19", STEPS)


def test_random_ellipses_are_the_published_ones(stage_2: ConfigWorkflow) -> None:
    """Ten of half-axes max(2, int |N(2, 4)|): a mean coverage of 2.95 % (reference: 1.9 to 4.4 % of one mask)."""
    holes = stage_2.parser.get_parsed_content("hole_maker")
    holes.network.mask.threshold.fill_(1e6)
    torch.manual_seed(0)
    share = torch.cat([holes(torch.zeros(8, 1, 128, 128))[1] for _ in range(4)]).mean(dim=(1, 2, 3))
    assert 0.024 < share.mean() < 0.040


@pytest.fixture(scope="module")
def calibrated(data: Path, runs: Path, files: dict[str, str], stage_2: ConfigWorkflow) -> Path:
    trained(("calibrate",), data, runs / "calibrated", **files)
    return runs / "calibrated"


def test_calibration_writes_a_whole_model_and_says_what_it_was_trained_with(calibrated: Path) -> None:
    record = json.loads((calibrated / "calibration.json").read_text())
    assert record["training"]["inpainter"]["feature_trunk"] == "vgg19"
    assert (calibrated / "model.pt").stat().st_size < 100e6
    state: Weights = torch.load(calibrated / "model.pt", weights_only=True)
    assert float(state["mask_threshold"]) == pytest.approx(record["mask_threshold"])


def test_inference_takes_the_weights(calibrated: Path, data: Path, tmp_path: Path) -> None:
    configs = [f"'{BUNDLE / 'configs' / name}.json'" for name in ("inference", "paper")]
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--bundle_root", str(BUNDLE)]
    command += ["--size", "paper", "--network_def::perceptual::trunk", "squeezenet"]
    command += ["--config_file", f"[{','.join(configs)}]", "--dataset_dir", str(data / "val" / "S000.png")]
    command += ["--output_dir", str(tmp_path), "--device", "cpu", "--weights_file", str(calibrated / "model.pt")]
    variables = {**os.environ, "TORCH_HOME": str(tmp_path / "empty")}  # nothing is fetched: model.pt holds all
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.glob("*/*_anomaly.nii.gz"))
