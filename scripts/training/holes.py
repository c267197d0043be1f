"""The lessons of stage 2: healthy slices, holes that the model's own mask makes in them, and the holes' filling."""

from __future__ import annotations

from types import MappingProxyType

import torch
from monai.data.utils import set_rnd
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import trange

from ..method.phanes import Phanes
from . import degrade
from .ellipses import random_ellipse_masks


class PublishedHoles:
    """Lessons as published: the hole is the slice's own mask and random ellipses.

    Args:
        network: PHANES with a trained first stage and a calibrated mask.
    """

    def __init__(self, network: Phanes) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) healthy slices in [0, 1] -> (B, 3, H, W): slice, generator's input, mask (0 or 1)."""
        network = self.network
        coarse, coarse_map = network.coarse(images)
        ellipses = random_ellipse_masks(images.shape[0], images.shape[2], device=images.device)
        mask = torch.maximum(network.mask(coarse_map), ellipses)
        return torch.cat([images, network.masked_input(images, mask, coarse), mask], dim=1)


class LesionHoles:
    """Lessons as in use: a lesion is painted into the slice, and the hole is what the first stage's mask finds of it.

    Mask and coarse reconstruction are then like those of a real lesion. Around the hole, the generator sees the parts
    of the lesion that the mask missed. Its target stays the healthy slice.

    Args:
        network: PHANES with a trained first stage and a calibrated mask.
    """

    KINDS = ((0.5, "ellipses"), (0.2, "blobs"), (0.3, "tissue"))  # shares of the slices
    ELLIPSES = MappingProxyType({"count": 4, "half_axis_mean": 3.0, "half_axis_std": 5.0})  # of one grey each; pixels
    THRESHOLD_FACTOR = (0.8, 1.3)  # range of the factor of the mask's threshold, drawn for each slice

    def __init__(self, network: Phanes) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) healthy slices in [0, 1] -> (B, 3, H, W): slice, generator's input, mask (0 or 1)."""
        network = self.network
        seen = self.paint(images)
        coarse, coarse_map = network.coarse(seen)
        mask = network.mask(coarse_map, degrade.uniform(images, *self.THRESHOLD_FACTOR))
        return torch.cat([images, network.masked_input(seen, mask, coarse), mask], dim=1)

    def paint(self, images: Tensor) -> Tensor:
        """Slices with a lesion of one kind each: ellipses, textured blobs, or tissue that is darker than it was."""
        draw = degrade.uniform(images, 0.0, 1.0)
        painted, below = images, 0.0
        for share, kind in self.KINDS:
            chosen = (draw >= below) & (draw < below + share)
            if kind == "ellipses":
                lesioned = degrade.paint_ellipses(images, **self.ELLIPSES)  # type: ignore[arg-type]
            else:
                lesioned = degrade.paint(images) if kind == "blobs" else degrade.darken(images)
            painted = torch.where(chosen, lesioned, painted)
            below += share
        return painted


class StoredHoles(Dataset):
    """Lessons that are made once and kept in memory as bytes.

    This saves time: stage 1 and its mask cost as much as a small generator's own step.

    Args:
        dataset: healthy slices under `image`, augmented anew at each access.
        maker: makes the lessons.
        count: number of lessons, made of the slices in turn.
        seed: of augmentation and holes; the same seed gives the same lessons.
        device: where the lessons are made.
        batch_size: number of lessons made at once.
        amp: make them with bfloat16 autocast.
    """

    def __init__(
        self,
        dataset: Dataset,
        maker: PublishedHoles | LesionHoles,
        count: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        amp: bool = False,
    ) -> None:
        set_rnd(dataset, seed)
        slices = len(dataset)  # type: ignore[arg-type]
        lessons = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for first in trange(0, count, batch_size, desc="holes", unit="batch", leave=False):
                indices = range(first, min(first + batch_size, count))
                images = torch.stack([torch.as_tensor(dataset[i % slices]["image"]) for i in indices])
                images = images.to(device, torch.float32)
                with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=amp):
                    lesson = maker(images).float()
                lessons.append((lesson.clamp(0.0, 1.0) * 255.0).round().to("cpu", torch.uint8))
        self.lessons = torch.cat(lessons)

    def __len__(self) -> int:
        return len(self.lessons)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`image`: (3, H, W) in [0, 1], see `LesionHoles`."""
        return {"image": self.lessons[index].float() / 255.0}
