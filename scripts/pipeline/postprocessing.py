"""From the network's four channels to images on the input's own grid; the steps around MONAI's `Invertd`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform, Transform

from ..common.errors import PhanesInputError
from ..method.phanes import CHANNELS
from .transforms import brain_of

CONFINED = ("anomaly", "mask")  # to what was analysed


class SplitMapsd(Transform):
    """Give each output channel a key of its own, (4, H, W, D) -> 4 x (1, H, W, D), on the CPU.

    Also sets `anomaly_score`, the mean of the anomaly map over the analysed slices as the network saw them, and
    `analysed`, ones that `Invertd` turns into the region the network has seen. A slice that was cut to its brain's
    outline was analysed within it only: outside, anomaly map and mask are 0.

    Args:
        key: key of the network's output.
        ref_key: key of the preprocessed input, whose meta data may hold an `outline`.
        names: keys of the output's channels.

    Raises:
        PhanesInputError: the output is not finite.
    """

    def __init__(self, key: str = "pred", names: Sequence[str] = CHANNELS, ref_key: str = "image") -> None:
        self.key = key
        self.ref_key = ref_key
        self.names = tuple(names)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        output = torch.as_tensor(d[self.key]).detach().float().cpu()
        if isinstance(output, MetaTensor):
            output = output.as_tensor()
        if not output.isfinite().all():
            raise PhanesInputError(
                "The network's output is not finite: its weights lack a calibrated mask threshold; run the calibrate "
                "workflow, or restore models/model.pt."
            )
        analysed = analysed_region(d[self.ref_key]).to(output)
        for name, channel in zip(self.names, output.split(1), strict=True):
            d[name] = MetaTensor(channel * analysed if name in CONFINED else channel)
        d["analysed"] = MetaTensor(analysed)
        d["anomaly_score"] = float(d["anomaly"].as_tensor().double().mean())
        return d


def analysed_region(image: MetaTensor) -> torch.Tensor:
    """Where a preprocessed image (1, H, W, D) is analysed, boolean of its shape: all of it, or within its outline."""
    if "outline" in image.meta:
        return torch.from_numpy(brain_of(image))[None]
    return torch.ones(tuple(image.shape), dtype=torch.bool)


class RestoreUnitsd(MapTransform):
    """Multiply each slice by the scale its input was divided by, (1, H, W, D) -> same, in the input's own units.

    Args:
        keys: keys of images in [0, 1] on the network's grid.
        ref_key: key of the preprocessed input, whose meta data hold `intensity_scale`.
    """

    def __init__(self, keys: KeysCollection, ref_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        scale = torch.as_tensor(d[self.ref_key].meta["intensity_scale"], dtype=torch.float32).reshape(-1)
        for key in self.key_iterator(d):
            d[key] = d[key] * scale.to(d[key].device)
        return d


class ShownImagesd(Transform):
    """`shown`: the maps on the grid that was analysed, oriented and aligned, for pictures.

    A registered head's slices lie obliquely in its own grid, where no picture of one section would show them whole. The
    maps are those of `NativeImagesd`, labelled alike, and `source` is the aligned input; (1, H, W, D) each.

    Args:
        transform: the preprocessing; its steps after the alignment are undone here.
        threshold: label threshold.
        ref_key: key of the preprocessed input, which knows what was done to it.
        aligned_key: key of the aligned input.
    """

    def __init__(
        self, transform: Compose, threshold: float, ref_key: str = "image", aligned_key: str = "aligned"
    ) -> None:
        # By name: MONAI Label loads the package's classes anew between its stages.
        names = [type(step).__name__ for step in transform.transforms]
        self.steps = Compose(transform.transforms[names.index("SelectSlicesd") :])
        self.ref_key = ref_key
        self.aligned_key = aligned_key
        self.finish = NativeImagesd(threshold, aligned_key)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        names = (*CHANNELS, "analysed")
        back = Invertd(
            names, self.steps, self.ref_key, nearest_interp=[name in ("mask", "analysed") for name in names]
        )({self.ref_key: d[self.ref_key], **{name: d[name].clone() for name in names}})
        shown = self.finish({**{name: back[name] for name in names}, self.aligned_key: d[self.aligned_key]})
        aligned: MetaTensor = shown.pop(self.aligned_key)
        aligned.meta["original_affine"] = aligned.affine
        d["shown"] = {**shown, "source": aligned}
        return d


class NativeImagesd(Transform):
    """Finish the inverted maps on the input's grid, (1, X, Y, Z) each, and label them.

    - `anomaly`: >= 0, 0 where not analysed.
    - `mask`: uint8, the region given to the inpainter, with refinements the last time.
    - `pseudo_healthy`: the input itself outside the mask, bit for bit, and the generated tissue inside.
    - `coarse`: the input itself where not analysed.
    - `pred`: uint8 label, 1 where the anomaly map exceeds the threshold.

    Args:
        threshold: label threshold on the anomaly map, from `calibration.json` unless overridden.
        source_key: key of the input as it was read.

    Raises:
        PhanesInputError: the threshold is not a number >= 0.
    """

    def __init__(self, threshold: float, source_key: str = "source") -> None:
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not threshold >= 0:
            raise PhanesInputError(f"label_threshold is {threshold!r}: give a number >= 0, or leave it out.")
        self.threshold = float(threshold)
        self.source_key = source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        source: MetaTensor = d[self.source_key]
        # Orientation and its inverse leave rounding errors in the affine; the input's own is exact.
        maps = {name: d[name].as_tensor() for name in (*CHANNELS, "analysed")}
        analysed, mask = maps["analysed"] > 0.5, maps["mask"] > 0.5
        anomaly = maps["anomaly"].clamp_min(0.0)
        original = source.as_tensor().float()
        images = {
            "anomaly": anomaly,
            "mask": mask.to(torch.uint8),
            "pseudo_healthy": torch.where(mask, maps["pseudo_healthy"], original),
            "coarse": torch.where(analysed, maps["coarse"], original),
            "analysed": analysed.to(torch.uint8),
            "pred": (anomaly > self.threshold).to(torch.uint8),
        }
        for name, image in images.items():
            d[name] = MetaTensor(image, meta=dict(source.meta))
        return d
