"""z-score: how many standard deviations a pixel lies from the mean of the registered healthy training slices.

Not in the paper; the simplest system a reader would ask for. The mean slice is its pseudo-healthy image.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .protocol import ReconstructionSystem


class ZScore(ReconstructionSystem):
    """Mean and standard deviation of every pixel; the map is |x - mean| / max(std, min_std).

    Args:
        image_size: side of the square slices, pixels.
        min_std: floor of the standard deviation. The background's own is almost 0; without a floor, noise there would
            be the largest anomaly of all.
    """

    name = "z-score"
    mean: Tensor
    std: Tensor

    def __init__(self, image_size: int = 128, min_std: float = 0.05) -> None:
        super().__init__(nn.Identity())
        self.min_std = min_std
        self.register_buffer("mean", torch.zeros(1, image_size, image_size))
        self.register_buffer("std", torch.ones(1, image_size, image_size))

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Mean and (population) standard deviation of every pixel, summed in float64.

        Raises:
            ValueError: without any slice.
        """
        count = 0
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for images in batches:
            values = images.to(total)
            count += len(values)
            total += values.sum(dim=0)
            squares += values.square().sum(dim=0)
        if count == 0:
            raise ValueError("z-score was given no healthy slice to fit")
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((squares / count - mean.square()).clamp(min=0.0).sqrt())

    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """The mean healthy slice, for every image: (B, 1, H, W) -> (B, 1, H, W) in [0, 1]."""
        return self.mean.expand(images.shape[0], -1, -1, -1).clone()

    def compare(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """|x - mean| in standard deviations: two (B, 1, H, W) -> (B, 1, H, W), >= 0."""
        return torch.abs(images - reconstruction) / self.std.clamp(min=self.min_std)
