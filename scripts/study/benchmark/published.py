"""PHANES composed as the published code composes it, with our layers and weights. Ours is compared with this.

It is written from facts about that code, not from the code. One image at a time, the CPU computes histogram
equalisation (scikit-image), LPIPS (`lpips`) and the filters (scipy). The generator runs for every slice. Tensors are
contiguous, in float32. Training computes every pass and every feature anew wherever it is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ...common.safe_loading import tensors_only
from ...common.torchvision_shim import make_torchvision_importable
from ...method.coarse_map import QUANTILE
from ...method.networks.aot_gan import AOTGenerator
from ...method.networks.soft_intro_vae import SoftIntroVAE, sample_posterior
from ...training.ellipses import random_ellipse_masks
from ...training.losses import (
    SoftIntroLoss,
    SoftMaskAdversarialLoss,
    kl_divergence,
    perceptual_loss,
    reconstruction_error,
    reversed_embedding_similarity,
    style_loss,
)

Distance = Callable[[Tensor, Tensor], Tensor]
SMOOTHING = 2.0  # of the distance, pixels
MASK_QUANTILE, MASK_SMOOTHING, MASK_CUT = 0.95, 1.2, 0.1


def lpips_package() -> nn.Module:
    """The `lpips` package's spatial SqueezeNet distance. Its trunk is random: time does not depend on weights."""
    make_torchvision_importable()
    import lpips

    with tensors_only():
        return lpips.LPIPS(net="squeeze", spatial=True, pnet_rand=True, verbose=False).eval().requires_grad_(False)


