"""Killed at any moment and started again, a run ends with the bytes of an undisturbed one; nothing is done twice."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanSquaredError, ValidationHandler
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from PIL import Image

from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.training.engines import BestKeeper, EpochSeed, StateExporter, StepTrainer, prepare_image_as_target
from scripts.training.losses import SoftIntroLoss
from scripts.training.steps import AutoencoderStep
from tests.conftest import head_slice, run_inference
from tests.pipeline.faults import Moments, killed_at, tree

KILLS = 6


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slices, and one file that is none."""
    folder = tmp_path_factory.mktemp("cohort")
    for n in range(4):
        Image.fromarray(head_slice(n)).save(folder / f"head{n}.png")
    return folder


def stamps(out: Path) -> dict[str, int]:
    """Time of the last change of every file of every case that has a record and results."""
    cases = [path.stem for path in (out / ".phanes").glob("*.json") if (out / path.stem).is_dir()]
    return {str(path): path.stat().st_mtime_ns for case in cases for path in (out / case).iterdir()}


def test_a_killed_cohort_run_is_taken_up_and_leaves_the_same_bytes(
    scratch_bundle: Path, cohort: Path, tmp_path: Path
) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"

    def analyse(folder: Path) -> None:
        run_inference(scratch_bundle, cohort, folder, save_picture=False)

    with Moments(undisturbed) as moments:
        analyse(undisturbed)
    assert moments.count > 40, "the hook no longer sees the writing"
    rng = random.Random(8)
    kills = 0
    for _ in range(KILLS):
        kills += killed_at(rng.randrange(1, moments.count // 2), out, lambda: analyse(out))
        finished = stamps(out) if out.exists() else {}
    assert kills >= KILLS // 2
    assert not killed_at(0, out, lambda: analyse(out))
    assert tree(out) == tree(undisturbed)
    assert {path: time for path, time in stamps(out).items() if path in finished} == finished


def train(folder: Path, epochs: int = 4) -> None:
    """A tiny autoencoder by the engine, checkpoints, best keeper and exporter of the real trainings."""
    torch.manual_seed(0)
    network = SoftIntroVAE(image_size=16, channels=(4, 8), latent_dim=4)
    optimizers = [torch.optim.Adam(part.parameters(), 1e-3) for part in (network.encoder, network.decoder)]
    items = [{"image": torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(6)]
    augmentation = Compose([RandFlipd("image", 0.5), RandGaussianNoised("image", 1.0, std=0.05)])
    dataset = CacheDataset(items, augmentation, progress=False)
    validator = SupervisedEvaluator(
        "cpu",
        DataLoader(items, batch_size=3),
        network,
        prepare_batch=prepare_image_as_target,
        decollate=False,
        key_val_metric={"val_mse": MeanSquaredError(output_transform=lambda o: (o["pred"], o["label"]))},
    )
    best = BestKeeper(validator, "val_mse", network, str(folder / "checkpoints" / "best.pt"))
    trainer = StepTrainer(
        "cpu",
        epochs,
        DataLoader(dataset, batch_size=2, shuffle=True),
        AutoencoderStep(network, *optimizers, SoftIntroLoss()),
        [network],
        checkpoint={
            "network": network,
            "best": best,
            "encoder_optimizer": optimizers[0],
            "decoder_optimizer": optimizers[1],
        },
        checkpoint_dir=str(folder / "checkpoints"),
        train_handlers=[
            EpochSeed(7, dataset),
            ValidationHandler(1, validator),
            best,
            StateExporter(best, network, str(folder / "network.pt")),
        ],
    )

    def note(engine: Engine) -> None:
        with (folder / "curve.txt").open("a") as file:
            file.write(json.dumps([engine.state.iteration, float(engine.state.output["loss"])]) + "\n")

    folder.mkdir(exist_ok=True)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()


def curve(folder: Path) -> list[list[float]]:
    """(step, loss) of all steps that ran, in the order they ran."""
    return [json.loads(line) for line in (folder / "curve.txt").read_text().splitlines()]


def test_a_killed_training_repeats_the_undisturbed_curve_to_the_last_bit(tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    train(undisturbed)
    rng = random.Random(3)
    kills = 0
    while killed_at(rng.randrange(1, 22), out, lambda: train(out)):  # each start gets a few steps further, or none
        kills += 1
    assert kills >= KILLS // 2
    expected = dict(map(tuple, curve(undisturbed)))
    assert set(dict(map(tuple, curve(out)))) == set(expected)
    assert all(expected[step] == loss for step, loss in curve(out)), "a step that was repeated came out differently"
    assert {path.name for path in (out / "checkpoints").iterdir()} == {
        path.name for path in (undisturbed / "checkpoints").iterdir()
    }
    for name in ("network.pt", "checkpoints/best.pt", "checkpoints/checkpoint.pt"):
        expected_state, state = (torch.load(folder / name, weights_only=True) for folder in (undisturbed, out))
        assert repr(state) == repr(expected_state), name
