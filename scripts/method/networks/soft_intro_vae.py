"""Stage 1: a residual soft-introspective VAE. Its mean reconstruction is the coarse pseudo-healthy image.

Layout: PHANES (MICCAI 2023) section 2.1 and its predecessor RA. With the defaults (`paper` size) it has 29,430,785
parameters; `compact` has fewer channels.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """conv3x3 - BN - LeakyReLU - conv3x3 - BN, plus the (projected) input, then LeakyReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        project = in_channels != out_channels
        self.skip: nn.Module = nn.Conv2d(in_channels, out_channels, 1, bias=False) if project else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.activation(y + self.skip(x))


class BatchInvariantLinear(nn.Linear):
    """A linear layer that sums in double precision, so that an image's result does not depend on its batch.

    Matrix products of different batch sizes sum in different orders. In single precision this moves the coarse image by
    1e-6. That is enough to change a bin of the equalisation, and then a pixel of the mask.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        result = F.linear(input.double(), self.weight.double(), self.bias.double())
        return result.to(input.dtype)


class Encoder(nn.Module):
    """Image to the Gaussian posterior q(z|x), and the pooled embeddings of every level."""

    def __init__(self, image_size: int, channels: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels[0], 5, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels[0])
        self.activation = nn.LeakyReLU(0.2)
        self.levels = nn.ModuleList(ResidualBlock(i, o) for i, o in itertools.pairwise(channels))
        self.bottleneck = ResidualBlock(channels[-1], channels[-1])
        side = image_size // 2 ** len(channels)
        self.posterior = BatchInvariantLinear(channels[-1] * side * side, 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode images.

        Args:
            x: (B, 1, H, W) in [0, 1].

        Returns:
            mu (B, Z); log variance (B, Z); one embedding (B, C_l, H / 2^l, W / 2^l) for each level l.
        """
        x = F.avg_pool2d(self.activation(self.stem_norm(self.stem(x))), 2)
        embeddings = [x]
        for level in self.levels:
            x = F.avg_pool2d(level(x), 2)
            embeddings.append(x)
        mu, log_var = self.posterior(self.bottleneck(x).flatten(1)).chunk(2, dim=1)
        return mu, log_var, embeddings


class Decoder(nn.Module):
    """Latent to image in [0, 1]."""

    def __init__(self, image_size: int, channels: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.side = image_size // 2 ** len(channels)
        self.channels = channels[-1]
        self.project = BatchInvariantLinear(latent_dim, channels[-1] * self.side * self.side)
        widths = [channels[-1], *reversed(channels)]
        self.levels = nn.ModuleList(ResidualBlock(i, o) for i, o in itertools.pairwise(widths))
        self.head = ResidualBlock(channels[0], channels[0])
        self.output = nn.Conv2d(channels[0], 1, 5, padding=2)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, 1, H, W) in [0, 1]."""
        x = torch.relu(self.project(z)).reshape(z.shape[0], self.channels, self.side, self.side)
        for level in self.levels:
            x = F.interpolate(level(x), scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.output(self.head(x)))


class SoftIntroVAE(nn.Module):
    """Encoder and decoder of the coarse stage; PHANES, RA and SI-VAE share it.

    Args:
        image_size: side of the square input in pixels; divisible by 2 ** len(channels).
        channels: channels of the levels, one embedding each.
        latent_dim: size of z.
        sample_latent: in `forward`, draw z from the posterior, as the published code does, instead of taking its mean.
        frozen_norm: keep the batch normalisation in evaluation mode while training. Its running statistics then stay as
            they are, and it acts as a learnt scale and shift. The published training does so without saying it.

    Raises:
        ValueError: the image size is not divisible by 2 ** len(channels).
    """

    def __init__(
        self,
        image_size: int = 128,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        latent_dim: int = 128,
        sample_latent: bool = False,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        if image_size % 2 ** len(channels):
            raise ValueError(f"image_size {image_size} must be divisible by {2 ** len(channels)} (2 ** levels)")
        self.latent_dim = latent_dim
        self.frozen_norm = frozen_norm
        self.sample_latent = sample_latent
        self.encoder = Encoder(image_size, channels, latent_dim)
        self.decoder = Decoder(image_size, channels, latent_dim)

    def train(self, mode: bool = True) -> "SoftIntroVAE":
        """Training mode; with `frozen_norm` the normalisation layers stay in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(B, 1, H, W) in [0, 1] -> mu (B, Z), log variance (B, Z), the embeddings of all levels."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, 1, H, W) in [0, 1]."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """The coarse pseudo-healthy reconstruction, from the posterior's mean (see `sample_latent`).

        Args:
            x: (B, 1, H, W) in [0, 1].

        Returns:
            (B, 1, H, W) in [0, 1].
        """
        mu, log_var, _ = self.encoder(x)
        return self.decoder(sample_posterior(mu, log_var) if self.sample_latent else mu)


def sample_posterior(mu: Tensor, log_var: Tensor) -> Tensor:
    """A reparameterised draw from N(mu, exp(log_var)): (B, Z), (B, Z) -> (B, Z)."""
    return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
