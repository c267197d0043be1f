"""Both networks of whole heads side by side: each draws its own reconstruction, and the maps of both count.

They err in different places. The restoration network leaves small lesions as they are, because it was not taught to
repaint them. The linear network reproduces large lesions, and misjudges heads of another contrast.
"""

import torch
from torch import Tensor, nn

from .linear import LinearAutoencoder
from .restoration import RestorationNetwork


class BothNetworks(nn.Module):
    """The reconstructions of both networks, as two channels.

    Args:
        restoration: the trained network.
        linear: the closed form.
    """

    def __init__(self, restoration: RestorationNetwork, linear: LinearAutoencoder) -> None:
        super().__init__()
        self.restoration = restoration
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct slices.

        Args:
            x: (B, 2, H, W): slices in [0, 1]; a plane of their MNI z, mm.

        Returns:
            (B, 2, H, W), in the slices' units: the restoration network's reconstruction, the linear network's.
        """
        return torch.cat([self.restoration(x), self.linear(x)], dim=1)

    def fill(self, x: Tensor, hole: Tensor) -> Tensor:
        """Complete slices in a hole from its surroundings.

        Args:
            x: (B, 2, H, W), as in `forward`.
            hole: (B, 1, H, W), > 0 inside.

        Returns:
            (B, 2, H, W), as in `forward`.
        """
        return torch.cat([self.restoration.fill(x, hole), self.linear.fill(x, hole)], dim=1)