def contiguous(module: nn.Module) -> nn.Module:
    """A copy in the memory format that PyTorch starts with."""
    return copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class AsPublished:
    """The whole method, (B, 1, H, W) in [0, 1] -> (B, 4, H, W), as `Phanes.forward`.

    Equals `Phanes` with the choices of `released_code.json`, a latent that is not drawn, and the same distance.

    Args:
        autoencoder: of stage 1, of the published size if none is given.
        inpainter: of stage 2, likewise.
        distance: of two (1, 3, H, W) in [-1, 1], a map (1, 1, H, W); if none is given, the `lpips` package's.
    """

    def __init__(
        self,
        autoencoder: SoftIntroVAE | None = None,
        inpainter: AOTGenerator | None = None,
        distance: Distance | None = None,
    ) -> None:
        self.autoencoder = contiguous(autoencoder or SoftIntroVAE().eval())
        self.inpainter = contiguous(inpainter or AOTGenerator().eval())
        self.distance = distance or lpips_package()

    def to(self, device: torch.device) -> AsPublished:
        """The networks on another device, in place."""
        for module in (self.autoencoder, self.inpainter, self.distance):
            if isinstance(module, nn.Module):
                module.to(device)
        return self

    def saliency(self, a: Tensor, b: Tensor) -> NDArray:
        """S of two (1, 1, H, W): a map (H, W)."""
        three = (t.expand(-1, 3, -1, -1) * 2.0 - 1.0 for t in (a, b))
        return gaussian_filter(self.distance(*three)[0, 0].cpu().numpy(), SMOOTHING)

    def mask(self, image: Tensor, coarse: Tensor) -> NDArray:
        """Mask of one slice, (H, W) of 0 and 1."""
        x, r = image[0, 0].cpu().numpy(), coarse[0, 0].cpu().numpy()
        residual = np.abs(equalize_adapthist(r) - equalize_adapthist(x))
        residual = np.minimum(residual / (np.quantile(residual, QUANTILE) + 1e-8), 1.0)
        found = residual * self.saliency(coarse, image)
        above = (found > np.quantile(found, MASK_QUANTILE)).astype(np.float32)
        return (gaussian_filter(above, MASK_SMOOTHING) > MASK_CUT).astype(np.float32)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The four channels."""
        coarse = self.autoencoder(images)
        pairs = [(images[n : n + 1], coarse[n : n + 1]) for n in range(len(images))]
        mask = torch.from_numpy(np.stack([self.mask(x, r) for x, r in pairs]))[:, None].to(images)
        generated = self.inpainter(images * (1.0 - mask) + mask, mask).clamp(0.0, 1.0)
        healthy = images * (1.0 - mask) + generated * mask
        distances = [self.saliency(healthy[n : n + 1], images[n : n + 1]) for n in range(len(images))]
        anomaly = (healthy - images).abs() * torch.from_numpy(np.stack(distances))[:, None].to(images)
        return torch.cat([anomaly, healthy, mask, coarse], dim=1)


def _update(loss: Tensor, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class AutoencoderStepAsPublished:
    """Both updates of eq. (2), each with passes of its own; images (B, 1, H, W) in [0, 1]."""

    def __init__(
        self, network: SoftIntroVAE, encoder_optimizer: Optimizer, decoder_optimizer: Optimizer, loss: SoftIntroLoss
    ) -> None:
        self.network = network
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.loss = loss

    def __call__(self, images: Tensor) -> None:
        """One step."""
        network, pixels = self.network, images[0].numel()
        network.encoder.requires_grad_(True)
        network.decoder.requires_grad_(False)
        mu, log_var, embeddings = network.encode(images)
        z, noise = sample_posterior(mu, log_var), torch.randn_like(mu)
        reconstruction, sample = network.decode(z), network.decode(noise)
        terms, similarity = [], torch.zeros(())
        for n, fake in enumerate((reconstruction.detach(), sample.detach())):
            fake_mu, fake_log_var, fake_embeddings = network.encode(fake)
            again = network.decode(sample_posterior(fake_mu, fake_log_var))
            terms.append((reconstruction_error(fake, again), kl_divergence(fake_mu, fake_log_var)))
            if n == 0:
                similarity = reversed_embedding_similarity(embeddings, fake_embeddings)
        real = reconstruction_error(images, reconstruction)
        loss = self.loss.encoder(real, kl_divergence(mu, log_var), terms, similarity, pixels)
        _update(loss, self.encoder_optimizer)

        network.encoder.requires_grad_(False)
        network.decoder.requires_grad_(True)
        reconstruction, sample = network.decode(z.detach()), network.decode(noise)
        terms = []
        for fake in (reconstruction, sample):
            fake_mu, fake_log_var, _ = network.encode(fake)
            again = network.decode(sample_posterior(fake_mu, fake_log_var).detach())
            terms.append((reconstruction_error(fake.detach(), again), kl_divergence(fake_mu, fake_log_var)))
        _update(self.loss.decoder(reconstruction_error(images, reconstruction), terms, pixels), self.decoder_optimizer)


class InpainterStepAsPublished:
    """Both updates of stage 2. Masks are made image by image; each of the two perceptual losses runs the trunk anew.

    Args:
        composition: its networks and its mask.
        discriminator: patch discriminator.
        generator_optimizer: of `composition.inpainter`.
        discriminator_optimizer: of the discriminator.
        features: images (B, 1, H, W) -> list of features (VGG19's, in the paper).
        adversarial: the soft-mask adversarial loss.
    """

    def __init__(
        self,
        composition: AsPublished,
        discriminator: nn.Module,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        features: Callable[[Tensor], list[Tensor]],
        adversarial: SoftMaskAdversarialLoss,
    ) -> None:
        self.composition = composition
        self.discriminator = discriminator
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.features = features
        self.adversarial = adversarial

    def __call__(self, images: Tensor) -> None:
        """One step; images (B, 1, H, W) in [0, 1]."""
        with torch.no_grad():
            coarse = self.composition.autoencoder(images)
            pairs = [(images[n : n + 1], coarse[n : n + 1]) for n in range(len(images))]
            own = torch.from_numpy(np.stack([self.composition.mask(x, r) for x, r in pairs]))[:, None].to(images)
        masks = torch.maximum(own, random_ellipse_masks(len(images), images.shape[2], device=images.device))
        raw = self.composition.inpainter(images * (1.0 - masks) + masks, masks)
        composed = images * (1.0 - masks) + raw.clamp(0.0, 1.0) * masks
        loss = F.l1_loss(raw, images)
        loss = loss + 250.0 * style_loss(self.features(raw), self.features(images))
        loss = loss + 0.1 * perceptual_loss(self.features(raw), self.features(images))
        # The published code computes this too, but does not descend it.
        self.adversarial.generator(self.discriminator(composed), masks)
        _update(loss, self.generator_optimizer)
        scores = self.discriminator(images), self.discriminator(composed.detach())
        _update(self.adversarial.discriminator(*scores, masks), self.discriminator_optimizer)
