"""Training and fitting of the systems, on PHANES' own engine: step, validation, and the record of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ...common.errors import PhanesInputError
from ...common.files import sha256_of_file
from ...common.versions import versions
from ...training.engines import BestKeeper, image_batch
from ...training.optimization import LearningRate
from .protocol import AnomalySystem, Fittable, Trainable, learnt_state, load_system, save_system


def phanes_config() -> str:
    """PHANES' own training config, relative to the repository's root.

    Raises:
        PhanesInputError: it is not below the current folder.
    """
    file = "bundle/configs/train.json"
    if not Path(file).is_file():
        raise PhanesInputError(f"No config at '{file}': run this command from the repository's root.")
    return file


def parts_of(ids: Sequence[str], overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build parts of PHANES' training config within that config. So a part that two configs share is defined once.

    MONAI's macros would copy a part's text instead. Its references would then point into the config with the copy.

    Args:
        ids: of the parts.
        overrides: entries of that config to replace.
    """
    parser = ConfigParser()
    parser.read_config(phanes_config())
    parser.update({"bundle_root": "bundle", **(overrides or {})})
    return {name: parser.get_parsed_content(name) for name in ids}


class LossStep:
    """One optimiser step on a system's `training_loss`.

    Args:
        system: in training mode; its pretrained parts take no gradient.
        optimizer: of its parameters.
        max_norm: gradients are scaled down to this norm; None leaves them.
        average: running average of the system's weights, updated after every step; None for none.
        amp: bfloat16 autocast.
    """

    def __init__(
        self,
        system: Trainable,
        optimizer: Optimizer,
        max_norm: float | None = None,
        average: AveragedModel | None = None,
        amp: bool = False,
    ) -> None:
        self.system = system
        self.optimizer = optimizer
        self.max_norm = max_norm
        self.average = average
        self.amp = amp

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 1, H, W) in [0, 1] -> detached scalars, `loss` and its parts."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.amp):
            loss, parts = self.system.training_loss(images)
        loss.backward()
        if self.max_norm is not None:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.max_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.system)  # type: ignore[arg-type]
        return {"loss": loss.detach(), **{name: value.detach() for name, value in parts.items()}}


class HealthyError:
    """MONAI `iteration_update` of the validation: the system's error on healthy slices, with the same noise each time.

    Args:
        system: what is validated; needs `healthy_error`.
        seed: of the noise.
    """

    def __init__(self, system: Any, seed: int = 0) -> None:
        self.system = system
        self.seed = seed

    @torch.no_grad()
    def __call__(self, engine: Engine, batch: dict[str, Any]) -> dict[str, float]:
        """Return `healthy_error`. The training's random state stays as it was."""
        images = image_batch(batch, engine.state.device)  # type: ignore[attr-defined]
        self.system.eval()
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(self.seed + engine.state.iteration)
            return {"healthy_error": float(self.system.healthy_error(images))}


