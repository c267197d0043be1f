"""Equation (4): the anomaly map, as published and with the opened difference."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .filters import maximum_filter
from .slices import fold, unfold

# The opened difference keeps at least this share of the absolute difference. A pixel that was replaced then still ranks
# above one that was not, however thin its structure is.
FLOOR = 0.02
# Each opening grows by so many pixels, nowhere beyond the difference itself. A square does not fit into the round edges
# and corners of a lesion, but they belong to it.
GROWTH = 1


def opened_difference(difference: Tensor, sizes: list[int], floor: float = FLOOR, growth: int = GROWTH) -> Tensor:
    """Absolute difference without its thin structures: the mean of grey-scale openings by squares.

    A healthy fold that was drawn a pixel beside its place differs in thin stripes, a bright one beside a dark one. A
    lesion differs in one direction over an area. An opening keeps the areas that its square fits into. Positive and
    negative differences are opened apart, so that stripes of opposite sign do not join.

    Args:
        difference: (N, 1, H, W), either sign.
        sizes: odd sides of the squares, pixels.
        floor: see `FLOOR`.
        growth: see `GROWTH`.

    Returns:
        (N, 1, H, W), between `floor` times the absolute difference and that difference; exactly 0 where it is 0.
    """
    signs = torch.cat([difference, -difference], dim=1).clamp(min=0.0)
    total = torch.zeros_like(signs)
    for size in sizes:
        eroded = -maximum_filter(-signs, size)
        opened = maximum_filter(eroded, size)
        if growth > 0:
            opened = torch.minimum(signs, maximum_filter(opened, 2 * growth + 1))
        total = total + opened
    return torch.maximum(total.amax(dim=1, keepdim=True) / len(sizes), floor * torch.abs(difference))


class AnomalyMap(nn.Module):
    """Equation (4) as published: s = |x_ph - x| S(x_ph, x)."""

    def forward(self, image: Tensor, pseudo_healthy: Tensor, saliency: Tensor) -> Tensor:
        """The anomaly map, >= 0, exactly 0 where the image was not replaced.

        Args:
            image: x, (B, 1, H, W, D) in [0, 1].
            pseudo_healthy: x_ph, same shape, in [0, 1].
            saliency: S(x_ph, x), same shape, >= 0.
        """
        return torch.abs(pseudo_healthy - image) * saliency


class OpenedAnomalyMap(nn.Module):
    """s = open(x_ph - x) S(x_ph, x)^power, where `open` is `opened_difference`: thin structures lose weight.

    Not in the paper.

    Args:
        sizes: odd sides of the squares, pixels.
        power: exponent of S.
    """

    sizes: list[int]

    def __init__(self, sizes: Sequence[int] = (3, 5, 7, 9, 11), power: float = 0.5) -> None:
        super().__init__()
        self.sizes = [int(size) for size in sizes]
        self.power = float(power)

    def forward(self, image: Tensor, pseudo_healthy: Tensor, saliency: Tensor) -> Tensor:
        """As `AnomalyMap.forward`."""
        difference = unfold(opened_difference(fold(pseudo_healthy - image), self.sizes), image)
        return difference * torch.clamp(saliency, min=0.0) ** self.power
