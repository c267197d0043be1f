"""Files of weights are data: nothing in them is executed, whoever loads them."""

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
    """Within this block `torch.load` takes tensors only, in other packages' code, too.

    torchvision, and through it `lpips`, unpickle a file from the cache (TORCH_HOME) without restriction and without a
    checksum. Whoever can write into that folder could run code here.
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
