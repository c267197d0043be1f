"""Several processes with one task, started by torchrun.

All functions work in a single process, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

import ignite.distributed as idist
import torch

from .errors import PhanesInputError

PATIENCE = timedelta(hours=12)  # how long one process waits for another


def join_processes(backend: str | None = None) -> torch.device:
    """Join the processes that torchrun started. On a machine with GPUs each takes one of its own.

    Args:
        backend: of `torch.distributed`. The default is nccl where there are GPUs, else gloo.

    Returns:
        This process's device.

    Raises:
        PhanesInputError: torchrun did not start this process.
    """
    if "LOCAL_RANK" not in os.environ:
        raise PhanesInputError(
            "This config is for several processes: start it with torchrun, or leave its overlay out."
        )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)  # otherwise every process opens a context on the first GPU, too
    if idist.backend() is None:
        idist.initialize(backend or ("nccl" if device.type == "cuda" else "gloo"), timeout=PATIENCE)
    return device


def process_rank() -> int:
    """Number of this process in a distributed run; otherwise 0. Only process 0 writes what belongs to the run."""
    return idist.get_rank()


def process_count() -> int:
    """Number of processes in a distributed run; 1 otherwise."""
    return idist.get_world_size()


def from_first(value: Any) -> Any:
    """The value that process 0 gave; anything that can be pickled. All processes must call this."""
    return cast(list, idist.all_gather([value]))[0][0] if process_count() > 1 else value


def share(items: Sequence[Any]) -> list[Any]:
    """This process's part of process 0's items: every n-th. Parts differ by one item at most."""
    return list(from_first(list(items) if process_rank() == 0 else None))[process_rank() :: process_count()]


def total(number: int) -> int:
    """The sum of all processes' numbers. All must call this, and each waits for the last one."""
    return int(idist.all_reduce(number))
