"""The losses of both stages: soft-introspective VAE with reversed embedding similarity (eq. 2), and AOT-GAN.

Sources: Daniel and Tamar, "Soft-IntroVAE" (CVPR 2021); PHANES (MICCAI 2023) sections 2.1, 2.3; Zeng et al., AOT-GAN.
The weights are set in `bundle/configs/train.json` and `train_inpainter.json`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..method.filters import gaussian_filter


def reconstruction_error(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Sum of squared differences of each image: two (B, 1, H, W) -> (B,)."""
    return (image - reconstruction).square().flatten(1).sum(dim=1)


def kl_divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mu, exp(log_var)) || N(0, I)), summed over the latent: (B, Z), (B, Z) -> (B,)."""
    return -0.5 * (1.0 + log_var - mu.square() - log_var.exp()).sum(dim=1)


def reversed_embedding_similarity(embeddings: Sequence[Tensor], reconstructed: Sequence[Tensor]) -> Tensor:
    """L_Reversed of eq. (2): the distance of image and reconstruction in the encoder's own embeddings.

    Each level adds two terms: half the mean squared error, and one minus the cosine similarity of the flattened
    embeddings. The sum is averaged over the batch.

    Args:
        embeddings: the image's embeddings, (B, C_l, H_l, W_l) for each level l.
        reconstructed: the same of its reconstruction.

    Returns:
        A scalar, >= 0.
    """
    total = embeddings[0].new_zeros(())
    for a, b in zip(embeddings, reconstructed, strict=True):
        cosine = F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)
        total = total + 0.5 * F.mse_loss(b, a) + (1.0 - cosine).mean()
    return total


class SoftIntroLoss:
    """Encoder and decoder objectives of eq. (2).

    Args:
        beta_rec: weight of the reconstruction error.
        beta_kl: weight of the KL divergence of real images.
        beta_neg: weight of the KL divergence inside the encoder's exponential for generated images.
        gamma_rec: the decoder's weight of re-reconstructing generated images.
        lambda_reversed: weight of the reversed embedding similarity; 0 is a plain soft-introspective VAE.
        alpha: exponent of the soft exponential ELBO.
    """

    def __init__(
        self,
        beta_rec: float = 0.5,
        beta_kl: float = 1.0,
        beta_neg: float = 128.0,
        gamma_rec: float = 1e-8,
        lambda_reversed: float = 0.005,
        alpha: float = 2.0,
    ) -> None:
        self.beta_rec = beta_rec
        self.beta_kl = beta_kl
        self.beta_neg = beta_neg
        self.gamma_rec = gamma_rec
        self.lambda_reversed = lambda_reversed
        self.alpha = alpha

    def elbo(self, rec: Tensor, kl: Tensor, pixels: int) -> Tensor:
        """Negative evidence lower bound of real images, scaled by 1 / pixels: rec (B,), kl (B,) -> scalar."""
        return (self.beta_rec * rec.mean() + self.beta_kl * kl.mean()) / pixels

    def exp_elbo(self, rec: Tensor, kl: Tensor, pixels: int) -> Tensor:
        """Soft exponential ELBO of generated images. The encoder minimises it, so their likelihood falls."""
        return torch.exp(-self.alpha * (self.beta_rec * rec + self.beta_neg * kl) / pixels).mean() / self.alpha

    def encoder(
        self,
        rec_real: Tensor,
        kl_real: Tensor,
        generated: Sequence[tuple[Tensor, Tensor]],
        reversed_similarity: Tensor,
        pixels: int,
    ) -> Tensor:
        """L_E: real images likely, generated ones unlikely, embeddings of image and reconstruction alike.

        Args:
            rec_real: (B,) reconstruction error of the real images.
            kl_real: (B,) KL divergence of the real images.
            generated: (rec, kl) pairs of the generated batches: reconstructions and samples. They share the weight 1.
            reversed_similarity: scalar from `reversed_embedding_similarity`.
            pixels: number of pixels an image, the common scale.
        """
        fake = torch.stack([self.exp_elbo(rec, kl, pixels) for rec, kl in generated]).mean()
        return self.elbo(rec_real, kl_real, pixels) + fake + self.lambda_reversed * reversed_similarity

    def decoder(self, rec_real: Tensor, generated: Sequence[tuple[Tensor, Tensor]], pixels: int) -> Tensor:
        """L_D: real images reconstructed, generated ones likely under the encoder.

        Args:
            rec_real: (B,) reconstruction error of the real images.
            generated: (rec, kl) pairs of the generated batches; rec compares with the detached generated image.
            pixels: number of pixels an image.
        """
        loss = self.beta_rec * rec_real.mean()
        for rec, kl in generated:
            loss = loss + (self.beta_kl * kl.mean() + self.gamma_rec * self.beta_rec * rec.mean()) / len(generated)
        return loss / pixels


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrix of each image's features over h * w * c: (B, C, H, W) -> (B, C, C)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def style_loss(prediction: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of Gram matrices, summed over the taps of a perceptual trunk; a scalar."""
    return torch.stack(
        [F.l1_loss(gram_matrix(p), gram_matrix(t)) for p, t in zip(prediction, target, strict=True)]
    ).sum()


def perceptual_loss(prediction: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of features, summed over the taps of a perceptual trunk; a scalar."""
    return torch.stack([F.l1_loss(p, t) for p, t in zip(prediction, target, strict=True)]).sum()


class SoftMaskAdversarialLoss:
    """SM-PatchGAN: the discriminator learns where the image was inpainted, softly along the mask's edge.

    The labels are those of the AOT-GAN paper: 1 for real and 0 for inpainted. The published code swaps them for the
    discriminator alone.
    """

    SIGMA, RADIUS = 10.0, 35  # of the Gaussian that softens the mask, pixels

    def discriminator(self, real_scores: Tensor, composed_scores: Tensor, mask: Tensor) -> Tensor:
        """Least squares against the softened mask.

        Args:
            real_scores: (B, 1, h, w) scores of real images.
            composed_scores: (B, 1, h, w) scores of composed images, computed on a detached composition.
            mask: (B, 1, H, W), 1 where the image was inpainted.
        """
        real = 1.0 - gaussian_filter(mask, self.SIGMA, self.RADIUS / self.SIGMA)
        return F.mse_loss(_resize(composed_scores, mask), real) + F.mse_loss(real_scores, torch.ones_like(real_scores))

    def generator(self, composed_scores: Tensor, mask: Tensor) -> Tensor:
        """The inpainted region should score as real: squared error to 1, averaged over the mask."""
        error = (_resize(composed_scores, mask) - 1.0).square() * mask
        return error.sum() / mask.sum().clamp(min=1.0)


def _resize(scores: Tensor, mask: Tensor) -> Tensor:
    return F.interpolate(
        scores if scores.dtype == torch.float64 else scores.float(),
        size=mask.shape[-2:],
        mode="bilinear",
        align_corners=True,
    )
