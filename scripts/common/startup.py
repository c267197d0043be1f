"""A quick start: MONAI without what an analysis does not use. It takes half the time.

MONAI imports every optional package that is installed. Only our own command leaves them out; in other programs MONAI
must stay whole.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# Packages that are optional to MONAI. An analysis uses none of them through MONAI.
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
# Ignite takes one class from here, to recognise a kind of optimizer. The real module imports most of torch.distributed.
OPTIMIZERS, OPTIMIZER = "torch.distributed.optim", "ZeroRedundancyOptimizer"


def import_monai_quickly() -> None:
    """Import MONAI while `OPTIONAL` seems not to be installed. Afterwards all of it can be imported as usual.

    Nothing happens if MONAI is already loaded.
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