class BestSystemKeeper(BestKeeper):
    """`BestKeeper` of a system: it goes by the healthy error, and writes only what the system has learnt.

    Args:
        validator: engine with the metric `healthy_error`.
        system: its learnt state is written.
        path: file of the best weights.
        patience: validations without improvement before the training stops; None for never.
        warmup_epochs: first epochs, which have another objective and do not compete.
    """

    def __init__(
        self,
        validator: Engine,
        system: AnomalySystem,
        path: str,
        patience: int | None = None,
        warmup_epochs: int = 0,
    ) -> None:
        super().__init__(validator, "healthy_error", system, path, patience)
        self.system = system
        self.warmup_epochs = warmup_epochs
        self.curve: list[list[float]] = []

    def state_dict(self) -> dict[str, Any]:
        """What was achieved, and the curve."""
        return {**super().state_dict(), "curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an interrupted run."""
        super().load_state_dict(state)
        self.curve = state["curve"]

    def __call__(self, engine: Engine) -> None:
        """Note the error and compare it."""
        if self.metric in self.validator.state.metrics:
            self.curve.append([engine.state.iteration, float(self.validator.state.metrics[self.metric])])
        if engine.state.epoch > self.warmup_epochs:
            super().__call__(engine)

    def best_state(self) -> dict[str, Any]:
        """What the system has learnt."""
        return learnt_state(self.system)


class RunRecord:
    """At the end, writes `model.pt` (the best weights in half precision) and `record.json` (what was run).

    Args:
        system: the trained system; filled with the best weights at the end.
        output_dir: folder of both files.
        size: name of the size, for the record.
        best: holds the best weights. Without it, or before the first validation, the system is written as it is.
        settings: anything else worth recording, plain values.
    """

    def __init__(
        self,
        system: AnomalySystem,
        output_dir: str,
        size: str,
        best: BestSystemKeeper | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.system = system
        self.output_dir = Path(output_dir)
        self.size = size
        self.best = best
        self.settings = settings or {}
        self.seconds = self.processor_seconds = 0.0
        self._start()

    def state_dict(self) -> dict[str, float]:
        """Seconds trained so far: a resumed run counts on."""
        return {"seconds": self._elapsed(), "processor_seconds": self.processor()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take up the seconds of the interrupted run."""
        self.seconds, self.processor_seconds = state["seconds"], state["processor_seconds"]

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self)

    def _start(self) -> None:
        self.started, self.processor_started = time.monotonic(), time.process_time()

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def processor(self) -> float:
        """Processor seconds so far, those of an interrupted run included."""
        return self.processor_seconds + time.process_time() - self.processor_started

    def __call__(self, engine: Engine) -> None:
        """Write both files."""
        progress: dict[str, Any] = {"epochs": engine.state.epoch, "steps": engine.state.iteration}
        if self.best is not None:
            progress["healthy_error_by_step"] = self.best.curve
        if self.best is not None and self.best.epoch > 0:
            load_system(self.system, self.best.path)
            progress |= {"best_epoch": self.best.epoch, "best_healthy_error": self.best.error}
        self.write(progress)

    def write(self, progress: dict[str, Any] | None = None) -> None:
        """Write both files from the system as it is."""
        weights = self.output_dir / "model.pt"
        save_system(self.system, weights)
        record = {
            "system": self.system.name,
            "size": self.size,
            "reconstructs": self.system.reconstructs,
            "parameters": sum(p.numel() for p in self.system.parameters()),
            "trained_parameters": sum(p.numel() for p in self.system.parameters() if p.requires_grad),
            "seconds": round(self._elapsed(), 1),
            "processor_seconds": round(self.processor(), 1),
            **(progress or {}),
            **self.settings,
            "device": _device_name(self.system),
            "versions": versions(),
            "weights": weights.name,
            "weights_sha256": sha256_of_file(weights),
        }
        (self.output_dir / "record.json").write_text(json.dumps(record, indent=4) + "\n")


class Budget(LearningRate):
    """Learning rate and end of a training by the processor seconds of its process, as other work on the machine adds
    none. Those of an interrupted run count.

    Args:
        optimizers: whose rate is set.
        peak: the highest rate.
        schedule: see `LearningRate`.
        record: counts the seconds.
        seconds: the budget; None leaves the end to the number of epochs.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], peak: float, schedule: str, record: RunRecord, seconds: float | None
    ) -> None:
        super().__init__(optimizers, peak, schedule, seconds)
        self.record = record

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        super().attach(engine)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def spent(self) -> float:
        """Share of the budget that is spent."""
        return self.record.processor() / self.max_seconds if self.max_seconds else 0.0

    def _stop(self, engine: Engine) -> None:
        if self.spent() >= 1.0:
            engine.terminate()


class Fitter:
    """Runs a system's `fit` with a progress bar; the fitted systems' counterpart of a trainer.

    Args:
        system: on the device already.
        data_loader: dictionaries with `image`, (B, 1, H, W) in [0, 1]; gone through once.
        device: of the system.
        record: writes the result.
    """

    def __init__(
        self, system: AnomalySystem, data_loader: Iterable, device: torch.device | str, record: RunRecord
    ) -> None:
        if not isinstance(system, Fittable):
            raise TypeError(f"{system.name} cannot be fitted: it is trained by gradient descent")
        self.system = system
        self.data_loader = data_loader
        self.device = device
        self.record = record

    def run(self) -> None:
        """Fit, and write `model.pt` and `record.json`."""
        count = 0

        def batches() -> Iterable[Tensor]:
            nonlocal count
            for batch in tqdm(self.data_loader, desc=self.system.name, unit="batch"):
                images = image_batch(batch, self.device)
                count += len(images)
                yield images

        self.system.fit(batches())
        self.record.write({"slices": count})


def train_as_phanes(
    system: AnomalySystem,
    record: RunRecord,
    overrides: dict[str, Any],
    trained_autoencoder: str | None = None,
) -> None:
    """Train PHANES' first stage by PHANES' own config, and write it as a system of its own (RA, SI-VAE).

    Args:
        system: with the submodule `autoencoder` (RA, SI-VAE).
        record: writes the result.
        overrides: entries of that config to replace, size and output_dir among them; None leaves the config's own.
        trained_autoencoder: `autoencoder.pt` of an earlier training, or a whole PHANES (`model.pt`), whose first stage
            is taken. Then nothing is trained.
    """
    if trained_autoencoder is None:
        given = {key: value for key, value in overrides.items() if value is not None}
        monai.bundle.run(run_id="run", config_file=phanes_config(), **given)
        trained_autoencoder = f"{overrides['output_dir']}/autoencoder.pt"
    state = torch.load(trained_autoencoder, map_location="cpu", weights_only=True)
    prefix = "autoencoder."
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    system.get_submodule("autoencoder").load_state_dict(part or state)
    record.write({"autoencoder_file": trained_autoencoder})


def _device_name(system: nn.Module) -> str:
    tensor = next(iter(system.state_dict().values()))
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else f"cpu, {torch.get_num_threads()} threads"
