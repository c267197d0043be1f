"""Principal components of slices, and reconstruction from them."""

from __future__ import annotations

import torch
from torch import Tensor


class PrincipalComponents:
    """Mean, axes and variances of slices.

    Args:
        slices: (N, 1, H, W).
        components: number of axes; N - 1 where there are fewer slices.

    Attributes:
        mean: (P,), P = H * W.
        axes: (components, P), of length 1, the largest variance first.
        variances: (components,), of the slices along the axes.
    """

    def __init__(self, slices: Tensor, components: int = 256) -> None:
        flat = slices.flatten(1).double()
        mean = flat.mean(dim=0)
        centred = flat - mean
        # Eigenvectors of the small N x N Gram matrix give those of the large covariance.
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        rank = min(components, len(slices) - 1)
        values, vectors = values.flip(0)[:rank].clamp(min=1e-12), vectors.flip(1)[:, :rank]
        self.axes = (vectors.T @ centred / values.sqrt()[:, None]).float()
        self.mean = mean.float()
        self.variances = (values / len(slices)).float()

    def __len__(self) -> int:
        return len(self.axes)

    def reconstruct(self, images: Tensor, components: Tensor | int) -> Tensor:
        """Reconstruct images from their first components; the result is clipped to [0, 1].

        Args:
            images: (B, 1, H, W).
            components: how many components are used; one number for all images, or one for each.
        """
        weights = (images.flatten(1) - self.mean) @ self.axes.T
        order = torch.arange(len(self), device=images.device)
        keep = order < (components if isinstance(components, int) else components.view(-1, 1))
        return ((weights * keep) @ self.axes + self.mean).view_as(images).clamp(0, 1)
