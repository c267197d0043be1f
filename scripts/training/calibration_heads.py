"""Calibration on healthy heads and slices: thresholds, peaks and scores of their maps.

It runs as an overlay of `inference.json` (`configs/calibrate_heads.json`), through the whole pipeline. So the maps are
those that users get.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from tqdm import tqdm

from ..common.checkpoints import load_network, read_state, save_state
from ..common.cli import fail
from ..common.errors import PhanesInputError
from ..common.files import sha256_of_file, write_atomically
from ..method.head import HeadPhanes
from ..method.phanes import OF_SLICES
from ..pipeline.findings import regions
from ..pipeline.inference import CaseEvaluator, CaseEvents
from ..pipeline.postprocessing import voxel_size
from .calibration import false_positive_interval

logger = logging.getLogger(__name__)

BRAIN_SHARE = 0.002  # share of a healthy brain that the label may mark, on average
FINDINGS = 1.0  # number of findings that a healthy image may have, on average
STEPS = 14  # of the search for a threshold; each halves the interval
SMALLEST = {"heads": 100.0, "slices": 20.0}  # the smallest finding that counts, mm3 and mm2
# A voxel of a finding has at least this share of the finding's peak. On val, the Dice of the label was, for 10 painted
# heads and 8 gliomas: 74.6 and 64.3 at 0.1, 74.9 and 62.3 at 0.15. The best Dice of any threshold is 75.9 and 66.9.
PEAK_SHARE = 0.1
RESAMPLES, SEED = 2000, 0  # of the bootstrap over images
PARTS = ("restoration", "linear")  # parts of the network that are trained by themselves
LEAST = 5  # images of a kind that are needed; fewer say nothing of it


class Healthy(NamedTuple):
    """The map of a healthy image on its own grid.

    Attributes:
        anomaly: (X, Y, Z), the map in a box around the brain; 0 in voxels that were not analysed.
        analysed: number of analysed voxels.
        voxel: size of a voxel: mm3 in a head, mm2 in a slice.
        score: the anomaly score.
    """

    anomaly: NDArray[np.float32]
    analysed: int
    voxel: float
    score: float


def choose(
    healthy: Sequence[Healthy], smallest: float, brain_share: float = BRAIN_SHARE, findings: float = FINDINGS
) -> dict[str, Any]:
    """Choose the label's threshold from healthy images of one kind.

    It is the lowest threshold that keeps two limits: the share of the brain in findings, and the number of findings.
    The mean share over the images keeps its limit. For the number, the upper end of the mean's 95 % interval keeps the
    limit, because the images are few. The share does not use its upper end: it depends on one or two images, and its
    upper end would leave no finding in a slice.

    Args:
        healthy: the maps of the images.
        smallest: size of the smallest finding that counts, mm3 or mm2.
        brain_share: limit of the share of the brain in findings.
        findings: limit of the number of findings in an image.

    Returns:
        The record. `label_threshold`, `peak_share` and `smallest` define the label. `brain_share` and `findings` are
        what it leaves in healthy images, with intervals from a bootstrap over images. `healthy_findings` has peak and
        size of each finding. `healthy_peaks`, `healthy_scores` and `healthy_images` describe the images.

    Raises:
        PhanesInputError: there are too few images, or maps that are not finite.
    """
    if len(healthy) < LEAST:
        raise PhanesInputError(
            f"{len(healthy)} healthy images of one kind are too few to calibrate: give at least {LEAST}."
        )
    if not all(np.isfinite(one.anomaly).all() for one in healthy):
        raise PhanesInputError(
            "The maps of healthy images hold NaN: a threshold of the network is not set; calibrate it first."
        )

    def upper(values: NDArray) -> float:
        return false_positive_interval(values, RESAMPLES, SEED)[1]

    def label(threshold: float) -> tuple[list[Any], NDArray, NDArray]:
        found = [regions(o.anomaly, threshold, int(np.ceil(smallest / o.voxel)), PEAK_SHARE) for o in healthy]
        shares = np.array([sum(f[2]) / one.analysed for f, one in zip(found, healthy, strict=True)])
        return found, shares, np.array([float(len(f[1])) for f in found])

    low, high = 0.0, max(float(one.anomaly.max()) for one in healthy)
    threshold = high
    for _ in range(STEPS):
        middle = float(f"{(low + high) / 2:.6g}")
        _, shares, counts = label(middle)
        if shares.mean() > brain_share or upper(counts) > findings:
            low = middle
        else:
            high = threshold = middle
    found, shares, counts = label(threshold)
    return {
        "label_threshold": threshold,
        "peak_share": PEAK_SHARE,
        "smallest": smallest,
        "brain_share": float(shares.mean()),
        "brain_share_interval_95": false_positive_interval(shares, RESAMPLES, SEED),
        "findings": float(counts.mean()),
        "findings_interval_95": false_positive_interval(counts, RESAMPLES, SEED),
        "healthy_peaks": sorted(float(f"{max(f[1], default=0.0):.6g}") for f in found),
        "healthy_findings": [
            [[float(f"{peak:.6g}"), float(f"{size * one.voxel:.6g}")] for peak, size in zip(f[1], f[2], strict=True)]
            for f, one in zip(found, healthy, strict=True)
        ],
        "healthy_scores": sorted(float(f"{one.score:.6g}") for one in healthy),
        "healthy_images": len(healthy),
    }


def _with_new_parts(network: HeadPhanes, weights_file: str, new: Mapping[str, str]) -> dict[str, Any]:
    """Fill the network from `weights_file` and from the files of newly trained parts.

    Returns:
        What else `weights_file` holds.

    Raises:
        PhanesInputError: weights are missing or do not fit.
    """
    parts: dict[str, nn.Module] = {n: part for n, part in network.network.named_children() if n in PARTS}
    if not parts:  # the linear network alone
        parts = {"linear": network.network}
    if surplus := sorted(new.keys() - parts.keys()):
        raise PhanesInputError(f"The method has no {surplus[0]} network: leave --{surplus[0]}_file out.")
    all_new = new.keys() == parts.keys()
    if not all_new:
        load_network(network, weights_file)
    for name, file in new.items():
        load_network(parts[name], file)
    kept = {} if all_new and not Path(weights_file).is_file() else read_state(weights_file)
    return {name: value for name, value in kept.items() if name.startswith(tuple(OF_SLICES))}


@torch.no_grad()
def calibrate_mask(
    network: HeadPhanes,
    dataset: Iterable[Mapping[str, Any]],
    device: str | torch.device,
    weights_file: str,
    trained: Mapping[str, str],
    out: str,
) -> None:
    """Set the mask's threshold from the coarse maps of healthy heads, and write the weights, in half precision.

    Args:
        network: its threshold is set to the percentile `mask.percentile` of the smoothed maps within the brains.
        dataset: preprocessed cases. Cases that failed are passed over; so are single slices where there are heads.
        device: where to compute.
        weights_file: the network's weights; what else it holds is kept. It may be missing when all parts of the network
            were trained anew.
        trained: files of newly trained parts, `restoration` and `linear`; an empty name stands for `weights_file`.
        out: the file that is written.

    Raises:
        SystemExit: on the command line, with one sentence: the weights do not fit, or there are no heads.
        PhanesInputError: the same, elsewhere.
    """
    new = {name: file for name, file in trained.items() if file}
    try:
        others = _with_new_parts(network, weights_file, new)
    except PhanesInputError as error:
        fail(str(error))
    network = network.to(device).eval()
    values: dict[bool, list[NDArray]] = {True: [], False: []}  # of whole heads; of single slices
    for item in tqdm(dataset, desc="Masks of healthy images"):
        if "error" not in item:
            volume = item["image"].as_tensor()[None].to(device)
            smooth = network.mask.smooth(network.coarse(volume)[1])
            inside = item["analysed"].as_tensor().to(device) > 0
            values[item["image"].meta["whole"]].append(smooth[0][inside].cpu().numpy())
    taken = values[True] or values[False]
    if not taken:
        fail("There are no healthy images that can be analysed: give a folder that holds some.")
    threshold = np.quantile(np.concatenate(taken), network.mask.percentile / 100)
    network.mask.threshold.fill_(float(threshold))
    own = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    save_state({**others, **own, "mask.threshold": network.mask.threshold}, Path(out))


class HeadsCalibrator:
    """Collects the maps of an inference run over healthy images, and writes their thresholds into the record.

    Args:
        calibration_file: the record. `heads` and `slices` are put into it; what else it holds stays. A record of other
            weights is begun anew.
        weights_file: the weights that make the maps.
    """

    def __init__(self, calibration_file: str, weights_file: str) -> None:
        self.file = Path(calibration_file)
        self.weights = weights_file
        self.healthy: dict[str, list[Healthy]] = {"heads": [], "slices": []}
        self.failed: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Listen to a `CaseEvaluator`."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.case_completed)
        engine.add_event_handler(CaseEvents.CASE_FAILED, self.case_failed)

    def case_failed(self, engine: Any) -> None:
        """Remember why the case failed."""
        self.failed.append(f"{engine.state.case}: {engine.state.error}")

    def case_completed(self, engine: Any) -> None:
        """Keep what is needed of the case whose post-processed images are in `engine.state`."""
        output: dict[str, Any] = {**engine.state.batch[0], **engine.state.output[0]}
        whole = bool(output["image"].meta["whole"])
        inside = output["analysed"].as_tensor()[0].numpy() > 0
        box = ndimage.find_objects(inside.astype(np.uint8))[0]
        one = Healthy(
            output["anomaly"].as_tensor()[0].numpy()[box].copy(),
            int(inside.sum()),
            voxel_size(output["image"], output["source"], whole),
            float(output["anomaly_score"]),
        )
        self.healthy["heads" if whole else "slices"].append(one)

    def write(self) -> dict[str, Any]:
        """Choose the thresholds, write the record.

        Raises:
            SystemExit: on the command line, with one sentence: a case failed, or there are too few.
            PhanesInputError: the same, elsewhere.
        """
        if self.failed:
            fail(f"{len(self.failed)} healthy images failed ({self.failed[0]}): leave them out or mend them.")
        weights = sha256_of_file(self.weights)
        record: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        if record.get("weights_sha256") != weights:
            record = {"weights_sha256": weights}
        try:
            record |= {kind: choose(healthy, SMALLEST[kind]) for kind, healthy in self.healthy.items() if healthy}
        except PhanesInputError as error:
            fail(str(error))
        record["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        text = json.dumps(record, indent=4) + "\n"
        write_atomically(self.file, lambda partial: partial.write_text(text, encoding="utf-8"))
        return record


def run_calibration(evaluator: CaseEvaluator, calibrator: HeadsCalibrator) -> None:
    """Analyse all healthy images, write the record and say what it promises."""
    evaluator.run()
    record = calibrator.write()
    for kind in calibrator.healthy:
        if kind in record:
            one = record[kind]
            print(
                f"{kind}: label above {one['label_threshold']:.4g}, from {one['smallest']:.4g} "
                f"{'mm3' if kind == 'heads' else 'mm2'} on; {one['findings']:.2f} findings and "
                f"{100 * one['brain_share']:.2f} % of the brain in {one['healthy_images']} healthy images."
            )
