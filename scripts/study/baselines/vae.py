"""VAE: a plain convolutional variational autoencoder and its residual.

Source: Zimmerer et al., MIC-DKFZ/vae-anomaly-experiments; widths for 128 x 128 as in the PHANES authors' framework.
The encoder halves the image by 4 x 4 convolutions with LeakyReLU and no normalisation. The latent is a Gaussian vector.
The decoder mirrors the encoder in transposed convolutions and ends linearly. 5.85 M parameters with the defaults.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from ...method.networks.soft_intro_vae import sample_posterior
from ...training.losses import kl_divergence, reconstruction_error
from .heads import scaled
from .protocol import ReconstructionSystem, Trainable


class VAE(Trainable, ReconstructionSystem):
    """Encoder, decoder, and the negative evidence lower bound.

    Args:
        comparison: the map, `maps.ResidualMap`; `residual` is the source's default.
        image_size: side of the square slices, pixels.
        channels: widths of the halving levels.
        latent_dim: size of the latent.
        sigma: standard deviation of the Gaussian likelihood N(x; reconstruction, sigma^2); 1 in the source.
        level: the encoder is shown the slice's height.

    Raises:
        ValueError: when the image size is not divisible by 2 ** len(channels).
    """

    name = "VAE"

    def __init__(
        self,
        comparison: nn.Module,
        image_size: int = 128,
        channels: Sequence[int] = (16, 32, 64, 256, 256),
        latent_dim: int = 256,
        sigma: float = 1.0,
        level: bool = False,
    ) -> None:
        super().__init__(comparison)
        if image_size % 2 ** len(channels):
            raise ValueError(f"image_size {image_size} must be divisible by {2 ** len(channels)} (2 ** levels)")
        self.sigma = sigma
        self.level = level
        side = image_size // 2 ** len(channels)

        def halving(i: int, o: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 4, stride=2, padding=1, bias=False), nn.LeakyReLU()]

        def doubling(i: int, o: int) -> list[nn.Module]:
            return [nn.ConvTranspose2d(i, o, 4, stride=2, padding=1, bias=False), nn.LeakyReLU()]

        down = [layer for i, o in itertools.pairwise((2 if level else 1, *channels)) for layer in halving(i, o)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(channels[-1], 2 * latent_dim, side, bias=False))
        widths = tuple(reversed(channels))
        up = [layer for i, o in itertools.pairwise(widths) for layer in doubling(i, o)]
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(latent_dim, widths[0], side, bias=False),
            nn.LeakyReLU(),
            *up,
            nn.ConvTranspose2d(widths[-1], 1, 4, stride=2, padding=1, bias=False),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 or 2, H, W) -> mean (B, Z) and log variance (B, Z) of q(z|x)."""
        mu, log_var = self.encoder(scaled(images) if self.level else images).flatten(1).chunk(2, dim=1)
        return mu, log_var

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, 1, H, W), unbounded."""
        return self.decoder(z[:, :, None, None])

    def elbo(self, images: Tensor, reconstruction: Tensor, mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of the negative evidence lower bound of each image.

        Returns:
            -log N(x; reconstruction, sigma^2) summed over the pixels, and KL(q(z|x) || N(0, I)); both (B,).
        """
        pixels = images[0].numel()
        rec = 0.5 * reconstruction_error(images, reconstruction) / self.sigma**2
        rec = rec + pixels * (0.5 * math.log(2.0 * math.pi) + math.log(self.sigma))
        return rec, kl_divergence(mu, log_var)

    def training_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative evidence lower bound, mean over the batch; from the posterior's mean in evaluation mode."""
        mu, log_var = self.encode(images)
        z = mu
        if self.training:
            z = sample_posterior(mu, log_var)
        rec, kl = self.elbo(images[:, :1], self.decode(z), mu, log_var)
        return (rec + kl).mean(), {"reconstruction": rec.mean(), "kl": kl.mean()}

    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Decoded mean of the posterior: (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""
        return self.decode(self.encode(images)[0]).clamp(0.0, 1.0)
