"""Slices of whole heads for the compared systems, and the networks of RA and SI-VAE that know a slice's height.

A slice shows what PHANES' own network sees: the brain and a little around it, in [0, 1], with the median of the head's
brain at 0.5. Systems with `AnomalySystem.level` get a second channel, a plane that holds the slice's MNI z, mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import Dataset

from ...method.head import surroundings
from ...method.networks.linear import BRIGHTNESS
from ...method.networks.restoration import COLUMNS, ROWS
from ...method.networks.soft_intro_vae import SoftIntroVAE
from ...space.levels import LEVELS_MM, SIZE, brain_of_levels
from ...training.lessons import LEAST_BRAIN, LessonMaker
from ...training.losses import SoftIntroLoss
from ...training.prepared import BRAIN_VALUE
from ...training.restoration import read_heads
from ...training.steps import AutoencoderStep, VAEStep

LOWEST, HIGHEST = LEVELS_MM[0], LEVELS_MM[-1]


def with_heights(slices: Tensor, heights: Tensor) -> Tensor:
    """(B, 1, H, W) and their MNI z (B,) -> (B, 2, H, W)."""
    return torch.cat([slices, heights.to(slices).view(-1, 1, 1, 1).expand_as(slices)], dim=1)


def scaled(slices: Tensor) -> Tensor:
    """(B, 2, H, W) with heights in mm -> the same with heights from -1 (lowest level) to 1 (highest)."""
    return torch.cat([slices[:, :1], (2 * slices[:, 1:] - LOWEST - HIGHEST) / (HIGHEST - LOWEST)], dim=1)


class VariedSlices(Dataset):
    """Batches of the healthy slices that PHANES' network learns from (`LessonMaker`), with no lesion painted in.

    Args:
        dataset_dir: folder that `prepare` wrote; its `train` is read.
        batch_size: slices a batch.
        batches: in an epoch.
        level: add the plane of the height.
    """

    def __init__(self, dataset_dir: str, batch_size: int, batches: int, level: bool = False) -> None:
        self.maker = LessonMaker(read_heads(Path(dataset_dir) / "train"), torch.from_numpy(brain_of_levels().copy()))
        self.batch_size, self.batches, self.level = batch_size, batches, level

    def set_random_state(self, seed: int) -> None:
        """Seed an epoch; MONAI calls it."""
        self.maker.draws.generator.manual_seed(seed)

    def __len__(self) -> int:
        return self.batches

    @torch.no_grad()
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`image`: (B, 1 or 2, H, W)."""
        if index >= self.batches:
            raise IndexError
        healthy, level = self.maker.healthy(self.batch_size)
        cut = self.maker.acquired(healthy, healthy, level)[0] / BRIGHTNESS
        slices = F.pad(cut, (COLUMNS[0], SIZE - COLUMNS[1], ROWS[0], SIZE - ROWS[1]))
        return {"image": with_heights(slices, torch.tensor(LEVELS_MM)[level]) if self.level else slices}


class PlainSlices(Dataset):
    """Slices of all heads at every n-th level, unchanged, one batch a level. For validation, and for fits in one pass.

    Args:
        folder: of prepared heads.
        every: n, the step between levels.
        level: add the plane of the height.
    """

    def __init__(self, folder: str | Path, every: int = 8, level: bool = False) -> None:
        brain = torch.from_numpy(brain_of_levels().copy())
        self.chosen = [k for k in range(len(LEVELS_MM)) if brain[..., k].sum() >= LEAST_BRAIN][every // 2 :: every]
        self.heads = read_heads(folder)[..., self.chosen]
        self.seen = surroundings(brain.permute(2, 0, 1)[:, None])[self.chosen]
        self.level = level

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`image`: (B, 1 or 2, H, W), B heads."""
        slices = (self.heads[:, None, :, :, index] / (BRAIN_VALUE * BRIGHTNESS)).clamp(max=1) * self.seen[index]
        height = torch.full((len(slices),), LEVELS_MM[self.chosen[index]])
        return {"image": with_heights(slices, height) if self.level else slices}


class LevelAutoencoder(SoftIntroVAE):
    """PHANES' first stage for all levels. Encoder and decoder know the slice's height.

    The encoder sees the height as a second channel, the decoder as a number beside the latent. Slices are
    (B, 2, H, W), as `HeadPhanes` hands them to its network.
    """

    def __init__(
        self,
        image_size: int = 128,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        latent_dim: int = 128,
    ) -> None:
        super().__init__(image_size, channels, latent_dim)
        project = self.decoder.project
        self.encoder.stem = nn.Conv2d(2, channels[0], 5, padding=2, bias=False)
        self.decoder.project = type(project)(latent_dim + 1, project.out_features)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(B, 2, H, W) -> mean (B, Z), log variance (B, Z), and the embeddings of the encoder's levels."""
        return self.encoder(scaled(x))

    def decode_at(self, z: Tensor, slices: Tensor) -> Tensor:
        """Decode latents (B, Z) at the heights of slices (B, 2, H, W) -> (B, 1, H, W) in [0, 1]."""
        return self.decode(torch.cat([z, scaled(slices)[:, 1:, 0, 0]], dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Coarse pseudo-healthy image from the posterior's mean: (B, 2, H, W) -> (B, 1, H, W) in [0, 1]."""
        return self.decode_at(self.encode(x)[0], x)


class LevelStep(VAEStep):
    """`AutoencoderStep` for a `LevelAutoencoder`. It decodes and encodes at the heights of the batch.

    Args:
        network: in training mode.
        optimizer: of all its weights.
        loss: the objectives.
        warmup_epochs: first epochs, trained as a plain VAE, both networks by one loss.
        batches: of an epoch.
        amp: bfloat16 autocast.
    """

    network: LevelAutoencoder

    def __init__(
        self,
        network: LevelAutoencoder,
        optimizer: Adam,
        loss: SoftIntroLoss,
        warmup_epochs: int = 0,
        batches: int = 1,
        amp: bool = False,
    ) -> None:
        super().__init__(network, optimizer, optimizer, loss, detach_rereconstruction=True, amp=amp)
        self.warmup_epochs, self.batches = warmup_epochs, batches

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode images (B, 1, H, W) at the batch's heights."""
        return super().encode(torch.cat([images, self.batch[:, 1:]], dim=1))

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents (B, Z) at the batch's heights -> (B, 1, H, W)."""
        with torch.autocast(z.device.type, dtype=torch.bfloat16, enabled=self.amp):
            return self.network.decode_at(z, self.batch).float()

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """One step on images (B, 2, H, W) -> detached scalars."""
        self.batch = images
        first = next(self.network.encoder.parameters())
        taken = int(self.encoder_optimizer.state[first].get("step", 0))  # of a resumed training, too
        warming_up = taken < self.warmup_epochs * self.batches
        step = VAEStep if warming_up else AutoencoderStep
        return step.__call__(self, images[:, :1])


class TakingTurns(Adam):
    """Adam for two networks that are updated in turn. A gradient serves one update and is then cleared."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the weights that have a gradient."""
        super().step(closure)
        self.zero_grad(set_to_none=True)
