"""Principal components of slices: linear reconstruction, and probabilistic PCA as the start of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..common.errors import PhanesInputError
from ..method.networks.soft_intro_vae import SoftIntroVAE

DRAWS = 3  # of every training slice, augmented anew each time


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


@torch.no_grad()
def start_from_principal_components(network: SoftIntroVAE, slices: Tensor, noise_variance: float) -> None:
    """Begin at the probabilistic PCA of the slices (Tipping and Bishop 1999).

    At `noise_variance` beta_kl / (2 beta_rec) it is the linear VAE with the best evidence lower bound. It stays fixed.
    The convolutions start at zero and learn what is left.

    Args:
        network: with `linear_path`.
        slices: (N, 1, H, W), more than `latent_dim` of them.
        noise_variance: of a pixel.

    Raises:
        PhanesInputError: too few slices.
    """
    encoder, decoder = cast(nn.Linear, network.encoder.linear), cast(nn.Linear, network.decoder.linear)
    if len(slices) <= network.latent_dim:
        raise PhanesInputError(
            f"{len(slices)} draws of the training slices are too few for {network.latent_dim} principal components: "
            "add slices."
        )
    components = PrincipalComponents(slices, network.latent_dim)
    variances = components.variances.clamp(min=noise_variance)  # leaves out components that explain less than the noise
    gain = (variances - noise_variance).sqrt()[:, None]
    decoder.weight.copy_((components.axes * gain).T)
    decoder.bias.copy_(components.mean)
    encoder.weight.copy_(components.axes * gain / variances[:, None])
    encoder.bias.copy_(-encoder.weight @ components.mean.to(encoder.weight))
    for parameter in (*network.encoder.posterior.parameters(), *network.decoder.output.parameters()):
        nn.init.zeros_(parameter)
    network.encoder.posterior.bias[network.latent_dim :] = (noise_variance / variances).log()
    network.freeze_linear_path()


def begin(network: SoftIntroVAE, dataset: Sequence, noise_variance: float, continued: bool = False) -> None:
    """Make stage 1 ready for training. Its linear path, if any, starts at the slices' components and stays fixed.

    Args:
        network: stage 1.
        dataset: items with `image`, (1, H, W), augmented anew at each access.
        noise_variance: see `start_from_principal_components`.
        continued: the network already has its weights; its linear path is fixed as it is.
    """
    if not isinstance(network.encoder.linear, nn.Linear):
        return
    if continued:
        network.freeze_linear_path()
        return
    slices = [torch.as_tensor(item["image"]) for _ in range(DRAWS) for item in dataset]
    start_from_principal_components(network, torch.stack(slices), noise_variance)
