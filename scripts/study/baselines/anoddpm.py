"""AnoDDPM: a diffusion model of healthy brains noises the image part of the way, by simplex noise, and denoises it.

Source: Wyatt, Leach, Schmon, Willcocks, "AnoDDPM: anomaly detection with denoising diffusion probabilistic models using
simplex noise" (CVPR workshops 2022). Network and schedule are MONAI's; the reverse step is our own, because the
scheduler's draws Gaussian noise, and the source draws simplex noise there too.
"""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from .protocol import ReconstructionSystem, Trainable
from .simplex import SimplexNoise


class AnoDDPM(Trainable, ReconstructionSystem):
    """Noise to step `start_step`, then denoise back to 0.

    At test all noise follows from `seed`. A step has one field of noise for all images, as in the source, and for all
    calls. So a reconstruction does not depend on its batch.

    Args:
        comparison: the map, `maps.ResidualMap`; `squared` in the source.
        network: (x, timesteps) -> predicted noise, `monai.networks.nets.DiffusionModelUNet`.
        scheduler: noise schedule.
        noise: shape of the noise.
        max_training_step: steps below this are learnt.
        start_step: number of steps the image is noised by at test.
        sampling_steps: network passes at test. None takes `start_step` of them (the source). Fewer are spread evenly;
            each is then an ancestral step over several (Nichol and Dhariwal 2021, section 4).
        centred: let the process see [-1, 1] (source) instead of [0, 1].
        patch_size: fold squares of this side into channels before the network, and back after it. The network then
            needs `patch_size` squared input and output channels. 1 is the source, 2 has a quarter of the cost.
        seed: of the noise at test.

    Raises:
        ValueError: when steps lie outside the schedule.
    """

    name = "AnoDDPM"
    rebuilt = ("comparison", "scheduler")

    def __init__(
        self,
        comparison: nn.Module,
        network: nn.Module,
        scheduler: DDPMScheduler,
        noise: SimplexNoise,
        max_training_step: int = 800,
        start_step: int = 200,
        sampling_steps: int | None = None,
        centred: bool = True,
        patch_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(comparison)
        longest = scheduler.num_train_timesteps
        if not (0 < start_step <= longest and 0 < max_training_step <= longest):
            raise ValueError(f"start_step and max_training_step must lie between 1 and the schedule's {longest} steps")
        if sampling_steps is not None and not 0 < sampling_steps <= start_step:
            raise ValueError(f"sampling_steps must lie between 1 and start_step, {start_step}")
        self.network = network
        self.scheduler = scheduler
        self.noise = noise
        self.max_training_step = max_training_step
        self.start_step = start_step
        self.sampling_steps = sampling_steps or start_step
        self.low, self.high = (-1.0, 1.0) if centred else (0.0, 1.0)
        self.patch_size = patch_size
        self.seed = seed

    def predict_noise(self, x: Tensor, steps: Tensor) -> Tensor:
        """The network's noise at diffusion steps (B,): (B, 1, H, W) -> (B, 1, H, W) float32."""
        folded = F.pixel_unshuffle(x, self.patch_size)
        return F.pixel_shuffle(self.network(folded, timesteps=steps), self.patch_size).float()

    def _to_process(self, images: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * images

    def _from_process(self, x: Tensor) -> Tensor:
        return ((x - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

    def training_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the predicted noise: each image at a step of its own, one field of noise."""
        steps = torch.randint(self.max_training_step, (len(images),), device=images.device)
        seed = int(torch.randint(2**31, ()))
        noise = self.noise((images.shape[-2], images.shape[-1]), steps, seed)
        noisy = self.scheduler.add_noise(self._to_process(images), noise, steps)
        loss = (self.predict_noise(noisy, steps) - noise).square().mean()
        return loss, {"mse": loss.detach()}

    def timesteps(self) -> list[int]:
        """The steps visited at test, descending from start_step - 1 to 0."""
        return torch.linspace(self.start_step - 1, 0, self.sampling_steps).round().int().unique().flip(0).tolist()

    def reverse_step(self, x: Tensor, predicted_noise: Tensor, step: int, previous: int, noise: Tensor) -> Tensor:
        """One ancestral step q(x_previous | x_step, x_0) with the predicted x_0 and the given noise.

        For previous = step - 1 these are equations (6) and (7) of Ho et al. (2020). Steps further apart use the same
        posterior with the variance that lies between them. previous = -1 is the clean image.

        Args:
            x: (B, 1, H, W), the image at `step`.
            predicted_noise: (B, 1, H, W), the network's.
            step: where x is.
            previous: where to go, below `step`.
            noise: broadcastable to x.
        """
        cumulative = self.scheduler.alphas_cumprod.to(x.device)
        alpha_bar = cumulative[step]
        alpha_bar_previous = cumulative[previous] if previous >= 0 else torch.ones_like(alpha_bar)
        alpha = alpha_bar / alpha_bar_previous
        beta = 1.0 - alpha
        clean = (x - (1.0 - alpha_bar).sqrt() * predicted_noise) / alpha_bar.sqrt()
        clean = clean.clamp(self.low, self.high)
        share = alpha_bar_previous.sqrt() * beta / (1.0 - alpha_bar)
        mean = share * clean + alpha.sqrt() * (1.0 - alpha_bar_previous) / (1.0 - alpha_bar) * x
        variance = beta * (1.0 - alpha_bar_previous) / (1.0 - alpha_bar)
        return mean + variance.sqrt() * noise

    @torch.no_grad()
    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Noise and denoise: (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]. The same seed gives the same result."""
        size = (images.shape[-2], images.shape[-1])
        visited = self.timesteps()

        def field(step: int, seed: int) -> Tensor:
            return self.noise(size, torch.tensor([step], device=images.device), seed)

        start = torch.full((len(images),), visited[0], device=images.device)
        noise = field(visited[0], self.seed).expand_as(images)
        x = self.scheduler.add_noise(self._to_process(images), noise, start)
        for n, step in enumerate(visited):
            previous = visited[n + 1] if n + 1 < len(visited) else -1
            steps = torch.full((len(images),), step, device=images.device)
            noise = field(step, self.seed + 1 + step)
            x = self.reverse_step(x, self.predict_noise(x, steps), step, previous, noise)
        return self._from_process(x)
