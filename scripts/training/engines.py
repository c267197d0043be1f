"""Training engines: MONAI/Ignite trainers around the steps of `steps.py`, and the handlers they need."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import TimeLimit
from ignite.handlers.tqdm_logger import ProgressBar
from monai.data import DataLoader
from monai.data.utils import set_rnd
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.utils.data import Dataset, DistributedSampler

from ..common.checkpoints import CHECKPOINT, keep_checkpoint, save_state
from ..common.cli import fail
from ..common.files import write_atomically
from ..common.processes import process_count, process_rank
from ..common.versions import versions
from ..method.filling import compose_pseudo_healthy
from .norms import synchronize_norms

Step = Callable[[Tensor], dict[str, Tensor]]
LOG_INTERVAL = 20  # steps


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


def train_loader(dataset: Dataset, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Batches of one size in random order.

    Args:
        dataset: where it has fewer items than a batch, the batch is smaller.
        batch_size: slices a step; in a distributed run, those of all processes together.
        num_workers: processes that load and augment, for each process that trains.
    """
    size = min(batch_size, len(dataset))  # type: ignore[arg-type]
    sampler: DistributedSampler | None = DistributedSampler(dataset) if process_count() > 1 else None
    return DataLoader(
        dataset,
        batch_size=max(1, size // process_count()),
        sampler=sampler,
        shuffle=sampler is None,
        drop_last=True,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


class StepTrainer(SupervisedTrainer):
    """A MONAI trainer that calls a step from `steps.py` for every batch; the step owns its optimisers and losses.

    It is a `SupervisedTrainer` because MONAI's federated client takes no other, and exchanges `trainer.network`.

    Args:
        device: where to train.
        max_epochs: epochs.
        train_data_loader: yields dictionaries with `image`, (B, 1, H, W) in [0, 1].
        step: images -> dict of scalars, kept in `state.output`.
        networks: set to training mode before every epoch; the first one is the trainer's `network`.
        max_seconds: stop cleanly after this time, which is checked after every step.
        checkpoint: objects of a resumable state; the trainer adds its own.
        checkpoint_dir: where `checkpoint.pt` is kept after every epoch.
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
            train_handlers=[handler for handler in train_handlers or () if handler is not None],
            decollate=False,
        )
        self.step = step
        self.networks = networks
        for network in networks:
            synchronize_norms(network)
        if max_seconds:
            self.add_event_handler(Events.ITERATION_COMPLETED, TimeLimit(int(max_seconds)))
        # Validation leaves the networks in evaluation mode.
        self.add_event_handler(Events.EPOCH_STARTED, self._train_mode)
        if checkpoint_dir:
            objects = {**(checkpoint or {}), "trainer": self}
            keep_checkpoint(self, checkpoint_dir, objects)
            newest = Path(checkpoint_dir, CHECKPOINT)
            if resume and newest.is_file():
                CheckpointLoader(str(newest), objects, map_location=str(device)).attach(self)  # type: ignore[arg-type]

    def _train_mode(self) -> None:
        for network in self.networks:
            network.train()

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, Tensor]:
        images = image_batch(batchdata, engine.state.device, engine.non_blocking)
        return self.step(images)


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
            sampler.set_epoch(self.seed + engine.state.epoch)


class StepProgress:
    """A progress bar for each epoch with the step's scalars. They are read from the device only now and then."""

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        ProgressBar(persist=False).attach(
            engine, output_transform=scalars, event_name=Events.ITERATION_COMPLETED(every=LOG_INTERVAL)
        )


class BestKeeper:
    """After each validation, keeps the network with the lowest error; stops when the error no longer falls.

    Ignite's `EarlyStopping` and `Checkpoint` would hold two states instead of one, and remove the old best file before
    the new one is written.

    Args:
        validator: engine that computes the metric.
        metric: name of the metric; lower is better.
        network: its state dict is written, under the key `network`.
        path: file of the best weights.
        patience: validations without improvement before training stops; None for never.

    Raises:
        SystemExit: on the command line, with one sentence, when the loss is not finite any more (`PhanesInputError`
            elsewhere).
    """

    def __init__(
        self,
        validator: Engine,
        metric: str,
        network: nn.Module,
        path: str,
        patience: int | None = None,
    ) -> None:
        self.validator = validator
        self.metric = metric
        self.network = network
        self.path = Path(path)
        self.patience = patience
        self.error, self.epoch, self.waited = float("inf"), 0, 0

    def state_dict(self) -> dict[str, float]:
        """The best error so far, its epoch, and the number of validations since."""
        return {"error": self.error, "epoch": self.epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an interrupted run."""
        self.error, self.epoch, self.waited = state["error"], state["epoch"], state["waited"]

    def best_state(self) -> dict[str, Any]:
        """The content of the best weights' file."""
        return {"network": {name: value.detach().cpu() for name, value in self.network.state_dict().items()}}

    def attach(self, engine: Engine) -> None:
        """To the trainer, after its ValidationHandler."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare the validation that has just run, if one has."""
        validated = self.validator.state.epoch == engine.state.epoch and self.metric in self.validator.state.metrics
        if not validated:
            return
        # MONAI's metrics take NaN for no error, so that broken weights would be the best.
        if not all(bool(value.isfinite().all()) for value in (engine.state.output or {}).values()):  # type: ignore
            fail(
                f"The loss is not a number any more in epoch {engine.state.epoch}: train with a smaller learning_rate "
                "in another output_dir."
            )
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
    """At the end of training, loads the best weights into the network, and writes them with a record of the training.

    Args:
        best: keeper of the best weights. Where it has none, or is None, the last weights are written.
        network: the trained network.
        path: file to write, a state dict of CPU tensors. The record beside it ends in `.json`.
        record: plain values that say how the network was trained; epochs, steps and seconds are added.
    """

    def __init__(
        self, best: BestKeeper | None, network: nn.Module, path: str, record: Mapping[str, Any] | None = None
    ) -> None:
        self.best = best
        self.network = network
        self.path = Path(path)
        self.record = dict(record or {})
        self.seconds, self.started = 0.0, time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self)

    def state_dict(self) -> dict[str, float]:
        """Seconds trained so far: a resumed run counts on."""
        return {"seconds": self.seconds + time.monotonic() - self.started}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up the seconds of the interrupted run."""
        self.seconds = state["seconds"]

    def _start(self) -> None:
        self.started = time.monotonic()

    def __call__(self, engine: Engine) -> None:
        """Write both files."""
        if self.best and self.best.path.is_file():
            state = torch.load(self.best.path, map_location="cpu", weights_only=True)["network"]
            self.network.load_state_dict(state)
        if process_rank() > 0:
            return
        save_state({name: value.detach().cpu() for name, value in self.network.state_dict().items()}, self.path)
        record = {
            **self.record,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "epochs": engine.state.epoch,
            "steps": engine.state.iteration,
            "best_epoch": self.best.epoch if self.best else None,
            "seconds": round(self.state_dict()["seconds"]),
            "versions": versions(),
        }
        write_atomically(self.path.with_suffix(".json"), lambda p: p.write_text(json.dumps(record, indent=4) + "\n"))


class Inpainting(nn.Module):
    """The validation of stage 2: it inpaints healthy slices, with the same holes every time.

    Args:
        inpainter: fills the holes.
        holes: makes the holes, as in training.
        seed: of the holes, for every validation. A slice's hole depends on the slice's place in its batch.
    """

    def __init__(self, inpainter: nn.Module, holes: Callable[[Tensor], tuple[Tensor, Tensor]], seed: int = 0) -> None:
        super().__init__()
        self.inpainter = inpainter
        self.holes = holes
        self.seed = seed

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> the slice with its hole inpainted, same shape."""
        with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
            torch.manual_seed(self.seed)
            filled, mask = self.holes(image)
        return compose_pseudo_healthy(image, self.inpainter(filled, mask), mask)


def is_continued(handlers: Sequence) -> bool:
    """Whether a handler of the trainer loads weights from which training goes on. MONAI Label has such a handler."""
    return any(isinstance(handler, CheckpointLoader) for handler in handlers)


def scalars(output: dict[str, Tensor]) -> dict[str, float]:
    """A step's output for progress bar and TensorBoard: plain numbers."""
    return {name: float(value) for name, value in output.items()}
