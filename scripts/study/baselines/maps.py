"""Maps that compare an image with its reconstruction: the choices for `anomaly_map` of a reconstruction system."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...common.checkpoints import load_network
from ...method.equalize import equalize_adapthist
from ...method.filters import gaussian_filter
from ...method.phanes import Phanes

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
    """PHANES' own map of any system's reconstruction: eq. (4) and the relative map of the shipped method.

    The reconstruction takes the place of both of PHANES' images: the pseudo-healthy one in the anomaly map, and the
    coarse one in the relative map.

    Args:
        network: PHANES; its perceptual distance, anomaly map and relative map are used.
        weights: of the network; None when it has them.

    Raises:
        PhanesInputError: the weights are missing or do not fit.
    """

    def __init__(self, network: Phanes, weights: str | Path | None = None) -> None:
        super().__init__()
        self.perceptual = network.perceptual
        self.anomaly_map = network.anomaly_map
        self.relative_map = network.relative_map
        if weights is not None:
            load_network(network, weights)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Two (B, 1, H, W), the image in [0, 1]; the reconstruction is cut to it -> (B, 1, H, W), >= 0."""
        reconstruction = reconstruction.clamp(0.0, 1.0)
        anomaly = self.anomaly_map(images, reconstruction, self.perceptual(reconstruction, images))
        return anomaly if self.relative_map is None else self.relative_map(anomaly, images, reconstruction)
