"""PHANES itself as an evaluated system, and PHANES-GT, which is given the true lesion mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...method.phanes import Phanes
from .protocol import Analysis, AnomalySystem


def row_name(calibration_file: str | Path) -> str:
    """The table's name for the weights of a calibration: PHANES, or how the paper's size was trained."""
    file = Path(calibration_file)
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    made = record.get("training", {}).get("inpainter", {})
    if made.get("size") != "paper":
        return "PHANES"
    trunk = made.get("feature_trunk")
    return "PHANES, paper" if trunk == "vgg19" else f"PHANES, paper, but features of {trunk} for VGG19's"


class PhanesSystem(AnomalySystem):
    """The whole method.

    Args:
        network: PHANES with its weights, which include the thresholds of its masks.
        name: as the table prints it.
        refine: use the network's refinement, where it has one.
        relative: use its relative map, where it has one.
    """

    reconstructs: ClassVar[bool] = True

    def __init__(
        self,
        network: Phanes,
        name: str = "PHANES",
        refine: bool = True,
        relative: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.refine = refine
        self.relative = relative

    def _run(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map of eq. (4) and pseudo-healthy image."""
        outputs = self.network.analyse(images, self.refine, self.relative)
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


class PhanesGroundTruth(PhanesSystem):
    """The inpainter with the true mask: an upper bound. Its map is 0 outside the lesions by construction."""

    needs_masks: ClassVar[bool] = True

    def __init__(self, network: Phanes, name: str = "PHANES-GT") -> None:
        super().__init__(network, name)

    def _run(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        if masks is None:
            raise ValueError(f"{self.name} needs the true masks")
        anomaly, pseudo_healthy = self.network.forward_with_mask(images, (masks > 0).to(images.dtype))
        return anomaly, pseudo_healthy
