"""Training engines: MONAI/Ignite trainers around the steps of `steps.py`, and the handlers they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import TimeLimit
from ignite.handlers.tqdm_logger import ProgressBar
from monai.data.utils import set_rnd
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader
from monai.handlers.tensorboard_handlers import TensorBoardHandler
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, DistributedSampler

from ..common.checkpoints import NewestCheckpoint, latest_checkpoint, save_state
from ..common.processes import process_rank
from ..method.filling import compose_pseudo_healthy
from ..method.phanes import Phanes
from .holes import HoleMaker

Step = Callable[[Tensor], dict[str, Tensor]]


def image_batch(batch: dict[str, Any], device: torch.device | str, non_blocking: bool = False) -> Tensor:
    """The batch's `image`, (B, 1, H, W), as a plain float tensor on the device."""
    image = batch["image"]
    return torch.as_tensor(image.as_tensor() if hasattr(image, "as_tensor") else image).to(
        device, torch.float32, non_blocking=non_blocking
    )


def prepare_image_as_target(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
) -> tuple[Tensor, Tensor]:
    """MONAI `prepare_batch` of the validation: an image is its own target."""
    image = image_batch(batch, device or "cpu", non_blocking)
    return image, image


class StepTrainer(SupervisedTrainer):
    """A MONAI trainer that calls a step from `steps.py` for every batch; the step owns its optimisers and losses.

    It is a `SupervisedTrainer` because MONAI's federated client takes no other, and exchanges `trainer.network`.

    Args:
        device: where to train.
        max_epochs: epochs.
        train_data_loader: yields dictionaries with `image`, (B, 1, H, W) in [0, 1].
        step: images -> dict of scalars, kept in `state.output`.
        networks: set to training mode before every epoch; the first one is the trainer's `network`.
        warmup_step: another step for the first epochs.
        warmup_epochs: how many.
        max_seconds: stop cleanly after this time (checked after every step).
        checkpoint: objects of a resumable state; the trainer adds its own.
        checkpoint_dir: where `checkpoint_epoch=N.pt` is kept after every epoch, the newest one only.
        resume: continue from that checkpoint when there is one.
        train_handlers: MONAI or Ignite handlers.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable | DataLoader,
        step: Step,
        networks: Sequence[nn.Module],
        warmup_step: Step | None = None,
        warmup_epochs: int = 0,
        max_seconds: float | None = None,
        checkpoint: dict[str, Any] | None = None,
        checkpoint_dir: str | None = None,
        resume: bool = True,
        train_handlers: Sequence | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=networks[0],
            optimizer=None,  # type: ignore[arg-type]
            loss_function=None,  # type: ignore[arg-type]
            non_blocking=True,
            train_handlers=train_handlers,
            decollate=False,
        )
        self.step = step
        self.networks = networks
        self.warmup_step = warmup_step
        self.warmup_epochs = warmup_epochs
        if max_seconds:
            self.add_event_handler(Events.ITERATION_COMPLETED, TimeLimit(int(max_seconds)))
        # Validation leaves the networks in evaluation mode.
        self.add_event_handler(Events.EPOCH_STARTED, self._train_mode)
        if checkpoint_dir:
            objects = {**(checkpoint or {}), "trainer": self}
            NewestCheckpoint(checkpoint_dir, objects).attach(self)
            if resume and (newest := latest_checkpoint(checkpoint_dir)):
                CheckpointLoader(newest, objects, map_location=str(device)).attach(self)  # type: ignore[arg-type]

    def _train_mode(self) -> None:
        for network in self.networks:
            network.train()

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        images = image_batch(batchdata, engine.state.device, engine.non_blocking)
        warming_up = self.warmup_step is not None and engine.state.epoch <= self.warmup_epochs
        return self.warmup_step(images) if warming_up and self.warmup_step else self.step(images)


class EpochSeed:
    """Seeds all randomness from (seed, epoch), so that a resumed run repeats the undisturbed one.

    With worker processes (not persistent ones) the workers take their seeds from the process seeded here.
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Before an epoch: (seed, epoch, process) decide everything random in it."""
        seed = self.seed + 100_003 * engine.state.epoch + 1_000_003 * process_rank()
        set_determinism(seed % 2**31)
        set_rnd(self.dataset, seed % 2**31)
        sampler = getattr(engine.state.dataloader, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(engine.state.epoch)


class StepProgress:
    """A progress bar for each epoch with the step's scalars, read from the device every `interval` steps only."""

    def __init__(self, interval: int = 20) -> None:
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        ProgressBar(persist=False).attach(
            engine, output_transform=scalars, event_name=Events.ITERATION_COMPLETED(every=self.interval)
        )


