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
    """The paper's components, the mask's threshold at 0.05, or others by name."""
    paper = {
        "perceptual": SpatialLPIPS("distilled"),
        "coarse_map": CoarseMap(),
        "mask": CalibratedMask(),
        "filling": ConstantFilling(),
        "anomaly_map": AnomalyMap(),
    }
    network = Phanes(autoencoder, inpainter, **{**paper, **components})  # type: ignore[arg-type]
    fill_threshold(network)
    return network


def fill_threshold(network: Phanes, value: float = 0.05) -> None:
    """What calibration would do, where the mask's rule has a threshold."""
    if isinstance(network.mask, CalibratedMask):
        network.mask.threshold.fill_(value)
