"""The restoration network: it repaints what does not look healthy and leaves the rest as it is.

It learns from healthy slices into which lesions were painted (`scripts.training.lessons`). The input has the lesion,
the target has not. The network sees the whole slice, so its reconstruction is sharp; yet it does not reproduce what it
was taught to repaint.

Pixels of a hole are hidden from it and completed from the rest. So the same network serves both stages: without a hole
it is stage 1, with the mask as the hole it is stage 2.

It is a small U-Net on half the resolution. Slices are folded (pixel-unshuffle). The answer is unfolded and is a
correction of the slice. There are no normalisation layers: a slice's correction depends on this slice alone.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .levels import level_index
from .linear import BRIGHTNESS

# The network looks at this part of the 128 x 128 field: the template's brain and six pixels around it. The columns lie
# symmetrically about the middle of the field, so that mirrored columns are the other side of the head.
ROWS = (8, 120)
COLUMNS = (16, 112)
FOLD = 2
CHANNELS = 6  # slice, mirrored slice, the level's mean and spread, its height, hole


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a (projected) skip."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        with torch.no_grad():
            self.second.weight.mul_(0.5)  # without normalisation, deep sums would grow

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class RestorationNetwork(nn.Module):
    """Takes slices at any level to healthy ones.

    The buffers `mean` and `spread` hold the training heads' mean and standard deviation at each level;
    `describe_levels` fills them.

    Args:
        heights: MNI z of each level, mm, evenly spaced, rising.
        widths: channels at each resolution, from fine to coarse.
    """

    def __init__(self, heights: Sequence[float], widths: Sequence[int] = (32, 64, 128, 192)) -> None:
        super().__init__()
        # TorchScript reads attributes, not a module's constants.
        self.rows, self.columns, self.fold, self.brightness = ROWS, COLUMNS, FOLD, BRIGHTNESS
        self.first, self.last = float(heights[0]), float(heights[-1])
        self.levels = len(heights)
        size = (len(heights), 1, ROWS[1] - ROWS[0], COLUMNS[1] - COLUMNS[0])
        self.register_buffer("mean", torch.full(size, torch.nan, dtype=torch.float16))
        self.register_buffer("spread", torch.full(size, torch.nan, dtype=torch.float16))
        self.mean: Tensor
        self.spread: Tensor
        self.stem = nn.Conv2d(CHANNELS * FOLD**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Block(narrow, wide) for narrow, wide in zip((widths[0], *widths), widths, strict=False)
        )
        # From coarse to fine, as they are used.
        self.project = nn.ModuleList(nn.Conv2d(wide, narrow, 1) for wide, narrow in pairwise(widths[::-1]))
        self.up = nn.ModuleList(Block(width, width) for width in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], 2 * FOLD**2, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # at first every slice is returned as it came
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs

    def describe_levels(self, heads: Tensor, unit: float) -> None:
        """Set mean and spread of each level.

        Args:
            heads: (N, 128, 128, D) healthy training heads, at least two.
            unit: the number that stands for the median brightness in `heads`.
        """
        for level in range(self.levels):
            cut = heads[:, slice(*ROWS), slice(*COLUMNS), level].float() / unit
            cut = cut.clamp(max=BRIGHTNESS)
            self.mean[level, 0] = cut.mean(dim=0)
            self.spread[level, 0] = cut.std(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        """The slices as they would look without lesions.

        Args:
            x: (B, 2, 128, 128): slices in [0, 1], where 0.5 is the head's median brightness; a plane of their MNI z,
                mm.

        Returns:
            (B, 1, 128, 128) in [0, 1]; around the brain the slice's own values.
        """
        return self.restore(x)[0]

    def fill(self, x: Tensor, hole: Tensor) -> Tensor:
        """The slices completed in a hole from its surroundings; the surroundings are restored too.

        Args:
            x: (B, 2, 128, 128), as in `forward`; no pixel inside the hole is looked at.
            hole: (B, 1, 128, 128), > 0 inside.

        Returns:
            (B, 1, 128, 128) in [0, 1].
        """
        return self.restore(x, hole)[0]

    def restore(self, x: Tensor, hole: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Restored slices, and where the network sees something to restore.

        Args:
            x: (B, 2, 128, 128), as in `forward`.
            hole: (B, 1, 128, 128), > 0 where pixels are hidden; None hides nothing.

        Returns:
            (B, 1, 128, 128) restored slice in [0, 1]; (B, 1, 128, 128) logit of a lesion, -inf around the brain.
        """
        (top, bottom), (left, right) = self.rows, self.columns
        images, cut = x[:, :1], x[:, :, top:bottom, left:right]
        level = level_index(x[:, 1], self.first, self.last, self.levels)
        hidden = None if hole is None else hole[:, :, top:bottom, left:right]
        restored, logit = self.correct(self.brightness * cut[:, :1], level, hidden)
        margin = [left, images.shape[3] - right, top, images.shape[2] - bottom]
        seen = F.pad(torch.ones_like(restored), margin)
        around = torch.where(seen > 0, F.pad(restored / self.brightness, margin), images)
        return around.clamp(0, 1), F.pad(logit, margin, value=float("-inf"))

    def correct(self, images: Tensor, level: Tensor, hole: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The network itself, on the part of the field that is looked at.

        Args:
            images: (B, 1, h, w), in units of the head's median brightness.
            level: (B,) int64, index of the level.
            hole: (B, 1, h, w), > 0 where pixels are hidden; None hides nothing.

        Returns:
            (B, 1, h, w) restored slice, same units; (B, 1, h, w) logit of a lesion.
        """
        mean, spread = self.mean[level].float(), self.spread[level].float()
        hidden = torch.zeros_like(images) if hole is None else (hole > 0).to(images.dtype)
        images = torch.where(hidden > 0, mean, images)
        height = (2.0 * level / self.levels - 1).view(-1, 1, 1, 1).expand_as(images)
        context = [images - 1, images.flip(3) - 1, mean - 1, 4 * spread, height, hidden]
        features = self.stem(F.pixel_unshuffle(torch.cat(context, dim=1), self.fold))
        skips: list[Tensor] = []
        for depth, block in enumerate(self.down):
            features = block(F.avg_pool2d(features, 2) if depth > 0 else features)
            skips.append(features)
        skips.pop()
        for project, block in zip(self.project, self.up):  # noqa: B905 - TorchScript knows no strict
            features = block(F.interpolate(project(features), scale_factor=2.0, mode="nearest") + skips.pop())
        answer = F.pixel_shuffle(self.head(features), self.fold).float()
        return images + answer[:, :1], answer[:, 1:]
