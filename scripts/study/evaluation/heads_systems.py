"""Systems that analyse whole heads: the bundle's inference, functions of the registered levels, other tools, controls.

A system takes a `HeadCase` and gives maps on that head's own voxels. Only an oracle reads more of the case than the
image. A system reads its weights or training heads with its first case. So a missing file costs one row, not the whole
evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor

from ...common.checkpoints import load_network
from ...common.configs import from_inference
from ...common.errors import PhanesInputError
from ...common.files import sha256_of_file
from ...common.fingerprint import fingerprint
from ...method.head import HeadPhanes
from ...space.alignment import AlignHeadd
from ...space.levels import GRID, LEVELS_MM, STEP_MM, brain_of_levels
from ...space.resampling import into_mni_of, median_of_brain, onto_levels, onto_voxels, scanned
from ...training.prepared import read_prepared
from ..removals import REMOVALS, outputs_without, row_label
from .heads_data import HeadCase, heads_in, load
from .heads_registrations import HeadNotAnalysed, Registrations
from .systems import ROLES

BRIGHTEST = 2.0  # brain medians; the rest is clipped
MIN_SD = 0.05  # brain medians, added to the standard deviation


class HeadMaps(NamedTuple):
    """The anomaly map and, where the system makes its own, the label; both (X, Y, Z)."""

    anomaly: NDArray[np.float32]
    label: NDArray[np.bool_] | None = None


class HeadSystem:
    """A row of the table.

    Args:
        label: its name there.
        role: see `systems.ROLES`.

    Raises:
        ValueError: for another role.
    """

    def __init__(self, label: str, role: str = "baseline") -> None:
        if role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
        self.label = label
        self.role = role

    def __call__(self, case: HeadCase) -> HeadMaps:
        """Analyse one head.

        Raises:
            HeadNotAnalysed: the system refuses this head; the others go on.
        """
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Checksum of all that its maps depend on, besides the head."""
        raise NotImplementedError


class LevelSystem(HeadSystem):
    """A system that works on the registered head: levels in, map of the levels out.

    Args:
        label: its name in the table.
        registrations: shared with the sets.
        role: see `systems.ROLES`.
    """

    def __init__(self, label: str, registrations: Registrations, role: str = "baseline") -> None:
        super().__init__(label, role)
        self.registrations = registrations

    def levels_map(self, levels: NDArray[np.float32]) -> NDArray:
        """(H, W, D) in units of the brain's median -> (H, W, D), higher is more abnormal."""
        raise NotImplementedError

    def __call__(self, case: HeadCase) -> HeadMaps:
        self.registrations.refuse_failed(case.image)
        head = load(case.image)
        into_mni = np.linalg.inv(self.registrations(case.image)) @ np.asarray(head.affine)
        levels = onto_levels(np.asarray(head.dataobj, dtype=np.float32), into_mni)
        brain = brain_of_levels() & scanned(head.shape, into_mni)
        median = median_of_brain(levels, brain)
        if not median > 0:
            raise PhanesInputError(f"'{case.image}' is empty where the template's brain lies: check its registration.")
        found = self.levels_map(levels / np.float32(median))
        _, maps = onto_voxels({"anomaly": (found, False)}, brain, LEVELS_MM, STEP_MM, into_mni, head.shape)
        return HeadMaps(maps["anomaly"])


class ZScoreHeads(LevelSystem):
    """|x - mean| / (sd + 0.05) over healthy heads, voxel by voxel of the levels.

    Args:
        folder: of training heads as `prepare` writes them, `*.nii.gz`.
        registrations: shared with the sets.
        label: its name in the table.
    """

    def __init__(self, folder: str | Path, registrations: Registrations, label: str = "z-score") -> None:
        super().__init__(label, registrations)
        self.folder = Path(folder).expanduser()
        self._healthy: tuple[NDArray, NDArray] | None = None

    def levels_map(self, levels: NDArray[np.float32]) -> NDArray:
        if self._healthy is None:
            self._healthy = mean_and_sd(self.folder)
        mean, sd = self._healthy
        return np.abs(np.clip(levels, 0.0, BRIGHTEST) - mean) / (sd + MIN_SD)

    def fingerprint(self) -> str:
        return fingerprint("z-score", MIN_SD, BRIGHTEST, [sha256_of_file(file) for file in heads_in(self.folder)])


