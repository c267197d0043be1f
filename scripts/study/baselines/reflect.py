"""A REFLECT-like system: an autoencoder's latent image is corrected in one step of a rectified flow, and drawn.

Source of the idea: REFLECT (MICCAI 2025). A network learns the straight way from the latent of a slice with a generated
lesion to that of the same slice without it. One step from an unknown slice ends at its healthy twin. Here autoencoder
and flow are trained together. The lesions are those that PHANES' own network learns from. Both networks are MONAI's,
and small.
"""

from __future__ import annotations

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from ...method.networks.linear import BRIGHTNESS
from ...training.draws import Draws, SmoothNoise
from ...training.lesions import SCALES, LesionPainter
from .heads import scaled
from .protocol import ReconstructionSystem, Trainable

FOREGROUND = 0.05  # a brighter pixel may get a lesion
STEPS = 1000.0  # the flow's time, 0 to 1, in the numbers that MONAI's embedding of time expects
KL_WEIGHT = 1e-6  # keeps the latent near unit size, as is usual for latent diffusion


class Reflect(Trainable, ReconstructionSystem):
    """Autoencoder and flow.

    Args:
        comparison: the map, `maps.ResidualMap`.
        autoencoder: with a latent image.
        flow: (latent, time) -> velocity, `DiffusionModelUNet`; with `level` it needs one channel more, the height.
        level: the flow is shown the slice's height.
    """

    name = "REFLECT-like"

    def __init__(self, comparison: nn.Module, autoencoder: AutoencoderKL, flow: nn.Module, level: bool = False) -> None:
        super().__init__(comparison)
        self.autoencoder, self.flow, self.level = autoencoder, flow, level
        self._painter: LesionPainter | None = None

    def velocity(self, latent: Tensor, time: Tensor, images: Tensor) -> Tensor:
        """(B, C, h, w), a time (B,) in [0, 1], and the slices, for their height -> (B, C, h, w)."""
        if self.level:
            height = scaled(images)[:, 1:, :1, :1].expand(-1, -1, *latent.shape[2:])
            latent = torch.cat([latent, height.to(latent.dtype)], dim=1)
        return self.flow(latent, timesteps=STEPS * time)

    def painted(self, healthy: Tensor) -> Tensor:
        """A lesion in every slice, (B, 1, H, W) in [0, 1]. It follows from torch's random state alone."""
        if self._painter is None:
            draws = Draws(0, healthy.device)
            self._painter = LesionPainter(draws, SmoothNoise(draws, (healthy.shape[-2], healthy.shape[-1]), SCALES))
        self._painter.draws.generator.manual_seed(int(torch.randint(2**31, ())))
        inside = healthy > FOREGROUND
        inside |= ~inside.any(dim=(2, 3), keepdim=True)  # an empty slice gets its lesion anywhere
        return (self._painter.paint(BRIGHTNESS * healthy, inside)[0] / BRIGHTNESS).clamp(0.0, 1.0)

    def training_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The autoencoder's error on healthy slices, and the flow's between a slice with a lesion and without."""
        healthy = images[:, :1]
        mean, spread = self.autoencoder.encode(healthy)
        drawn = self.autoencoder.decode(self.autoencoder.sampling(mean, spread))
        drawing = (drawn - healthy).abs().mean()
        kl = 0.5 * (mean.square() + spread.square() - 2 * spread.log() - 1).flatten(1).sum(dim=1).mean()
        with torch.no_grad():
            start, end = self.autoencoder.encode(self.painted(healthy))[0], mean.detach()
        time = torch.rand(len(images), device=images.device)
        share = time.view(-1, 1, 1, 1)
        flow = F.mse_loss(self.velocity((1 - share) * start + share * end, time, images), end - start)
        return drawing + KL_WEIGHT * kl + flow, {"drawing": drawing.detach(), "flow": flow.detach()}

    def healthy_error(self, images: Tensor) -> Tensor:
        """Mean absolute error of slices whose painted lesion was corrected, a scalar."""
        healthy = images[:, :1]
        return (self.reconstruct(torch.cat([self.painted(healthy), images[:, 1:]], dim=1)) - healthy).abs().mean()

    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """One step from time 0 to 1: (B, 1 or 2, H, W) -> (B, 1, H, W) in [0, 1]."""
        latent = self.autoencoder.encode(images[:, :1])[0]
        latent = latent + self.velocity(latent, latent.new_zeros(len(images)), images)
        return self.autoencoder.decode(latent).clamp(0.0, 1.0)
