"""FAE: an autoencoder of an ImageNet network's features. Structure that it cannot redraw is abnormal.

Source: Meissen, Paetzold, Kaissis, Rueckert, "Unsupervised anomaly localization with structural feature-autoencoders"
(BrainLes 2022). The features of the first layers are resized to one grid. Strided convolutions encode them, and
transposed ones redraw them. Loss and map are 1 - SSIM, averaged over the features. The image itself is not
reconstructed. The trunk is this project's SqueezeNet 1.1 in place of ResNet-18.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import Backbone, FeatureSystem
from .protocol import Trainable

WINDOW = 5  # of SSIM, positions of the grid
STABLE = (0.01**2, 0.03**2)  # SSIM's constants for values in units of a feature's spread


def dissimilarity(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM at every position, averaged over the channels: two (B, C, h, w) -> (B, 1, h, w), 0 to 2."""

    def local(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, WINDOW, 1, WINDOW // 2, count_include_pad=False)

    a, b = a.float(), b.float()
    mean_a, mean_b = local(a), local(b)
    var_a, var_b = (local(x.square()) - mean.square() for x, mean in ((a, mean_a), (b, mean_b)))
    covariance = local(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + STABLE[0]) / (mean_a.square() + mean_b.square() + STABLE[0])
    structure = (2 * covariance + STABLE[1]) / (var_a.clamp(min=0) + var_b.clamp(min=0) + STABLE[1])
    return (1 - likeness * structure).clamp(min=0).mean(dim=1, keepdim=True)


class FAE(Trainable, FeatureSystem):
    """Frozen features and their autoencoder.

    Args:
        backbone: features of several layers, shallowest first.
        image_size: side of the square slices, pixels.
        grid: side of the square the features are resized to, divisible by 2 ** len(channels).
        channels: widths of the halving levels.
        dropout: share of whole channels left out in training.
    """

    title = "FAE"

    def __init__(
        self,
        backbone: Backbone,
        image_size: int = 128,
        grid: int = 32,
        channels: Sequence[int] = (100, 150, 200, 300),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone)
        self.grid = grid
        total = sum(shape[0] for shape in backbone.shapes(image_size))

        def after(width: int) -> list[nn.Module]:
            return [nn.BatchNorm2d(width), nn.LeakyReLU(0.2), nn.Dropout2d(dropout)]

        layers: list[nn.Module] = []
        for i, o in itertools.pairwise((total, *channels)):
            layers += [nn.Conv2d(i, o, 4, stride=2, padding=1, bias=False), *after(o)]
        for i, o in itertools.pairwise((*reversed(channels), channels[0])):
            layers += [nn.ConvTranspose2d(i, o, 4, stride=2, padding=1, bias=False), *after(o)]
        self.autoencoder = nn.Sequential(*layers, nn.Conv2d(channels[0], total, 1))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, C, grid, grid)."""
        size = (self.grid, self.grid)
        found = [F.interpolate(f, size, mode="bilinear", align_corners=False) for f in self.backbone(images)]
        return torch.cat(found, dim=1)

    def training_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean dissimilarity of the features and their redrawing."""
        loss = self._dissimilarity(images).mean()
        return loss, {"dissimilarity": loss.detach()}

    def _dissimilarity(self, images: Tensor) -> Tensor:
        features = self.features(images)
        return dissimilarity(self.autoencoder(features), features)

    @torch.no_grad()
    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, 1, H, W), >= 0."""
        coarse = self._dissimilarity(images)
        return F.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)
