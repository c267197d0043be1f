"""Both networks of whole heads side by side: each draws its own reconstruction, and the maps of both count.

They err in different places. The restoration network leaves alone what it was not taught to repaint, such as small
lesions; the linear network draws large lesions itself, and misjudges heads of another contrast.
"""

import torch
from torch import Tensor, nn

from .linear import LinearAutoencoder
from .restoration import RestorationNetwork


class BothNetworks(nn.Module):
    """What both networks draw, as two channels.

    Args:
        restoration: the trained network.
        linear: the closed form.
    """

    def __init__(self, restoration: RestorationNetwork, linear: LinearAutoencoder) -> None:
        super().__init__()
        self.restoration = restoration
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Slices in [0, 1] and their MNI z, (B, 2, H, W) -> reconstructions (B, 2, H, W), in the slices' units."""
        return torch.cat([self.restoration(x), self.linear(x)], dim=1)

    def fill(self, x: Tensor, hole: Tensor) -> Tensor:
        """The slices completed from what surrounds a hole (B, 1, H, W), > 0 inside: (B, 2, H, W)."""
        return torch.cat([self.restoration.fill(x, hole), self.linear.fill(x, hole)], dim=1)
