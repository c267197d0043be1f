"""Training states on disk. One is always whole, whenever the process is killed."""

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

CHECKPOINT = "checkpoint.pt"


def save_state(state: Any, path: str | Path) -> None:
    """`torch.save`, but the old file stays until the new one is whole."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # given a path, torch would write the temporary name into the archive
            torch.save(state, file)

    write_atomically(Path(path), write)


def read_state(path: str | Path) -> dict[str, Any]:
    """Read a file of weights onto the CPU. Nothing in it is executed.

    Raises:
        PhanesInputError: no such file.
    """
    if not Path(path).is_file():
        raise PhanesInputError(f"No weights at '{path}': train first, or give the right --weights_file.")
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def load_network(network: nn.Module, path: str | Path) -> None:
    """Fill a network with a whole state dict, such as the bundle's `model.pt`.

    Raises:
        PhanesInputError: there is no such file, it holds weights of another network or size, or PHANES without its
            calibration.
    """
    state = read_state(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise PhanesInputError(
            f"'{path}' does not hold weights of the network in the config: give those that belong to it."
        ) from error
    if any(bool(torch.isnan(value).any()) for value in state.values() if value.is_floating_point()):
        raise PhanesInputError(f"'{path}' holds NaN, so it was not calibrated: run the calibrate workflow first.")


class ReplacingSaver(DiskSaver):
    """Ignite's atomic `DiskSaver`, whose next state replaces the last one.

    Ignite's `Checkpoint` removes the old file before it writes the new one. A process killed in between loses both.
    """

    def remove(self, filename: str) -> None:
        """Do nothing: the new file is renamed onto the old one."""


def keep_checkpoint(engine: Engine, folder: str, objects: Mapping[str, Any]) -> None:
    """Write `checkpoint.pt`, the state after the last epoch, whenever an epoch ends.

    Args:
        engine: the trainer. Every process of a distributed run must call this: the saver waits for all.
        folder: made when missing. Half-written files of killed processes are removed.
        objects: what is saved: name -> object with a state dict.
    """
    saver = ReplacingSaver(folder, require_empty=False)
    if saver.save_on_rank == idist.get_rank():
        for left in (*Path(folder).glob("tmp*"), *Path(folder).glob(".*.partial")):
            left.unlink()
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, Checkpoint(dict(objects), saver, filename_pattern=CHECKPOINT, n_saved=None)
    )
