"""Training states on disk: always at least one that is whole, whenever the process is killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch import nn

from .errors import PhanesInputError
from .files import write_atomically

PATTERN = "checkpoint_epoch=*.pt"


def save_state(state: Any, path: str | Path) -> None:
    """`torch.save` that leaves the old file in place until the new one is whole."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # given a path, torch would write the temporary name into the archive
            torch.save(state, file)

    write_atomically(Path(path), write)


def load_network(network: nn.Module, path: str | Path) -> None:
    """Fill a network with a whole state dict, such as the bundle's `model.pt`.

    Raises:
        PhanesInputError: no such file, weights of another network or size, or PHANES before its calibration.
    """
    if not Path(path).is_file():
        raise PhanesInputError(f"No weights at '{path}': train first or correct weights_file.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise PhanesInputError(f"'{path}' does not hold weights of the network in the config.") from error
    if any(bool(torch.isnan(value).any()) for value in state.values() if value.is_floating_point()):
        raise PhanesInputError(f"'{path}' holds NaN: it has not been calibrated, run the calibrate workflow first.")


def latest_checkpoint(folder: str) -> str:
    """The newest `checkpoint_epoch=N.pt` in a folder, for resuming; an empty string when there is none."""
    found = {int(path.stem.rpartition("=")[2]): path for path in Path(folder).glob(PATTERN)}
    return str(found[max(found)]) if found else ""


class NewestCheckpoint:
    """Keeps `checkpoint_epoch=N.pt` of the last epoch.

    Ignite's own `n_saved=1` removes the old state before it writes the new one; killed in between, all would be lost.

    Args:
        folder: made when missing.
        objects: things with a state dict.
    """

    def __init__(self, folder: str, objects: Mapping[str, Any]) -> None:
        self.folder = folder
        self.objects = dict(objects)

    def attach(self, engine: Engine) -> None:
        """To the trainer; on every process of a distributed run, for the saver waits for all."""
        checkpoint = Checkpoint(
            self.objects,
            NewestSaver(self.folder, require_empty=False),
            filename_pattern="checkpoint_epoch={global_step}.{ext}",
            global_step_transform=lambda engine, _: engine.state.epoch,
            n_saved=None,
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, checkpoint)
        if checkpoint.save_handler.save_on_rank == idist.get_rank():
            keep_newest(Path(self.folder))


class NewestSaver(DiskSaver):
    """`DiskSaver` that removes older states, and what killed processes left, after the new one is in place."""

    def _save_func(self, checkpoint: Mapping, path: Path, func: Any) -> None:
        save_state(checkpoint, path)
        keep_newest(path.parent)


def keep_newest(folder: Path) -> None:
    """Remove all states but the newest, and what killed processes left half written."""
    newest = latest_checkpoint(str(folder))
    for old in (*folder.glob(PATTERN), *folder.glob(".*.partial")):
        if str(old) != newest:
            old.unlink()
