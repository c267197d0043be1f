"""PHANES as rows of the tables of slices: the method at the slices' one level, parts of it, and the paper's networks.

The tables' slices are divided by their 98th percentile, and are in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import PhanesInputError
from ...method.head import HeadPhanes
from ...method.networks.linear import BRIGHTNESS
from ...method.phanes import Phanes
from ...method.volume_map import median_within
from ...space.geometry import LEVEL_MM
from ...space.levels import LEVEL_BRIGHTNESS, LEVELS_MM
from ..removals import outputs_without, row_label
from .protocol import Analysis, AnomalySystem


def row_name(calibration_file: str | Path) -> str:
    """The table's name for the paper's networks: their size and the trunk of their losses, where they are others."""
    file = Path(calibration_file)
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    made = record.get("training", {}).get("inpainter", {})
    size, trunk = made.get("size", "paper"), made.get("feature_trunk", "vgg19")
    others = [size] * (size != "paper") + [f"features of {trunk} for VGG19's"] * (trunk != "vgg19")
    return ", ".join(["PHANES, paper", *others])


class WholeMethod(AnomalySystem):
    """A network that hands out an anomaly map, a pseudo-healthy image, a mask and a coarse reconstruction.

    Args:
        network: with its weights, which include the threshold of its mask.
        name: as the table prints it.
    """

    reconstructs: ClassVar[bool] = True
    network: Any  # nn.Module does not know what its parts are

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name

    def outputs(self, images: Tensor) -> Tensor:
        """All four, as channels in this order, in the slices' units: (B, 1, H, W) in [0, 1] -> (B, 4, H, W)."""
        return self.network(images)

    def _run(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map and pseudo-healthy image."""
        outputs = self.outputs(images)
        return outputs[:, 0:1], outputs[:, 1:2]

    @torch.no_grad()
    def analyse(self, images: Tensor, masks: Tensor | None = None) -> Analysis:
        """Map and pseudo-healthy image in one pass.

        Raises:
            RuntimeError: when no mask threshold was calibrated.
        """
        if torch.isnan(getattr(self.network.mask, "threshold", torch.zeros(()))):
            raise RuntimeError(f"{self.name} has no mask threshold: load a model.pt that `calibrate` has completed")
        return Analysis(*self._run(images, masks))

    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, 1, H, W), >= 0."""
        return self.analyse(images, masks).anomaly_map

    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """The pseudo-healthy image: (B, 1, H, W) in [0, 1] -> same."""
        reconstruction = self.analyse(images, masks).reconstruction
        assert reconstruction is not None  # noqa: S101 - this class always makes one
        return reconstruction


class PaperSystem(WholeMethod):
    """The paper's networks and equations."""

    def __init__(self, network: Phanes, name: str = "PHANES, paper") -> None:
        super().__init__(network, name)


class PhanesSystem(WholeMethod):
    """The method at the slices' level, MNI z = +23 mm. It takes slices in units of their heads' brightness.

    Raises:
        PhanesInputError: the network is of other levels.
    """

    level_brightness: ClassVar[float] = float(np.interp(LEVEL_MM, LEVELS_MM, LEVEL_BRIGHTNESS))  # share of a head's

    def __init__(self, network: HeadPhanes, name: str = "PHANES") -> None:
        if (network.first, network.last) != (LEVEL_MM, LEVEL_MM):
            raise PhanesInputError(
                f"The network is of z = {network.first:+.0f} to {network.last:+.0f} mm, the slices of {LEVEL_MM:+.0f} "
                "mm alone: add mid_axial.json to the configs."
            )
        super().__init__(network, name)

    def as_head(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The network's input, (B, 2, H, W), and its unit: twice the median of each head's brain, (B, 1, 1, 1)."""
        median = median_within(images, self.network.brain).clamp(min=1e-6)
        scale = BRIGHTNESS * median / self.level_brightness
        return torch.cat([(images / scale).clamp(max=1), torch.full_like(images, LEVEL_MM)], dim=1), scale

    def run_network(self, x: Tensor) -> Tensor:
        """(B, 2, H, W), as the network takes it, -> (B, 4, H, W)."""
        return self.network(x)

    def outputs(self, images: Tensor) -> Tensor:
        """As in `WholeMethod`. What the network left as it was is the slice, also where it is too bright for it."""
        x, scale = self.as_head(images)
        anomaly, pseudo_healthy, mask, coarse = self.run_network(x).split(1, dim=1)
        drawn = [torch.where(part == x[:, :1], images, (part * scale).clamp(0, 1)) for part in (pseudo_healthy, coarse)]
        return torch.cat([anomaly, drawn[0], mask, drawn[1]], dim=1)


class PhanesGroundTruth(PhanesSystem):
    """The filling of the true mask: an upper bound. Its map is 0 outside the lesions by construction."""

    needs_masks: ClassVar[bool] = True

    def __init__(self, network: HeadPhanes, name: str = "PHANES-GT") -> None:
        super().__init__(network, name)

    def _run(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        if masks is None:
            raise ValueError(f"{self.name} needs the true masks")
        x, scale = self.as_head(images)
        mask = (masks > 0).to(images.dtype)
        anomaly, pseudo_healthy = (
            part[..., 0] for part in self.network.forward_with_mask(x[..., None], mask[..., None])
        )
        changed = pseudo_healthy != x[:, :1]
        return anomaly, torch.where(changed, (pseudo_healthy * scale).clamp(0, 1), images)


class PhanesWithout(PhanesSystem):
    """The method with parts taken out, see `removals.PARTS`."""

    def __init__(self, network: HeadPhanes, parts: Sequence[str]) -> None:
        super().__init__(network, row_label(parts))
        self.parts = tuple(parts)

    def run_network(self, x: Tensor) -> Tensor:
        """(B, 2, H, W) -> (B, 4, H, W)."""
        return outputs_without(self.network, x, self.parts)
