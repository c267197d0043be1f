"""Maps that compare an image with its reconstruction: the choices for `anomaly_map` of a reconstruction system."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...method.equalize import equalize_adapthist
from ...method.filters import gaussian_filter
from ...method.head import HeadPhanes
from .phanes import PhanesSystem

KINDS = ("residual", "squared", "residual_lpips", "eq_residual_lpips")


class ResidualMap(nn.Module):
    """The difference of image x and reconstruction r; two kinds weight it by the perceptual distance S.

    residual            |r - x|
    squared             (r - x)^2                                       (AnoDDPM's own)
    residual_lpips      |r - x| S(r, x)
    eq_residual_lpips   |eq r - eq x| S(r, x) S(eq r, eq x)             (RA's own; eq: adaptive histogram equalisation)

    Args:
        kind: one of the above.
        perceptual: S, `networks.perceptual.SpatialLPIPS`; needed by the last two.
        saliency_sigma: Gaussian smoothing of S, pixels; 0 for none.

    Raises:
        ValueError: for another kind, or when S is missing.
    """

    def __init__(
        self, kind: str = "residual", perceptual: nn.Module | None = None, saliency_sigma: float = 2.0
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"anomaly_map must be one of {KINDS}, not {kind!r}")
        if kind.endswith("lpips") and perceptual is None:
            raise ValueError(f"anomaly_map {kind!r} needs a perceptual distance")
        self.kind = kind
        self.perceptual = perceptual if kind.endswith("lpips") else None
        self.saliency_sigma = saliency_sigma

    def saliency(self, a: Tensor, b: Tensor) -> Tensor:
        """S(a, b): smoothed spatial LPIPS, two (B, 1, H, W) in [0, 1] -> (B, 1, H, W), >= 0."""
        assert self.perceptual is not None  # noqa: S101 - guaranteed by the constructor
        return gaussian_filter(self.perceptual(a, b), self.saliency_sigma)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Two (B, 1, H, W), the image in [0, 1]; the reconstruction is cut to it -> (B, 1, H, W), >= 0."""
        reconstruction = reconstruction.clamp(0.0, 1.0)
        residual = torch.abs(reconstruction - images)
        if self.kind == "squared":
            return residual.square()
        if self.kind == "residual_lpips":
            return residual * self.saliency(reconstruction, images)
        if self.kind == "eq_residual_lpips":
            equalized, equalized_reconstruction = equalize_adapthist(images), equalize_adapthist(reconstruction)
            saliency = self.saliency(reconstruction, images) * self.saliency(equalized_reconstruction, equalized)
            return torch.abs(equalized_reconstruction - equalized) * saliency
        return residual


class PhanesMap(nn.Module):
    """PHANES' own map of any system's reconstruction (`HeadPhanes.map_of`).

    Args:
        network: of the slices' level; none of its learnt weights is used.
    """

    def __init__(self, network: HeadPhanes) -> None:
        super().__init__()
        self.method = PhanesSystem(network)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Two (B, 1, H, W), the image in [0, 1]; the reconstruction is cut to it -> (B, 1, H, W), >= 0."""
        x, scale = self.method.as_head(images)
        drawn = (reconstruction.clamp(0.0, 1.0) / scale).clamp(max=1)
        return self.method.network.map_of(x[..., None], drawn[..., None])[..., 0]
