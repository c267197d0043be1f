"""PHANES around small networks, for tests."""

from __future__ import annotations

from typing import Any

from torch import nn

from scripts.method.anomaly_map import AnomalyMap
from scripts.method.coarse_map import CoarseMap
from scripts.method.filling import ConstantFilling
from scripts.method.mask_rule import CalibratedMask
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.phanes import Phanes


def composed(autoencoder: nn.Module, inpainter: nn.Module, **components: Any) -> Phanes:
    """The published components, smoothing and hole of ones among them, or others by name."""
    published = {
        "perceptual": SpatialLPIPS("distilled", smoothing=2.0),
        "coarse_map": CoarseMap(),
        "mask": CalibratedMask(sigma=1.2),
        "filling": ConstantFilling(1.0),
        "anomaly_map": AnomalyMap(),
    }
    return Phanes(autoencoder, inpainter, **{**published, **components})


def fill_thresholds(network: nn.Module, mask: float = 0.05, refinement: float = 0.01, bias: float = 0.1) -> None:
    """What calibration would do; components that are not there are left out."""
    for name, value in (("mask", mask), ("refinement", refinement), ("bias_field", bias)):
        component = getattr(network, name, None)
        if hasattr(component, "threshold"):
            component.threshold.fill_(value)
