"""Training through MONAI's engine: resuming repeats the undisturbed curve; the best state is exported."""

import json

import pytest
import torch
from ignite.engine import Engine, Events, State
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from scripts.common.checkpoints import CHECKPOINT
from scripts.common.errors import PhanesInputError
from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.training.cuda_graph import GraphedStep
from scripts.training.engines import (
    BestKeeper,
    EpochSeed,
    Inpainting,
    StateExporter,
    StepTrainer,
    prepare_image_as_target,
    scalars,
)
from scripts.training.holes import PublishedHoles
from scripts.training.losses import SoftIntroLoss
from scripts.training.steps import AutoencoderStep
from tests.method.composed import composed


def train(folder, epochs: int, max_seconds=None, stop_after: int | None = None) -> list[float]:
    """Train a tiny autoencoder with random augmentation; the losses of all steps that ran."""
    torch.manual_seed(0)
    network = SoftIntroVAE(image_size=16, channels=(4, 8), latent_dim=4)
    optimizers = [torch.optim.Adam(part.parameters(), 1e-3) for part in (network.encoder, network.decoder)]
    items = [{"image": torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(6)]
    augmentation = Compose([RandFlipd("image", 0.5), RandGaussianNoised("image", 1.0, std=0.05)])
    dataset = CacheDataset(items, augmentation, progress=False)
    losses: list[float] = []
    trainer = StepTrainer(
        "cpu",
        epochs,
        DataLoader(dataset, batch_size=2, shuffle=True),
        GraphedStep(AutoencoderStep(network, *optimizers, SoftIntroLoss())),
        [network],
        checkpoint={"network": network, "encoder_optimizer": optimizers[0], "decoder_optimizer": optimizers[1]},
        checkpoint_dir=str(folder),
        max_seconds=max_seconds,
        train_handlers=[EpochSeed(7, dataset)],
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"])))
    if stop_after is not None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), lambda e: e.terminate())
    trainer.run()
    return losses


def test_a_resumed_run_repeats_the_undisturbed_curve(tmp_path):
    undisturbed = train(tmp_path / "a", 4)
    first = train(tmp_path / "b", 4, stop_after=2)
    second = train(tmp_path / "b", 4)
    assert len(first) == len(second) == 6
    assert first + second == pytest.approx(undisturbed, rel=1e-6)


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    left = tmp_path / "tmp0123"
    left.touch()  # of a process that was killed while it wrote
    train(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["trainer"]["iteration"] == 9


def test_checkpoints_load_without_executing_anything(tmp_path):
    train(tmp_path, 1)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert {"network", "encoder_optimizer", "decoder_optimizer", "trainer"} <= set(state)


def test_the_exporter_writes_the_best_state_when_there_is_one_and_how_it_came_about(tmp_path):
    network = torch.nn.Linear(1, 1)
    best = BestKeeper(Validated([]), "val_mse", network, str(tmp_path / "best.pt"))
    engine = Engine(lambda engine, batch: None)
    StateExporter(best, network, str(tmp_path / "out" / "network.pt"), {"size": "tiny"}).attach(engine)
    torch.nn.init.constant_(network.bias, 2.0)
    engine.run([0], max_epochs=4)
    assert torch.load(tmp_path / "out" / "network.pt", weights_only=True)["bias"] == 2.0
    torch.save({"network": {"weight": torch.ones(1, 1), "bias": torch.ones(1)}}, tmp_path / "best.pt")
    best.epoch = 3
    engine.run([0], max_epochs=4)
    assert torch.load(tmp_path / "out" / "network.pt", weights_only=True)["bias"] == network.bias == 1.0
    record = json.loads((tmp_path / "out" / "network.json").read_text())
    assert {k: record[k] for k in ("size", "parameters", "steps", "best_epoch")} == {
        "size": "tiny",
        "parameters": 2,
        "steps": 4,
        "best_epoch": 3,
    }


def test_validation_of_the_inpainter_uses_the_same_holes_every_time_and_fills_only_them():
    torch.manual_seed(0)
    network = composed(SoftIntroVAE(channels=(4, 8), latent_dim=4), AOTGenerator((4, 8, 8), 1))
    network.mask.threshold.fill_(1e6)
    holes = PublishedHoles(network)
    validated = Inpainting(network.inpainter, holes, seed=1).eval()
    images = torch.rand(5, 1, 128, 128)
    first, second = validated(images), validated(images)
    assert torch.equal(first, second)
    torch.manual_seed(1)
    outside = holes(images)[1] == 0
    assert torch.equal(first[outside], images[outside])
    assert not torch.equal(first, images)


def test_an_image_is_its_own_validation_target():
    batch = {"image": torch.rand(2, 1, 4, 4, dtype=torch.float64)}
    image, target = prepare_image_as_target(batch, "cpu")
    assert image.dtype == torch.float32
    assert torch.equal(image, target)


def test_scalars_are_plain_numbers():
    assert scalars({"loss": torch.tensor(2.0)}) == {"loss": 2.0}


class Validated:
    """A validator that has just run in every epoch, with the given errors."""

    def __init__(self, errors):
        self.errors = errors
        self.state = State()

    def at(self, epoch):
        self.state.epoch, self.state.metrics = epoch, {"val_mse": self.errors[epoch - 1]}


def keep_best(tmp_path, errors, stop_after=None, keeper=None, output=None, **options):
    network = torch.nn.Linear(1, 1)
    validator = Validated(errors)
    fresh = BestKeeper(validator, "val_mse", network, str(tmp_path / "best.pt"), **options)
    if keeper is not None:
        fresh.load_state_dict(keeper.state_dict())
    trainer = Engine(lambda engine, batch: output)
    start = 0 if keeper is None else len(errors) // 2

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        engine.state.epoch += start
        torch.nn.init.constant_(network.bias, float(engine.state.epoch))
        validator.at(engine.state.epoch)
        fresh(engine)
        engine.state.epoch -= start

    trainer.run([0], max_epochs=(stop_after or len(errors)) - start)
    return fresh, torch.load(tmp_path / "best.pt", weights_only=True)["network"]["bias"].item()


def test_the_lowest_error_is_kept(tmp_path):
    assert keep_best(tmp_path, [0.3, 0.1, 0.2, 0.25])[1] == 2.0


def test_a_loss_that_is_not_a_number_ends_the_training_and_the_best_weights_stay(tmp_path):
    keep_best(tmp_path, [0.3])
    with pytest.raises(PhanesInputError, match=r"not a number any more in epoch 1: train with a smaller learning_rate"):
        keep_best(tmp_path, [0.0], output={"loss": torch.tensor(float("nan"))})  # NaN counts as no error
    assert torch.load(tmp_path / "best.pt", weights_only=True)["network"]["bias"].item() == 1.0


def test_a_resumed_run_does_not_overwrite_a_better_state(tmp_path):
    errors = [0.3, 0.1, 0.2, 0.25]
    keeper, _ = keep_best(tmp_path, errors, stop_after=2)
    assert keep_best(tmp_path, errors, keeper=keeper)[1] == 2.0


def test_training_stops_when_the_error_no_longer_falls(tmp_path):
    keeper, best = keep_best(tmp_path, [0.3, 0.1, 0.2, 0.25, 0.01], patience=2)
    assert best == 2.0
    assert keeper.waited == 2
