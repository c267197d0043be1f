"""Files of weights are data: whoever loads them, nothing in them is executed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
REFUSED = (
    "A file of weights holds something other than tensors: it was not loaded and nothing in it was executed. Get the "
    "file again from where it came from."
)


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """`torch.load` takes tensors only, in other packages' code too.

    torchvision, and `lpips` through it, unpickle a file found in the cache (TORCH_HOME) without restriction and without
    comparing its checksum: whoever can write into that folder could run code here.
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
