"""The hole: what the inpainter sees in it, and the pseudo-healthy image that its prediction is composed to."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def compose_pseudo_healthy(image: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """x_ph = x (1 - m) + G(x (1 - m), m) m. Outside the mask, the image's values stay bit for bit.

    Args:
        image: (N, 1, H, W) in [0, 1].
        generated: same shape, the inpainter's raw prediction; clamped to [0, 1].
        mask: same shape, 0 or 1.

    Returns:
        same shape, in [0, 1].
    """
    return torch.where(mask > 0, torch.clamp(generated, 0.0, 1.0), image)


class ConstantFilling(nn.Module):
    """x (1 - m) + v m: the hole holds one value.

    Args:
        value: v; 0 in the paper, 1 in the published code (as in AOT-GAN).
    """

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = float(value)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """The inpainter's input: image (N, 1, H, W) in [0, 1], mask of the same shape, 0 or 1 -> same shape."""
        return image * (1.0 - mask) + self.value * mask
