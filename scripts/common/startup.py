"""A quick start: MONAI imported without what an analysis does not use, in half the seconds.

MONAI imports much that is optional to it, wherever that is installed. For the command alone: in a program of somebody
else's, MONAI has to stay whole.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# What MONAI takes where it finds it, and does without where it does not. An analysis uses none of it by way of MONAI.
OPTIONAL = (
    "einops",
    "lpips",
    "matplotlib.pyplot",
    "pandas",
    "requests",
    "rfc3987_syntax",
    "scipy.signal",
    "sklearn",
    "sklearn.metrics",
    "tensorboard",
    "tensorboardX",
    "torchvision",
)
# Ignite takes one class from here, to tell its kind of optimizer; the real module imports most of torch.distributed.
OPTIMIZERS, OPTIMIZER = "torch.distributed.optim", "ZeroRedundancyOptimizer"


def import_monai_quickly() -> None:
    """Import MONAI while `OPTIONAL` seems not to be installed. Afterwards all of it can be imported as ever.

    Nothing happens where MONAI is loaded already.
    """
    if "monai" in sys.modules:
        return
    hidden: dict[str, Any] = {name: None for name in OPTIONAL if name not in sys.modules}  # None: not installed
    if OPTIMIZERS not in sys.modules:
        hidden[OPTIMIZERS] = ModuleType(OPTIMIZERS)
        setattr(hidden[OPTIMIZERS], OPTIMIZER, type(OPTIMIZER, (), {}))
    sys.modules.update(hidden)
    try:
        import_module("monai.bundle")
        import_module("monai.handlers")
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
