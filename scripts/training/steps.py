"""One optimisation step of each stage, free of host synchronisation; the engines in `engines.py` call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ..common.processes import process_count
from ..method.filling import compose_pseudo_healthy
from ..method.networks.soft_intro_vae import SoftIntroVAE, sample_posterior
from ..method.phanes import Phanes
from .losses import (
    SoftIntroLoss,
    SoftMaskAdversarialLoss,
    kl_divergence,
    perceptual_loss,
    reconstruction_error,
    reversed_embedding_similarity,
    style_loss,
)

Trunk = Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]  # features of style and of perceptual loss


def _autocast(device: torch.device, enabled: bool) -> AbstractContextManager[None]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _at_least_single(tensor: Tensor) -> Tensor:
    """Half precision, as autocast returns it, becomes float32; anything else stays."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def descend(
    loss: Tensor,
    parameters: Iterable[nn.Parameter],
    optimizer: Optimizer,
    retain_graph: bool = False,
) -> None:
    """One optimiser step of `parameters` alone. A distributed run averages the gradients over its processes."""
    trained = [p for p in parameters if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, retain_graph=retain_graph)
    if process_count() > 1:
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= process_count()
        pieces = flat.split([p.numel() for p in trained])
        gradients = tuple(piece.view_as(p) for piece, p in zip(pieces, trained, strict=True))
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


class AutoencoderStep:
    """The encoder's and the decoder's update of eq. (2), in turn, on one batch.

    The decoder does not change between the two updates, so its images are decoded once and their graph serves both.

    Args:
        network: the autoencoder, in training mode.
        encoder_optimizer: optimiser of `network.encoder`.
        decoder_optimizer: optimiser of `network.decoder`.
        loss: the objectives.
        detach_rereconstruction: stop the encoder's gradient at re-reconstructed images, as the published PHANES code
            does. The paper and the soft-introspective VAE let it through.
        amp: bfloat16 autocast.
    """

    def __init__(
        self,
        network: SoftIntroVAE,
        encoder_optimizer: Optimizer,
        decoder_optimizer: Optimizer,
        loss: SoftIntroLoss,
        detach_rereconstruction: bool = False,
        amp: bool = False,
    ) -> None:
        self.network = network
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer
        self.loss = loss
        self.detach_rereconstruction = detach_rereconstruction
        self.amp = amp

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(B, 1, H, W) -> mu, log variance, embeddings, in single precision."""
        with _autocast(images.device, self.amp):
            mu, log_var, embeddings = self.network.encode(images)
        return _at_least_single(mu), _at_least_single(log_var), [_at_least_single(e) for e in embeddings]

    def decode(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, 1, H, W), in single precision."""
        with _autocast(z.device, self.amp):
            image = self.network.decode(z)
        return _at_least_single(image)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 1, H, W) in [0, 1] -> detached scalars `loss`, `encoder`, `decoder`, `mse`, `kl`, ..."""
        pixels = images[0].numel()
        mu, log_var, embeddings = self.encode(images)
        z = sample_posterior(mu, log_var)
        # A leaf between encoder and decoder. The decoder's graph is walked twice: for dz, in the encoder's update, and
        # for its own parameters. Neither walk touches encoder weights, which change in between.
        latent = z.detach().requires_grad_(True)
        reconstruction = self.decode(latent)
        sample = self.decode(torch.randn_like(mu))
        rec_real, kl_real = reconstruction_error(images, reconstruction), kl_divergence(mu, log_var)

        # Encoder: everything the decoder made is a fixed image.
        generated, kl_generated, reversed_similarity = [], [], images.new_zeros(())
        for fake in (reconstruction.detach(), sample.detach()):
            fake_mu, fake_log_var, fake_embeddings = self.encode(fake)
            again = self.decode(sample_posterior(fake_mu, fake_log_var))
            if self.detach_rereconstruction:
                again = again.detach()
            kl_generated.append(kl_divergence(fake_mu, fake_log_var))
            generated.append((reconstruction_error(fake, again), kl_generated[-1]))
            if len(generated) == 1:
                reversed_similarity = reversed_embedding_similarity(embeddings, fake_embeddings)
        (latent_gradient,) = torch.autograd.grad(
            self.loss.beta_rec * rec_real.mean() / pixels, latent, retain_graph=True
        )
        encoder_loss = self.loss.encoder(rec_real.detach(), kl_real, generated, reversed_similarity, pixels)
        # d(rec)/d(encoder) enters through z. The sum of leaf gradient times z has the same derivative.
        descend(encoder_loss + (latent_gradient * z).sum(), self.network.encoder.parameters(), self.encoder_optimizer)

        # Decoder: its images must look likely to the encoder as it is now.
        generated = []
        for fake in (reconstruction, sample):
            fake_mu, fake_log_var, _ = self.encode(fake)
            again = self.decode(sample_posterior(fake_mu, fake_log_var).detach())
            generated.append((reconstruction_error(fake.detach(), again), kl_divergence(fake_mu, fake_log_var)))
        decoder_loss = self.loss.decoder(rec_real, generated, pixels)
        descend(decoder_loss, self.network.decoder.parameters(), self.decoder_optimizer)
        return {
            "loss": (encoder_loss + decoder_loss).detach(),
            "encoder": encoder_loss.detach(),
            "decoder": decoder_loss.detach(),
            "mse": rec_real.detach().mean() / pixels,
            "kl": kl_real.detach().mean(),
            "kl_reconstructed": kl_generated[0].detach().mean(),
            "kl_sampled": kl_generated[1].detach().mean(),
            "reversed": reversed_similarity.detach(),
        }


class VAEStep(AutoencoderStep):
    """A plain VAE's step: reconstruction and KL divergence of real images, no introspection.

    It takes the place of `AutoencoderStep` for a start: from random weights the introspective terms undo the
    reconstruction for thousands of steps. The soft-introspective VAE offers such a start as an option.
    """

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 1, H, W) in [0, 1] -> detached scalars."""
        mu, log_var, _ = self.encode(images)
        reconstruction = self.decode(sample_posterior(mu, log_var))
        rec, kl = reconstruction_error(images, reconstruction), kl_divergence(mu, log_var)
        loss = self.loss.elbo(rec, kl, images[0].numel())
        descend(loss, self.network.encoder.parameters(), self.encoder_optimizer, retain_graph=True)
        # The decoder's gradient does not pass through encoder weights, so the order of the two steps does not matter.
        descend(loss, self.network.decoder.parameters(), self.decoder_optimizer)
        return {"loss": loss.detach(), "mse": rec.detach().mean() / images[0].numel(), "kl": kl.detach().mean()}


