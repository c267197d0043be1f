"""The hole: what the inpainter sees in it, and the pseudo-healthy image that its prediction is composed to."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fill_hole(image: Tensor, mask: Tensor, filling: Tensor) -> Tensor:
    """The inpainter's input: the image outside the mask, `filling` inside.

    Args:
        image: (B, 1, H, W, D) in [0, 1].
        mask: same shape, 0 or 1.
        filling: same shape or broadcastable to it, in [0, 1].

    Returns:
        Same shape as `image`, in [0, 1].
    """
    return image * (1.0 - mask) + filling * mask


def compose_pseudo_healthy(image: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """x_ph = x (1 - m) + G(x (1 - m), m) m. Outside the mask, the image's values stay bit for bit.

    Args:
        image: (B, 1, H, W, D) in [0, 1].
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
        self.passes = 0

    def forward(self, image: Tensor, mask: Tensor, coarse: Tensor) -> Tensor:
        """The inpainter's input, (B, 1, H, W, D), of image, mask and coarse reconstruction, same shape each."""
        return fill_hole(image, mask, torch.full_like(image, self.value))


class CoarseFilling(nn.Module):
    """x (1 - m) + x_c m: the hole holds the coarse reconstruction. Not in the paper.

    Args:
        passes: how often x_c is drawn again. The first x_c was drawn from the lesion too; a later one is drawn from the
            image whose hole is already filled. `Phanes` owns the autoencoder, and calls this module again for each.
    """

    def __init__(self, passes: int = 1) -> None:
        super().__init__()
        self.passes = passes

    def forward(self, image: Tensor, mask: Tensor, coarse: Tensor) -> Tensor:
        """As `ConstantFilling.forward`."""
        return fill_hole(image, mask, coarse)