def mean_and_sd(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(H, W, D) each, of all prepared heads in a folder, clipped to twice the brain's median.

    Raises:
        PhanesInputError: none there, or one that is not on the grid of levels.
    """
    total, squares = np.zeros(GRID), np.zeros(GRID)
    files = heads_in(folder)
    for file in files:
        values = np.clip(read_prepared(file).astype(np.float64), 0.0, BRIGHTEST)
        total += values
        squares += values**2
    mean = total / len(files)
    return mean, np.sqrt(np.maximum(squares / len(files) - mean**2, 0.0))


class BundleSystem(HeadSystem):
    """The bundle's inference as `inference.json` defines it: from the raw file to map and label on the file's voxels.

    Args:
        preprocessing: from {"image": path} to the network's input.
        network: filled with `weights` at the first case.
        inferer: as the evaluator calls it.
        registrations: shared with the sets. They take the place of `AlignHeadd`, which would find the same.
        postprocessing: ends with `anomaly` and the label `pred`, (1, X, Y, Z) each.
        weights: state dict of the network; None when it is ready.
        label: its name in the table.
        role: see `systems.ROLES`.
        own_label: take the label that the postprocessing makes; False where its calibration is another network's.
        device: where.
    """

    def __init__(
        self,
        preprocessing: Compose,
        network: HeadPhanes,
        inferer: Callable[..., Any],
        postprocessing: Compose,
        registrations: Registrations,
        weights: str | Path | None = None,
        label: str = "PHANES",
        role: str = "proposed",
        own_label: bool = True,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(label, role)
        self.preprocessing = preprocessing
        self.network = network
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.registrations = registrations
        self.weights = weights
        self.own_label = own_label
        self.device = torch.device(device)
        self._ready = weights is None

    def _prepare(self) -> None:
        if not self._ready and self.weights is not None:
            load_network(self.network, self.weights)
            self._ready = True
        self.network.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, case: HeadCase) -> HeadMaps:
        self._prepare()
        data: dict[str, Any] = {"image": str(case.image), "case": case.name}
        try:
            for step in self.preprocessing.transforms:
                if isinstance(step, AlignHeadd):
                    data["image"] = self.registrations.placed(data["image"], case.image)
                else:
                    data = step(data)
        except PhanesInputError as error:
            raise HeadNotAnalysed(str(error)) from error
        data["pred"] = self.predict(data["image"].as_tensor()[None].to(self.device), data["image"], case)[0].cpu()
        found = self.postprocessing(data)
        anomaly, label = (torch.as_tensor(found[key])[0].cpu().numpy() for key in ("anomaly", "pred"))
        return HeadMaps(anomaly.astype(np.float32), label > 0 if self.own_label else None)

    def predict(self, inputs: Tensor, image: MetaTensor, case: HeadCase) -> Tensor:
        """The network's four channels, (1, 4, H, W, D).

        Args:
            inputs: (1, C, H, W, D), as the network takes them.
            image: the same, whose meta data say where the levels lie.
            case: the head.
        """
        return torch.as_tensor(self.inferer(inputs, self.network))

    def fingerprint(self) -> str:
        self._prepare()
        parts = [self.preprocessing, self.postprocessing, self.own_label, type(self).__qualname__]
        return fingerprint(self.network, parts)


class HeadsWithout(BundleSystem):
    """The method with parts taken out. Its label gets its threshold at the operating point.

    Args:
        parts: see `removals.PARTS`.
        arguments: of `BundleSystem`.
    """

    def __init__(self, parts: Sequence[str], **arguments: Any) -> None:
        super().__init__(**{"label": row_label(parts), **arguments, "own_label": False})
        self.parts = tuple(parts)

    def predict(self, inputs: Tensor, image: MetaTensor, case: HeadCase) -> Tensor:
        return outputs_without(self.network, inputs, self.parts)

    def fingerprint(self) -> str:
        return fingerprint(super().fingerprint(), self.parts)


def removal_rows(**arguments: Any) -> dict[str, HeadSystem]:
    """A row for each of `removals.REMOVALS`, key -> system; arguments as `BundleSystem` takes them."""
    return {f"phanes_{key}": HeadsWithout(parts, role="ablation", **arguments) for key, parts in REMOVALS.items()}


class GroundTruthHeads(BundleSystem):
    """The filling with the true lesion as its mask: an oracle, whose map is 0 outside of it."""

    def predict(self, inputs: Tensor, image: MetaTensor, case: HeadCase) -> Tensor:
        mask = torch.zeros_like(inputs[:, :1])
        if case.truth is not None:
            into_mni = into_mni_of(image, np.asarray(load(case.image).affine))
            heights = [float(height) for height in image.meta["heights"]]
            mask += torch.from_numpy(onto_levels(case.truth, into_mni, heights) > 0.5).to(mask)
        anomaly, pseudo_healthy = self.network.forward_with_mask(inputs, mask)
        return torch.cat([anomaly, pseudo_healthy, mask, pseudo_healthy], dim=1)


class MapsOfAnotherTool(HeadSystem):
    """Maps from a folder: `<folder>/<set>/<case>.nii.gz`, or as inference writes them, `<case>/<case>_anomaly.nii.gz`.

    A label is read from `<case>_label.nii.gz` beside the map, where that file exists. The `<set>` of a painted set ends
    in the seed, `strokes-0`.

    Args:
        folder: of the maps.
        label: its name in the table.
        role: see `systems.ROLES`.
    """

    def __init__(self, folder: str | Path, label: str, role: str = "baseline") -> None:
        super().__init__(label, role)
        self.folder = Path(folder).expanduser()

    def __call__(self, case: HeadCase) -> HeadMaps:
        place = self.folder / case.group
        choices = (place / f"{case.name}.nii.gz", place / case.name / f"{case.name}_anomaly.nii.gz")
        file = next((choice for choice in choices if choice.exists()), None)
        if file is None:
            raise PhanesInputError(f"No map of '{case.name}' from {self.label}: add {choices[0]} or {choices[1]}.")
        beside = file.with_name(f"{case.name}_label.nii.gz")
        label = np.asarray(load(beside).dataobj) > 0 if beside.exists() else None
        anomaly = np.asarray(load(file).dataobj, dtype=np.float32)
        for values, source in ((anomaly, file), (label, beside)):
            if values is not None and values.shape != case.brain.shape:
                raise PhanesInputError(
                    f"'{source}' has {values.shape} voxels, its head {case.brain.shape}: resample it."
                )
        return HeadMaps(anomaly, label)

    def fingerprint(self) -> str:
        files = sorted(self.folder.glob("**/*.nii.gz"))
        return fingerprint([(str(file.relative_to(self.folder)), sha256_of_file(file)) for file in files])


class ConstantHeads(HeadSystem):
    """Every voxel is as abnormal as any other: its average precision is the prevalence."""

    def __init__(self, label: str = "constant map") -> None:
        super().__init__(label, "sanity")

    def __call__(self, case: HeadCase) -> HeadMaps:
        return HeadMaps(np.ones(case.brain.shape, dtype=np.float32))

    def fingerprint(self) -> str:
        return "constant"


class PerfectHeads(HeadSystem):
    """The truth as the map. It scores below 100 only by lesion outside of the template's brain."""

    def __init__(self, label: str = "perfect map") -> None:
        super().__init__(label, "sanity")

    def __call__(self, case: HeadCase) -> HeadMaps:
        truth = np.zeros(case.brain.shape, dtype=bool) if case.truth is None else case.truth
        return HeadMaps(truth.astype(np.float32), truth)

    def fingerprint(self) -> str:
        return "perfect"


def phanes_systems(
    weights: Mapping[str, str | Path],
    bundle_root: str,
    preprocessing: Compose,
    inferer: Callable[..., Any],
    registrations: Registrations,
    device: str | torch.device = "cpu",
) -> dict[str, HeadSystem]:
    """Rows of the method with other weights: file by name. Each has the label of its own calibration.

    Args:
        weights: of `calibrate_heads.json`, with the `calibration.json` beside it.
        bundle_root: the bundle's folder.
        preprocessing: see `BundleSystem`.
        inferer: see `BundleSystem`.
        registrations: shared with the sets.
        device: where.
    """
    rows: dict[str, HeadSystem] = {}
    for name, file in weights.items():
        entries = {"weights_file": str(file), "device": device}
        part = from_inference(["network_def", "postprocessing"], bundle_root, entries, ["inference.json"])
        network, postprocessing = part["network_def"], part["postprocessing"]
        rows[name] = BundleSystem(
            preprocessing, network, inferer, postprocessing, registrations, file, name, device=device
        )
    return rows


def external_systems(folders: Mapping[str, str | Path]) -> dict[str, HeadSystem]:
    """Rows for other tools' maps: folder by name."""
    return {name: MapsOfAnotherTool(folder, name) for name, folder in folders.items()}