class WeightAverager:
    """After each step, takes the trained weights into their running average (torch's `AveragedModel`).

    Args:
        averaged: the average.
        network: what is trained.
    """

    def __init__(self, averaged: AveragedModel, network: nn.Module) -> None:
        self.averaged = averaged
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """One more step's weights."""
        self.averaged.update_parameters(self.network)


class BestKeeper:
    """After each validation keeps the network with the lowest error, and stops when the error no longer falls.

    Unlike MONAI's own handlers for this it has a state, so that a resumed run remembers what it had achieved.

    Args:
        validator: engine whose metric counts.
        metric: name of that metric; lower is better.
        network: its state dict is written, under the key `network`.
        path: file of the best weights.
        patience: validations without improvement before training stops; None for never.
        first_epoch: earlier epochs do not compete (a warm-up with another objective).
    """

    def __init__(
        self,
        validator: Engine,
        metric: str,
        network: nn.Module,
        path: str,
        patience: int | None = None,
        first_epoch: int = 1,
    ) -> None:
        self.validator = validator
        self.metric = metric
        self.network = network
        self.path = Path(path)
        self.patience = patience
        self.first_epoch = first_epoch
        self.error, self.epoch, self.waited = float("inf"), 0, 0

    def state_dict(self) -> dict[str, float]:
        """What was achieved."""
        return {"error": self.error, "epoch": self.epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an interrupted run."""
        self.error, self.epoch, self.waited = state["error"], state["epoch"], state["waited"]

    def best_state(self) -> dict[str, Any]:
        """What is written of the best epoch."""
        return {"network": {name: value.detach().cpu() for name, value in self.network.state_dict().items()}}

    def attach(self, engine: Engine) -> None:
        """To the trainer, after its ValidationHandler."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare the validation that has just run, if one has."""
        validated = self.validator.state.epoch == engine.state.epoch and self.metric in self.validator.state.metrics
        if not validated or engine.state.epoch < self.first_epoch:
            return
        error = float(self.validator.state.metrics[self.metric])
        if error < self.error:
            self.error, self.epoch, self.waited = error, engine.state.epoch, 0
            if process_rank() == 0:
                save_state(self.best_state(), self.path)
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            engine.terminate()


class StateExporter:
    """At the end of training, writes the best checkpoint's network alone: a state dict of CPU tensors.

    Args:
        best: the file `BestKeeper` wrote; the last state serves when there is none, or None is given.
        network: the network, saved there under the key `network`.
        path: file to write.
    """

    def __init__(self, best: str | None, network: nn.Module, path: str) -> None:
        self.best = Path(best) if best else None
        self.network = network
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file."""
        if process_rank() > 0:
            return
        state = self.network.state_dict()
        if self.best and self.best.is_file():
            state = torch.load(self.best, map_location="cpu", weights_only=True)["network"]
        save_state({name: value.detach().cpu() for name, value in state.items()}, self.path)


class InpaintingReconstruction(nn.Module):
    """What stage 2 is validated on: the pseudo-healthy image of a healthy slice with the same holes every time.

    Args:
        network: PHANES.
        inpainter: fills the holes; the network's own, or its weights' average.
        holes: how they are made, as in training.
        seed: the same one, the same holes in every validation; a slice's hole depends on its place in its batch.
    """

    def __init__(self, network: Phanes, inpainter: nn.Module, holes: HoleMaker, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        self.inpainter = inpainter
        self.holes = holes
        self.seed = seed

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> the slice with its hole inpainted, same shape."""
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            torch.manual_seed(self.seed)
            _, filled, mask = self.holes(image).split(1, dim=1)
        return compose_pseudo_healthy(image, self.inpainter(filled, mask), mask)


class MontageHandler(TensorBoardHandler):
    """TensorBoard pictures at each validation: x, coarse, mask, x_ph of the first slices, side by side.

    Args:
        log_dir: TensorBoard's folder.
        network: PHANES, or the autoencoder alone (then x and coarse).
        images: number of slices shown.
    """

    def __init__(self, log_dir: str, network: nn.Module, images: int = 4) -> None:
        super().__init__(log_dir=log_dir)
        self.network = network
        self.images = images

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Write one montage from the engine's last batch."""
        images = image_batch(engine.state.batch, engine.state.device)[: self.images]  # type: ignore
        self.network.eval()
        outputs = self.network(images)
        # PHANES stacks anomaly, pseudo-healthy, mask, coarse.
        columns = [images, outputs] if outputs.shape[1] == 1 else [images, *(outputs[:, c : c + 1] for c in (3, 2, 1))]
        rows = torch.cat([torch.cat(list(c), dim=1) for c in columns], dim=2)
        self._writer.add_image("montage", rows.clamp(0, 1).cpu(), engine.state.epoch)
        self._writer.flush()


def scalars(output: dict[str, Tensor]) -> dict[str, float]:
    """A step's output for progress bar and TensorBoard: plain numbers."""
    return {name: float(value) for name, value in output.items()}
