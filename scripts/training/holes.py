"""What stage 2 learns from: healthy slices, the holes the model's own mask leaves in them, and how these are filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.data.utils import set_rnd
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import trange

from ..common.options import as_bool
from ..method.phanes import Phanes
from . import degrade
from .ellipses import random_ellipse_masks

LESIONS = ("ellipses", "blobs", "tissue")


class HoleMaker:
    """Makes lessons of healthy slices: the slice, its filled hole, the hole.

    Args:
        network: PHANES with a trained first stage and a calibrated mask.
        ellipses: arguments of `random_ellipse_masks`: the holes of the paper, and the ellipses that are painted.
        painted: shares of the slices whose first stage sees painted lesions, by kind: `ellipses` of one grey each,
            `blobs` with texture (`degrade.paint`), `tissue` that is darker than it was. Their masks and their coarse
            reconstructions are then as a lesion would leave them; the inpainter's target stays the healthy slice.
            Empty: nothing is painted, as published.
        union_probability: share of slices whose holes take the ellipses (or what was painted) in, as published. The
            others' holes are what the model's own mask found; around them the generator sees what it missed, as in use.
        threshold_jitter: the mask threshold is multiplied by a random number from this range, one a slice.
        refined_share: share of slices whose holes are what the mask becomes when it is refined by the anomaly map
            (`Refinement`), as most holes are in use; the same share of these is refined again. Needs a network with a
            calibrated refinement.
        refined_times: how often at most.

    Raises:
        ValueError: an unknown kind of lesion; refined holes without a refinement.
    """

    def __init__(
        self,
        network: Phanes,
        ellipses: Mapping[str, float] | None = None,
        painted: Mapping[str, float] | None = None,
        union_probability: float = 1.0,
        threshold_jitter: tuple[float, float] = (1.0, 1.0),
        refined_share: float = 0.0,
        refined_times: int = 1,
    ) -> None:
        self.painted = dict(painted or {})
        if unknown := sorted(set(self.painted) - set(LESIONS)):
            raise ValueError(f"No lesions of kind {', '.join(unknown)}; choose among {', '.join(LESIONS)}.")
        if refined_share > 0 and network.refinement is None:
            raise ValueError("refined_share needs a network with a refinement")
        self.network = network
        self.ellipses = dict(ellipses or {})
        self.union_probability = union_probability
        self.threshold_jitter = threshold_jitter
        self.refined_share = refined_share
        self.refined_times = refined_times

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) healthy slices in [0, 1] -> (B, 3, H, W): slice, generator's input, mask (0 or 1)."""
        network = self.network
        seen, lesion = self._lesioned(images)
        coarse, coarse_map = network.coarse(seen)
        own = network.mask(coarse_map, degrade.uniform(images, *self.threshold_jitter))
        mask = torch.maximum(own, lesion * degrade.coin(images, self.union_probability))
        if self.refined_share > 0:
            chosen = degrade.coin(images, self.refined_share)
            for _ in range(self.refined_times):
                refined = network.refinement(  # type: ignore[misc]
                    network.anomaly_map(seen, *network.inpaint(seen, mask, coarse, None))
                )
                mask = torch.where(chosen > 0, refined, mask)
                chosen = chosen * degrade.coin(images, self.refined_share)
        return torch.cat([images, network.masked_input(seen, mask, coarse), mask], dim=1)

    def _lesioned(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the first stage sees, and where something was painted or, without painting, the ellipses."""
        if not self.painted:
            masks = random_ellipse_masks(
                images.shape[0],
                images.shape[2],
                device=images.device,
                **self.ellipses,  # type: ignore[arg-type]
            )
            return images, masks
        draw = degrade.uniform(images, 0.0, 1.0)
        seen, below = images, 0.0
        for kind, share in self.painted.items():
            chosen = (draw >= below) & (draw < below + share)
            seen = torch.where(chosen, self._paint(kind, images), seen)
            below += share
        return seen, (seen != images).to(images.dtype)

    def _paint(self, kind: str, images: Tensor) -> Tensor:
        if kind == "ellipses":
            return degrade.paint_ellipses(images, **self.ellipses)  # type: ignore[arg-type]
        return degrade.paint(images) if kind == "blobs" else degrade.darken(images)


class StoredHoles(Dataset):
    """Lessons made once and kept in memory as bytes: stage 1 and its mask cost as much as a small generator's own step.

    Args:
        dataset: healthy slices under `image`, augmented anew at each access.
        maker: of the lessons.
        count: number of lessons, drawn from the slices in turn.
        seed: of augmentation and holes; the same lessons for the same seed.
        device: where they are made.
        batch_size: of their making.
        amp: bfloat16 autocast of their making.
        transform: changes a lesson at each access, so that stored ones do not stay the same: a dictionary transform of
            `slice` (2, H, W), the slice and the generator's input, and `hole` (1, H, W), the mask, which may be
            interpolated: it is where more than half is left.
    """

    def __init__(
        self,
        dataset: Dataset,
        maker: HoleMaker,
        count: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        amp: bool = False,
        transform: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        self.transform = transform
        amp = as_bool("amp", amp)
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image`: (3, H, W) in [0, 1], see `HoleMaker`."""
        lesson = self.lessons[index].float() / 255.0
        if self.transform is not None:
            changed = self.transform({"slice": lesson[:2], "hole": lesson[2:]})
            hole = (torch.as_tensor(changed["hole"]) > 0.5).to(lesson.dtype)
            lesson = torch.cat([torch.as_tensor(changed["slice"]), hole])
        return {"image": lesson}
