"""RA and SI-VAE: PHANES' own first stage as a system of its own, with and without the reversed embedding loss.

Sources: RA, Bercea et al., "Generalizing unsupervised anomaly detection" (MIDL 2023); SI-VAE, Daniel and Tamar (CVPR
2021). Both share `networks.soft_intro_vae.SoftIntroVAE` and the step `steps.AutoencoderStep`. Only the weight of the
reversed loss and the map differ; the configs set both.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...method.networks.soft_intro_vae import SoftIntroVAE
from .protocol import ReconstructionSystem


class ResidualAutoencoder(ReconstructionSystem):
    """The autoencoder's mean reconstruction and its map.

    Args:
        comparison: the map, `maps.ResidualMap`: `eq_residual_lpips` for RA, `residual` for SI-VAE.
        autoencoder: PHANES' first stage.
        name: RA or SI-VAE.
        level: the autoencoder is a `heads.LevelAutoencoder`, for whole heads.
    """

    def __init__(self, comparison: nn.Module, autoencoder: SoftIntroVAE, name: str = "RA", level: bool = False) -> None:
        super().__init__(comparison)
        self.level = level
        self.autoencoder = autoencoder
        self.name = name

    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """From the posterior's mean: (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        return self.autoencoder(images)

    def healthy_error(self, images: Tensor) -> Tensor:
        """Mean squared error of the reconstruction, a scalar."""
        return (self.reconstruct(images) - images[:, :1]).square().mean()
