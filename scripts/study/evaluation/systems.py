"""The table's rows: systems, each built from its own config when its turn comes, and the sanity rows.

A system is an `AnomalySystem` of `scripts.study.baselines.protocol`. An `Entry` gives its name and role in the table,
and builds it late. So a missing weights file costs one row, not the whole evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from ...common.checkpoints import load_network
from ...common.cli import fail
from ...common.configs import from_inference
from ...common.errors import PhanesInputError
from ...method.head import HeadPhanes
from ..baselines.phanes import PhanesSystem, PhanesWithout, WholeMethod
from ..baselines.protocol import AnomalySystem, load_system
from ..baselines.train_all import baseline_configs
from ..removals import REMOVALS
from .false_positives import OperatingPoint

ONE_LEVEL = ("inference.json", "mid_axial.json")
ROLES = ("proposed", "baseline", "ablation", "oracle", "sanity")


class Entry:
    """One row of the table.

    Args:
        system: the system itself, ready to use. None when the next three say how to build it.
        config_files: configs that define the system, later ones over earlier ones (as `monai.bundle run` reads them).
        weights: file of its trained weights; None when its definition loads them, or it has none.
        part: attribute of the system that the weights belong to (PHANES' `network`); None for the system itself.
        overrides: config entries to replace, such as `{"size": "compact"}`.
        maps_dir: instead of all these, a folder with the maps another tool made of the same images.
        label: name in the table; the system's own when None.
        role: "proposed", "baseline" (p-values compare with the best of these), "ablation", "oracle" (it is shown the
            true mask) or "sanity" (its scores are known beforehand).
        operating_point: its label threshold, for false positives on clean slices, of a `WholeMethod`.

    Raises:
        ValueError: for another role, or without exactly one source of maps.
    """

    def __init__(
        self,
        system: AnomalySystem | None = None,
        config_files: str | Path | Sequence[str | Path] = (),
        weights: str | Path | None = None,
        part: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        maps_dir: str | Path | None = None,
        label: str | None = None,
        role: str = "baseline",
        operating_point: OperatingPoint | None = None,
    ) -> None:
        if role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
        files = [config_files] if isinstance(config_files, str | Path) else list(config_files)
        if (system is not None) + bool(files) + (maps_dir is not None) != 1:
            raise ValueError("give one of: a system, the config files that define it, a folder of maps")
        if operating_point is not None and not isinstance(system, WholeMethod):
            raise ValueError("an operating point needs a whole method")
        self.system = system
        self.config_files = [str(file) for file in files]
        self.weights = None if weights is None else Path(weights)
        self.part = part
        self.overrides = dict(overrides or {})
        self.maps_dir = maps_dir
        self.label = label
        self.role = role
        self.operating_point = operating_point

    def build(self, device: torch.device | str = "cpu") -> AnomalySystem:
        """The system with its weights, in evaluation mode on the device.

        Raises:
            PhanesInputError: a config or the weights are missing, or do not fit each other.
        """
        system = self.system
        if system is None:
            missing = [file for file in self.config_files if not Path(file).is_file()]
            if missing:
                raise PhanesInputError(f"No config at '{missing[0]}': correct config_files of the system.")
            parser = ConfigParser()
            parser.read_config(self.config_files)
            parser.update(self.overrides)
            system = parser.get_parsed_content("network_def")
        if self.weights is not None and self.part is None:
            system = load_system(system, self.weights)
        elif self.weights is not None and self.part is not None:
            load_network(getattr(system, self.part), self.weights)
        return system.to(device).eval()


def trained_entries(
    configs: str | Path, runs_dir: str | Path, overrides: Mapping[str, Any] | None = None
) -> dict[str, Entry]:
    """A row for every system that has a config: its key is the config's name, its weights `<runs_dir>/<key>/model.pt`.

    Args:
        configs: folder of the systems' training configs, see `baselines.train_all.baseline_configs`.
        runs_dir: where their trainings wrote.
        overrides: entries to replace in each, such as `{"size": "compact"}`.
    """
    return {
        key: Entry(config_files=file, weights=Path(runs_dir) / key / "model.pt", overrides=overrides)
        for key, file in baseline_configs(configs).items()
    }


def removal_entries(network: HeadPhanes, weights: str | Path) -> dict[str, Entry]:
    """A row for each of `removals.REMOVALS`, by its key."""
    return {
        f"phanes_{key}": Entry(PhanesWithout(network, parts), weights=weights, part="network", role="ablation")
        for key, parts in REMOVALS.items()
    }


def phanes_entries(weights: Mapping[str, str | Path], bundle_root: str) -> dict[str, Entry]:
    """Rows of the method with other weights of one level: file by name, with the `calibration.json` beside it."""
    entries = {}
    for name, file in weights.items():
        part = from_inference(["network_def", "calibration_file"], bundle_root, {"weights_file": str(file)}, ONE_LEVEL)
        point = OperatingPoint(part["calibration_file"], file)
        system = PhanesSystem(part["network_def"])
        entries[name] = Entry(system, weights=file, part="network", label=name, role="proposed", operating_point=point)
    return entries


def external_entries(folders: Mapping[str, str | Path]) -> dict[str, Entry]:
    """Rows for other tools' maps: folder by name."""
    return {name: Entry(maps_dir=folder, label=name) for name, folder in folders.items()}


class ConstantMap(AnomalySystem):
    """Sanity row: every pixel is as abnormal as any other. Its average precision is the prevalence."""

    name = "constant map"

    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) -> ones."""
        return torch.ones_like(images)


class PerfectMap(AnomalySystem):
    """Sanity row: the true mask as the map. It scores 100 in everything."""

    name = "perfect map"
    needs_masks: ClassVar[bool] = True

    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) -> the masks, 0 or 1."""
        if masks is None:
            raise ValueError("the perfect map needs the true masks")
        return masks.to(images)


def check_paths(**paths: str | Path | None) -> None:
    """End with one sentence when a file or folder given as an option does not exist; None or "" stand for "without".

    Raises:
        SystemExit: on the command line (`PhanesInputError` elsewhere).
    """
    for option, path in paths.items():
        if path and not Path(path).exists():
            fail(f"{option} '{path}' does not exist: correct the path; --{option} '' leaves out what can be left out.")
