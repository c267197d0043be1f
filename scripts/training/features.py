"""The pretrained trunk of stage 2's style and perceptual losses, and the features that each loss compares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..common.errors import PhanesInputError
from ..method.networks.perceptual import VGG19_TAPS, SpatialLPIPS, VGG19Features

TRUNKS = ("vgg19", "imagenet", "file", "distilled")
STYLE_TAPS = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")  # AOT-GAN's, of VGG19
PERCEPTUAL_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


class FeatureTrunk(nn.Module):
    """Features of images for the two losses; frozen.

    Args:
        trunk: `vgg19` is the paper's, with AOT-GAN's taps for each loss. `imagenet`, `file` and `distilled` are those
            of `SpatialLPIPS`; all their taps serve both losses.
        weights: path of the trunk's state dict. None takes torchvision's cache (TORCH_HOME), or downloads them.

    Raises:
        PhanesInputError: the trunk is unknown, or its weights were not found. No other weights take their place.
    """

    def __init__(self, trunk: str, weights: str | None = None) -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise PhanesInputError(f"feature_trunk '{trunk}' is unknown; choose {', '.join(TRUNKS)}.")
        if trunk == "distilled" and not weights:
            raise PhanesInputError("feature_trunk distilled needs its weights: name their file by --feature_weights.")
        try:
            self.trunk: nn.Module = VGG19Features(weights) if trunk == "vgg19" else SpatialLPIPS(trunk, weights or None)
        except (OSError, ValueError) as error:
            raise PhanesInputError(
                f"The weights of feature_trunk {trunk} were not found ({error}): give their file by "
                "--feature_weights, or name another trunk by --feature_trunk (docs/training.md)."
            ) from error
        self.name = trunk
        taps = VGG19_TAPS if trunk == "vgg19" else ()
        self.style_taps = [taps.index(tap) for tap in STYLE_TAPS] if taps else None
        self.perceptual_taps = [taps.index(tap) for tap in PERCEPTUAL_TAPS] if taps else None
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, 1, H, W) in [0, 1] -> the features of the style loss and of the perceptual loss, (B, C, h, w) each."""
        features = self.trunk.features(images)  # type: ignore[operator]
        features = [f.float() if f.dtype in (torch.bfloat16, torch.float16) else f for f in features]
        if self.style_taps is None or self.perceptual_taps is None:
            return features, features
        return [features[tap] for tap in self.style_taps], [features[tap] for tap in self.perceptual_taps]
