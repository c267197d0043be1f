"""From the network's four channels on the levels to images and findings on the input's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from scipy import ndimage

from ..common.errors import PhanesInputError
from ..common.metadata import ras_affine
from ..method.phanes import CHANNELS
from ..space.levels import level_affine
from ..space.resampling import into_mni_of, onto_voxels, voxel_height
from .findings import find, sides_known
from .thresholds import KINDS, Thresholds

CONFINED = ("anomaly", "mask")  # to what was analysed


class SplitMapsd(Transform):
    """Give each output channel a key of its own, (4, H, W, D) -> 4 x (1, H, W, D), on the CPU.

    Anomaly map and mask are 0 where nothing was analysed. `anomaly_score` becomes the mean of the anomaly map over what
    was analysed.

    Args:
        key: key of the network's output.
        names: keys of the output's channels.

    Raises:
        PhanesInputError: the output is not finite.
    """

    def __init__(self, key: str = "pred", names: Sequence[str] = CHANNELS) -> None:
        self.key = key
        self.names = tuple(names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        output = torch.as_tensor(d[self.key]).detach().float().cpu()
        if isinstance(output, MetaTensor):
            output = output.as_tensor()
        analysed = torch.as_tensor(d["analysed"]).cpu().bool()
        for name, channel in zip(self.names, output.split(1), strict=True):
            d[name] = MetaTensor(torch.where(analysed, channel, 0.0) if name in CONFINED else channel)
            if not d[name].isfinite().all():
                raise PhanesInputError(
                    "The network's output is not finite: its weights lack a calibrated mask threshold; run the "
                    "calibrate workflow, or restore models/model.pt."
                )
        d["anomaly_score"] = float(d["anomaly"].as_tensor()[analysed].double().mean())
        return d


class RestoreUnitsd(MapTransform):
    """Undo the scaling of the input, (1, H, W, D) -> same, in the input's units, air included.

    Args:
        keys: keys of images in [0, 1] on the network's grid.
        ref_key: key of the preprocessed input, whose meta data hold `intensity_scale`, `intensity_power` and `air`.
    """

    def __init__(self, keys: KeysCollection, ref_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        meta = d[self.ref_key].meta
        for key in self.key_iterator(d):
            d[key] = _in_units(d[key], meta) + float(meta["air"])
        return d


def _in_units(image: torch.Tensor, meta: Mapping[str, Any]) -> torch.Tensor:
    """The inverse of `NormalizeHeadd` and of `NormalizeSlicesd`, counted from the air, (1, H, W, D) -> same."""
    scale = torch.as_tensor(meta["intensity_scale"], dtype=torch.float32).reshape(-1).to(image.device)
    power = float(meta["intensity_power"])
    return (image if power == 1.0 else image.clamp_min(0.0) ** (1 / power)) * scale


class NativeImagesd(Transform):
    """Bring the maps from the levels onto the input's own grid, (1, H, W, D) -> (1, X, Y, Z) each.

    - `anomaly`: >= 0, 0 where not analysed.
    - `mask`: uint8, the region that was drawn anew.
    - `pseudo_healthy`: the generated tissue inside the mask; outside of it the input, bit for bit.
    - `coarse`: the input where not analysed.
    - `analysed`: uint8.

    `shown` keeps the maps on the levels for pictures, with `source`, the input there. All are counted from the air.

    Args:
        ref_key: key of the preprocessed input, which knows where its levels lie.
        source_key: key of the input as it was read.
    """

    def __init__(self, ref_key: str = "image", source_key: str = "source") -> None:
        self.ref_key = ref_key
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, source = d[self.ref_key], d[self.source_key]
        heights = [float(height) for height in image.meta["heights"]]
        shown = {name: d[name].as_tensor() for name in (*CHANNELS, "analysed")}
        shown["source"] = _in_units(torch.as_tensor(image).cpu()[:1], image.meta)
        from_air = {name: shown[name] - float(image.meta["air"]) for name in ("pseudo_healthy", "coarse")}
        meta = {"original_affine": level_affine(heights[0]), "alignment": image.meta["alignment"]}
        d["shown"] = {name: MetaTensor(values, meta=dict(meta)) for name, values in (shown | from_air).items()}
        analysed, maps = onto_voxels(
            {name: (shown[name][0].numpy(), name == "mask") for name in CHANNELS},
            shown["analysed"][0].bool().numpy(),
            heights,
            float(image.meta["thickness"]),
            into_mni_of(image, ras_affine(source)),
            source.shape[1:],
        )
        found = {name: torch.from_numpy(values)[None] for name, values in maps.items()}
        original, inside = source.as_tensor().float(), torch.from_numpy(analysed)[None]
        mask = found["mask"] > 0.5
        images = {
            "anomaly": found["anomaly"].clamp_min(0.0),
            "mask": mask.to(torch.uint8),
            "pseudo_healthy": torch.where(mask, found["pseudo_healthy"], original),
            "coarse": torch.where(inside, found["coarse"], original),
            "analysed": inside.to(torch.uint8),
        }
        for name, values in images.items():
            d[name] = MetaTensor(values, meta=dict(source.meta))
        return d


class FindingsOfHeadd(Transform):
    """Find what lies above the label's threshold on the input's own grid, (1, X, Y, Z).

    It sets

    - `pred`: the label, uint8, the findings' numbers; also in `shown`.
    - `findings`: a list of `findings.Finding`.
    - `threshold`: the label's; `limits`: that, and what healthy images had.
    - `healthy_below`: the share of healthy images with a lower anomaly score.
    - `sides_known`: whether the input records which side is left.

    Args:
        calibration: the record: thresholds of whole heads and of slices.
        label_threshold: in place of the calibrated one; see `thresholds.label_threshold`.
        ref_key: key of the preprocessed input.
        source_key: key of the input as it was read.

    Raises:
        PhanesInputError: the threshold is no number >= 0, or the calibration lacks heads or slices.
    """

    def __init__(
        self,
        calibration: Mapping[str, Any],
        label_threshold: float | str | None = None,
        ref_key: str = "image",
        source_key: str = "source",
    ) -> None:
        self.limits = {kind: Thresholds.of(calibration, kind, label_threshold) for kind in KINDS if kind in calibration}
        self.calibration = calibration
        self.ref_key = ref_key
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, source = d[self.ref_key], d[self.source_key]
        affine = ras_affine(source)
        into_mni = into_mni_of(image, affine)
        whole = bool(image.meta["whole"])
        kind = "heads" if whole else "slices"
        limits = self.limits.get(kind) or Thresholds.of(self.calibration, kind)  # which says what is missing
        d["sides_known"] = sides_known(source.meta)
        label, d["findings"] = find(
            d["anomaly"].as_tensor()[0].numpy(),
            limits,
            voxel_size(image, source, whole),
            affine,
            into_mni,
            spacing_known=bool(source.meta.get("spacing_known", True)),
            thickness_known=bool(source.meta.get("thickness_known", True)),
            sides_known=d["sides_known"],
            height_known=image.meta["alignment"] != "outline",
        )
        d["pred"] = MetaTensor(torch.from_numpy(label)[None], meta=dict(source.meta))
        d["limits"], d["threshold"] = limits, limits.label
        d["healthy_below"] = limits.healthy_below(d["anomaly_score"])
        heights = [float(height) for height in image.meta["heights"]]
        d["shown"] = {**d["shown"], "pred": _on_levels(label, into_mni, heights, d["shown"]["anomaly"])}
        return d


def voxel_size(image: MetaTensor, source: MetaTensor, whole: bool) -> float:
    """Size of a voxel of the input: mm3 for a head; for slices, mm2 of their plane in MNI space."""
    affine = ras_affine(source)
    if whole:
        return float(abs(np.linalg.det(affine[:3, :3])))
    into_mni = into_mni_of(image, affine)
    return float(abs(np.linalg.det(into_mni[:3, :3]))) / max(float(image.meta["thickness"]), voxel_height(into_mni))


def _on_levels(label: np.ndarray, into_mni: np.ndarray, heights: Sequence[float], like: MetaTensor) -> MetaTensor:
    """A label (X, Y, Z) on the levels, (1, H, W, D), by the nearest voxel."""
    from_mni = np.linalg.inv(into_mni)
    shape = (*like.shape[1:3], 1)
    levels = [
        ndimage.affine_transform(label, from_mni @ level_affine(height), output_shape=shape, order=0, mode="nearest")
        for height in heights
    ]
    found = torch.from_numpy(np.concatenate(levels, axis=-1))[None]
    return MetaTensor(torch.where(like.as_tensor() > 0, found, 0), meta=dict(like.meta))
