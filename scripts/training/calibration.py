"""Thresholds from healthy slices, and their record: those of the mask (equation 3) and of the label (equation 4)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..common.checkpoints import save_state
from ..common.errors import PhanesInputError
from ..common.files import sha256_of_file, write_atomically
from ..common.fingerprint import choices
from ..method.mask_rule import CalibratedMask
from ..method.phanes import Phanes
from .skull import template_brain_mask

logger = logging.getLogger(__name__)

FIELD_MM, SLICE_MM = 233.0, 1.0  # side of the network's grid; thickness that a slice stands for
RESAMPLES = 2000  # of the bootstrap over subjects


def storable(network: nn.Module) -> dict[str, Tensor]:
    """State dict of CPU tensors. Weights are in half precision; small tensors and running statistics stay in single."""
    state = {}
    for name, value in network.state_dict().items():
        half = value.is_floating_point() and value.ndim > 1
        state[name] = value.detach().cpu().to(torch.float16 if half else value.dtype).clone()
    return state


def maps_of(network: Phanes, batches: Iterable[Any], device: torch.device, what: str) -> Tensor:
    """Maps of every image, (N, 1, H, W) on the CPU.

    `what` is `coarse` for the maps of eq. (3), or `anomaly` for those of eq. (4).
    """
    compute = {"coarse": lambda image: network.coarse(image)[1], "anomaly": lambda image: network(image)[:, :1]}[what]
    maps = []
    network.eval()
    with torch.inference_mode():
        for batch in tqdm(batches, desc=f"{what} maps"):
            maps.append(compute(torch.as_tensor(batch["image"]).to(device)).cpu())
    return torch.cat(maps)


def threshold_at(maps: Tensor, quantile: float, region: Tensor | None = None) -> float:
    """Quantile of all healthy maps (N, 1, H, W) together, over all pixels or over those of a (H, W) region.

    Raises:
        PhanesInputError: the maps hold NaN, because a threshold that made them has not been calibrated.
    """
    values = maps[:, 0][:, region] if region is not None else maps
    threshold = float(np.quantile(values.numpy(), quantile))
    if math.isnan(threshold):
        raise PhanesInputError(
            "The maps of healthy images hold NaN: a threshold of the network is not set; calibrate it first."
        )
    return threshold


def false_positive_interval(shares: np.ndarray, resamples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean false-positive share, by percentile bootstrap over subjects.

    Args:
        shares: (N,), one a subject.
        resamples: number of resamples.
        seed: of the resampling.
        level: share of the resampled means within the interval.
    """
    rng = np.random.default_rng(seed)
    means = shares[rng.integers(0, len(shares), (resamples, len(shares)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class FalsePositives(NamedTuple):
    """What a label threshold marks in healthy slices.

    Attributes:
        rate: share of the brain's pixels above the threshold, averaged over subjects.
        interval: 95 % interval of the rate, from a bootstrap over subjects.
        volume: mean volume marked in a slice, inside and outside of the brain, mm3.
    """

    rate: float
    interval: tuple[float, float]
    volume: float


def false_positives(
    maps: Tensor,
    threshold: float,
    brain: Tensor,
    pixel_mm: float,
    slice_mm: float,
    resamples: int,
    seed: int,
    subjects: Sequence[str] | None = None,
) -> FalsePositives:
    """Apply a label threshold to the anomaly maps of healthy slices.

    Args:
        maps: (N, 1, H, W).
        threshold: a pixel is marked when its map is above it.
        brain: (H, W) boolean; the share is over these pixels.
        pixel_mm: side of a pixel, mm.
        slice_mm: thickness that a slice stands for, mm.
        resamples: number of the bootstrap's resamples.
        seed: of the bootstrap.
        subjects: N names; slices of one subject are drawn together. None: every slice is of another subject.
    """
    above = maps[:, 0] > threshold
    shares = above[:, brain].float().mean(dim=1).numpy()
    if subjects is not None:
        owners = np.unique(np.asarray(subjects), return_inverse=True)[1]
        shares = np.bincount(owners, weights=shares) / np.bincount(owners)
    volumes = above.sum(dim=(1, 2)).numpy() * pixel_mm**2 * slice_mm
    interval = false_positive_interval(shares, resamples, seed)
    return FalsePositives(float(shares.mean()), interval, float(volumes.mean()))


def calibrate_mask(network: Phanes, batches: Iterable[Any], device: torch.device) -> float | None:
    """Set the mask's threshold to its percentile of the healthy coarse maps over all pixels (paper, section 2.2).

    Returns:
        The threshold; None where the mask's rule has none.
    """
    if not isinstance(network.mask, CalibratedMask):
        return None
    threshold = threshold_at(maps_of(network, batches, device, "coarse"), network.mask.percentile / 100)
    network.mask.threshold.fill_(threshold)
    return threshold


def calibrate(
    network: Phanes,
    batches: Iterable[Any],
    device: torch.device,
    output_dir: str,
    label_quantile: float = 0.99,
    seed: int = 0,
    brain: Tensor | None = None,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Choose both thresholds on healthy slices, then write `model.pt` and `calibration.json`.

    The weights are rounded to their storage precision first, so that what is calibrated is what is written.

    Args:
        network: PHANES with all its weights, on `device`.
        batches: healthy validation slices, dictionaries with `image` (B, 1, H, W) in [0, 1]; iterated once for each
            threshold.
        device: where to compute.
        output_dir: folder of both files: one state dict of CPU tensors, and the record.
        label_quantile: the label's threshold is this quantile of the anomaly maps over the brain's pixels.
        seed: of the bootstrap over subjects.
        brain: (H, W) boolean; the label's false-positive share is taken over these pixels. None: the template's brain.
        training: how the weights were trained, for the record.

    Returns:
        The record, as written.
    """
    network.load_state_dict(storable(network))
    if brain is None:
        brain = template_brain_mask()
    mask_threshold = calibrate_mask(network, batches, device)
    maps = maps_of(network, batches, device, "anomaly")
    label_threshold = threshold_at(maps, label_quantile, brain)
    found = false_positives(maps, label_threshold, brain, FIELD_MM / maps.shape[-1], SLICE_MM, RESAMPLES, seed)
    scores = maps.mean(dim=(1, 2, 3)).numpy()

    weights_file, calibration_file = Path(output_dir, "model.pt"), Path(output_dir, "calibration.json")
    save_state(storable(network), weights_file)
    record = {
        "mask_threshold": mask_threshold,
        "label_threshold": label_threshold,
        "label_percentile": 100 * label_quantile,
        "label_region": "brain of the MNI152 template",
        "false_positive_rate": found.rate,
        "false_positive_rate_interval_95": found.interval,
        "expected_false_positive_volume_mm3_per_slice": found.volume,
        "healthy_scans": len(maps),
        "healthy_score_quantiles": {str(q): float(np.quantile(scores, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)},
        "healthy_scores": sorted(float(f"{score:.6g}") for score in scores),
        "method": choices(network),
        "training": dict(training or {}),
        "weights_sha256": sha256_of_file(weights_file),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    text = json.dumps(record, indent=4) + "\n"
    write_atomically(calibration_file, lambda partial: partial.write_text(text, encoding="utf-8"))
    print(f"{weights_file} and {calibration_file} are written; inference takes both by --weights_file {weights_file}")
    return record
