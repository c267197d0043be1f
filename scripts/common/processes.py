"""Several processes with one task, started by torchrun: who is first, what the first one knows, waiting for the others.

In a process by itself everything here does what it should for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def process_rank() -> int:
    """Number of this process in a distributed run; 0 otherwise. Process 0 alone writes what belongs to the run."""
    return dist.get_rank() if _together() else 0


def process_count() -> int:
    """Number of processes in a distributed run; 1 otherwise."""
    return dist.get_world_size() if _together() else 1


def from_first(value: Any) -> Any:
    """What process 0 called this with (anything that can be pickled); all processes must call it."""
    if not _together():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def share(items: Sequence[Any]) -> list[Any]:
    """This process's part of process 0's items: every n-th of them, so that parts differ by one item at most."""
    return list(from_first(list(items) if process_rank() == 0 else None))[process_rank() :: process_count()]


def total(number: int) -> int:
    """The sum of all processes' numbers; all must call it, and none returns before the last one has."""
    if not _together():
        return number
    value = torch.tensor([number], dtype=torch.int64)
    dist.all_reduce(value)
    return int(value.item())
