"""Rows of the whole-head tables for the trained baselines: each by its own map, and by PHANES' map of a head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...common.checkpoints import load_network
from ...common.fingerprint import fingerprint
from ...method.head import HeadPhanes, surroundings
from ...method.networks.linear import BRIGHTNESS, LinearAutoencoder
from ...method.slices import CHUNK, fold, unfold
from ...method.volume_map import local_contrast, relative_map
from ...space.levels import LEVELS_MM, brain_of_levels
from ...training.prepared import read_prepared
from ..baselines.heads import with_heights
from ..baselines.protocol import AnomalySystem, ReconstructionSystem
from ..baselines.train_all import head_configs
from .heads_data import heads_in
from .heads_registrations import Registrations
from .heads_systems import HeadSystem, LevelSystem
from .systems import Entry


class TrainedHeads(LevelSystem):
    """A baseline of `scripts.study.baselines`, trained on the slices of whole heads.

    Args:
        entry: its definition and weights, built at the first head.
        registrations: shared with the sets.
        label: its name in the table.
        same_map: `volume_map.relative_map` of its reconstruction, as PHANES' stages have it, in place of its own map.
        device: where.
    """

    def __init__(
        self,
        entry: Entry,
        registrations: Registrations,
        label: str,
        same_map: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(label, registrations)
        self.entry, self.same_map, self.device = entry, same_map, torch.device(device)
        self._system: AnomalySystem | None = None

    @property
    def system(self) -> AnomalySystem:
        """The system with its weights."""
        if self._system is None:
            self._system = self.entry.build(self.device)
        return self._system

    @torch.inference_mode()
    def levels_map(self, levels: NDArray[np.float32]) -> NDArray:
        volume = torch.from_numpy(np.ascontiguousarray(levels))[None, None].to(self.device).clamp(0, BRIGHTNESS)
        brain = torch.from_numpy(brain_of_levels().copy()).to(self.device)
        return head_map(self.system, volume, brain, self.same_map)[0, 0].cpu().numpy()

    def fingerprint(self) -> str:
        return fingerprint(self.system, self.same_map)


def head_map(system: AnomalySystem, volume: Tensor, brain: Tensor, same_map: bool) -> Tensor:
    """A system's map of a head, (1, 1, H, W, D); 0 outside of the brain.

    Args:
        system: sees the levels' slices one by one, as in its training.
        volume: (1, 1, H, W, D), in units of the brain's median, 0 to 2.
        brain: (H, W, D) boolean, the template's.
        same_map: see `TrainedHeads`.

    Raises:
        ValueError: PHANES' map of a system that does not reconstruct.
    """
    if same_map and not system.reconstructs:
        raise ValueError(f"{system.name} makes no reconstruction that PHANES' map could be taken of")
    inside = brain.permute(2, 0, 1)[:, None]
    slices = fold(volume / BRIGHTNESS) * surroundings(inside)
    if system.level:
        slices = with_heights(slices, torch.tensor(LEVELS_MM))
    if not isinstance(system, ReconstructionSystem) or not same_map:
        return unfold(torch.cat([system.anomaly_map(part) for part in slices.split(CHUNK)]) * inside, volume)
    drawn = torch.cat([system.reconstruct(part) for part in slices.split(CHUNK)])
    drawn = BRIGHTNESS * unfold(torch.where(inside, drawn, fold(volume) / BRIGHTNESS), volume)
    return relative_map(volume, drawn, brain[None, None], local_contrast(volume))


class Filler(NamedTuple):
    """What a baseline lacks to be PHANES' first stage.

    Attributes:
        network: PHANES' linear method, whose network fills.
        weights: of it.
        healthy: folder of prepared healthy heads, which the mask's threshold is made from.
    """

    network: HeadPhanes
    weights: str
    healthy: str


class _FirstStage(nn.Module):
    """A system's reconstruction, and the linear network's filling, as `HeadPhanes` asks for them."""

    def __init__(self, system: ReconstructionSystem, linear: LinearAutoencoder) -> None:
        super().__init__()
        self.system, self.linear = system, linear

    def forward(self, x: Tensor) -> Tensor:
        return self.system.reconstruct(x if self.system.level else x[:, :1])

    def fill(self, x: Tensor, hole: Tensor) -> Tensor:
        return self.linear.fill(x, hole)


class AsFirstStage(TrainedHeads):
    """PHANES with a baseline as its first stage: mask, filling by the linear network, anomaly map.

    Args:
        filler: the linear network, and the heads for the threshold.
        row: of `TrainedHeads`.
    """

    def __init__(self, filler: Filler, *row: Any, **options: Any) -> None:
        super().__init__(*row, **options)
        self.filler = filler
        self._method: HeadPhanes | None = None

    @property
    def method(self) -> HeadPhanes:
        """The method with its threshold."""
        if self._method is None:
            load_network(self.filler.network, self.filler.weights)
            brain = torch.from_numpy(brain_of_levels().copy())
            if not isinstance(self.system, ReconstructionSystem):
                raise ValueError(f"{self.system.name} makes no reconstruction, so it cannot be a first stage")
            method = HeadPhanes(_FirstStage(self.system, self.filler.network.network), brain, LEVELS_MM)
            self._method = method.to(self.device).eval()
            with torch.inference_mode():
                smooth = [
                    method.mask.smooth(method.coarse(self._volume(read_prepared(file)))[1])[0, 0].cpu()[brain]
                    for file in heads_in(Path(self.filler.healthy).expanduser())
                ]
            method.mask.threshold.fill_(float(np.percentile(torch.cat(smooth).numpy(), method.mask.percentile)))
        return self._method

    def _volume(self, levels: NDArray[np.float32]) -> Tensor:
        volume = torch.from_numpy(np.ascontiguousarray(levels))[None, None].to(self.device).clamp(0, BRIGHTNESS)
        heights = torch.tensor(LEVELS_MM, device=self.device).expand_as(volume)
        return torch.cat([volume / BRIGHTNESS, heights], dim=1)

    @torch.inference_mode()
    def levels_map(self, levels: NDArray[np.float32]) -> NDArray:
        return self.method(self._volume(levels))[0, 0].cpu().numpy()

    def fingerprint(self) -> str:
        return fingerprint(self.method)


def baseline_rows(
    folder: str | Path | None,
    registrations: Registrations,
    configs: str | Path,
    device: str | torch.device = "cpu",
    overrides: Mapping[str, Any] | None = None,
    filler: Filler | None = None,
) -> dict[str, HeadSystem]:
    """Rows of all systems that `train_baselines --heads` has trained.

    They are `<key>`, for those that reconstruct `<key>_same` by PHANES' map, and `<key>_phanes`, see `AsFirstStage`.

    Args:
        folder: holds `<key>/model.pt` and `<key>/record.json`; None for no rows.
        registrations: shared with the sets.
        configs: folder of the systems' training configs.
        device: where.
        overrides: entries to replace in each, such as `{"size": "compact"}`.
        filler: for the rows with a baseline as PHANES' first stage; None for no such rows.
    """
    rows: dict[str, HeadSystem] = {}
    for key, files in head_configs(configs).items() if folder else ():
        run = Path(str(folder)).expanduser() / key
        if not (run / "model.pt").is_file():
            continue
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
        entry = Entry(
            config_files=files, weights=run / "model.pt", overrides={"size": record["size"], **(overrides or {})}
        )
        rows[key] = TrainedHeads(entry, registrations, record["system"], device=device)
        if record["reconstructs"]:
            label = f"{record['system']}, PHANES' map"
            rows[f"{key}_same"] = TrainedHeads(entry, registrations, label, True, device)
            if filler:
                label = f"PHANES, {record['system']} as first stage"
                rows[f"{key}_phanes"] = AsFirstStage(filler, entry, registrations, label, device=device)
    return rows