class InpainterStep:
    """The generator's and the discriminator's update of stage 2 on one batch of healthy slices.

    Args:
        network: PHANES with a trained first stage and a calibrated mask; its inpainter is trained.
        discriminator: patch discriminator.
        generator_optimizer: optimiser of `network.inpainter`.
        discriminator_optimizer: optimiser of `discriminator`.
        trunk: gives the features of style and perceptual loss; unused where both weights are 0.
        holes: makes the holes, see `PublishedHoles`.
        style_weight: weight of `style_loss`; the mean absolute error of the raw prediction has weight 1.
        perceptual_weight: weight of `perceptual_loss`.
        adversarial_weight: weight of the generator's adversarial term. 0 leaves the discriminator out; so does, in
            effect, the published code.
        amp: bfloat16 autocast.
    """

    def __init__(
        self,
        network: Phanes,
        discriminator: nn.Module,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        trunk: Trunk,
        holes: Callable[[Tensor], tuple[Tensor, Tensor]],
        style_weight: float = 250.0,
        perceptual_weight: float = 0.1,
        adversarial_weight: float = 0.01,
        amp: bool = False,
    ) -> None:
        self.network = network
        self.discriminator = discriminator
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.trunk = trunk
        self.holes = holes
        self.adversarial = SoftMaskAdversarialLoss()
        self.weights = {
            "l1": 1.0,
            "style": style_weight,
            "perceptual": perceptual_weight,
            "adversarial": adversarial_weight,
        }
        self.amp = amp

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """One update of both networks.

        Args:
            images: (B, 1, H, W) healthy slices in [0, 1].

        Returns:
            Detached scalars `loss`, its terms, `discriminator`, `mask_area`.
        """
        filled, masks = self.holes(images)
        with _autocast(images.device, self.amp):
            raw = self.network.inpainter(filled, masks)
        raw = _at_least_single(raw)
        # The composition keeps the gradient where the image was filled; see compose_pseudo_healthy for the clamp.
        composed = compose_pseudo_healthy(images, raw, masks)

        terms = {"l1": F.l1_loss(raw, images)}
        if self.weights["style"] or self.weights["perceptual"]:
            with _autocast(images.device, self.amp):
                predicted, target = self.trunk(raw.clamp(0.0, 1.0)), self.trunk(images)
            terms |= {
                "style": style_loss(predicted[0], target[0]),
                "perceptual": perceptual_loss(predicted[1], target[1]),
            }
        if self.weights["adversarial"]:
            with _autocast(images.device, self.amp):
                scores = self.discriminator(composed)
            terms["adversarial"] = self.adversarial.generator(scores, masks)
        loss = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        descend(loss, self.network.inpainter.parameters(), self.generator_optimizer)

        if self.weights["adversarial"]:
            with _autocast(images.device, self.amp):
                real_scores, composed_scores = self.discriminator(torch.cat([images, composed.detach()])).chunk(2)
            terms["discriminator"] = self.adversarial.discriminator(
                _at_least_single(real_scores), _at_least_single(composed_scores), masks
            )
            descend(terms["discriminator"], self.discriminator.parameters(), self.discriminator_optimizer)
        scalars = {name: value.detach() for name, value in terms.items()}
        return {"loss": loss.detach(), **scalars, "mask_area": masks.mean()}
