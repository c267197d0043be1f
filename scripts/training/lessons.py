"""The restoration network's lessons: healthy slices with painted lesions, changed as scans of other hospitals differ.

Everything is made on the device, a batch at a time. A change of contrast, brightness, sharpness or noise is the same in
the slice with the lesion and in its target. The two differ by the lesion alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..method.head import surroundings
from ..method.networks.linear import BRIGHTNESS
from ..method.networks.restoration import COLUMNS, ROWS
from .draws import Draws, SmoothNoise, blur
from .lesions import DARK, SCALES, LesionPainter
from .prepared import BRAIN_VALUE

CLEAN = 0.2  # share of slices without a lesion
SECOND = 0.4  # share of the others with a second one
HOLES = 0.3  # share of slices with hidden pixels
LEAST_BRAIN = 250  # pixels of brain a level needs; levels with less are skull base and vertex
THICK = 0.5  # share of slices blurred along z, as in scans with thick slices: up to 1.5 levels (7 mm) of deviation
ROTATION, SCALING, SHIFT = 3.0, 0.04, 0.015  # standard deviations: degrees, share, share of half the field
BEND = 1.5  # largest standard deviation of a smooth displacement, pixels
BENDS = range(2, 4)  # numbers of the displacement's scales in `SCALES`
CONTRAST = 0.3  # standard deviation of the log factor by which the distance from the median changes
GAMMA = 0.3  # standard deviation of log gamma
GAIN = 0.15  # standard deviation of the log brightness factor: lesions move a head's median brightness
BIAS = 0.2  # largest standard deviation of the log bias field
SOFT = (0.6, 0.3, 1.4)  # share of blurred slices; least and largest blur, pixels
NOISE = (0.7, 0.005, 0.1)  # share of noisy slices; least and largest standard deviation of the noise


class Lessons(NamedTuple):
    """A batch. Every tensor but the last is (B, 1, h, w). Images are in units of the head's median brightness.

    Attributes:
        image: what the network sees.
        target: the same slice without lesions.
        lesion: how much of a pixel was changed, in [0, 1].
        hole: 1 where pixels are hidden from the network, 0 elsewhere.
        brain: 1 in the template's brain.
        level: (B,) index of the level.
    """

    image: Tensor
    target: Tensor
    lesion: Tensor
    hole: Tensor
    brain: Tensor
    level: Tensor


class LessonMaker:
    """Makes lessons without end.

    Args:
        heads: (N, 128, 128, D) uint8 registered healthy heads as `prepare` stores them.
        brain: (128, 128, D), > 0 in the template's brain.
        seed: the same seed gives the same lessons.
        device: where the heads lie and the lessons are made.
        variety: how much contrast, brightness, sharpness and noise differ between slices. 1 is for scans of any
            hospital, less for scans like the training's.
        dark: share of lesions that are darker than the tissue.
    """

    def __init__(
        self,
        heads: Tensor,
        brain: Tensor,
        seed: int = 0,
        device: torch.device | str = "cpu",
        variety: float = 1.0,
        dark: float = DARK,
    ) -> None:
        box = (slice(*ROWS), slice(*COLUMNS))
        self.heads = heads[:, box[0], box[1]].permute(0, 3, 1, 2).to(device).contiguous()  # (N, D, h, w)
        self.brain = (brain[box] > 0).permute(2, 0, 1)[:, None].to(device).contiguous()  # (D, 1, h, w)
        self.seen = surroundings(self.brain)
        area = self.brain.flatten(1).sum(dim=1)
        self.weights = torch.where(area >= LEAST_BRAIN, area.float().sqrt(), 0.0)
        self.draws = Draws(seed, device)
        self.noise = SmoothNoise(self.draws, (ROWS[1] - ROWS[0], COLUMNS[1] - COLUMNS[0]), SCALES)
        self.painter = LesionPainter(self.draws, self.noise, dark)
        self.variety = variety

    def state(self) -> Tensor:
        """State of the random numbers, for a checkpoint."""
        return self.draws.generator.get_state()

    def resume(self, state: Tensor) -> None:
        """Go on where `state` was taken."""
        self.draws.generator.set_state(state.cpu())

    @torch.no_grad()
    def __call__(self, count: int) -> Lessons:
        """A batch of `count` lessons."""
        target, level = self.healthy(count)
        brain = self.brain[level]
        image, lesion = target.clone(), torch.zeros_like(target)
        chosen = self.draws.chosen(count, 1 - CLEAN)
        for share in (1.0, SECOND):
            chosen = chosen[self.draws.chosen(len(chosen), share)]
            if len(chosen):
                image[chosen], painted = self.painter.paint(image[chosen], brain[chosen])
                lesion[chosen] = torch.maximum(lesion[chosen], painted)
        image, target = self.acquired(image, target, level)
        return Lessons(image, target, lesion, self.holes(lesion, brain), brain.to(target.dtype), level)

    def healthy(self, count: int) -> tuple[Tensor, Tensor]:
        """Healthy slices, moved and bent a little, (count, 1, h, w), and their levels, (count,)."""
        draws, levels = self.draws, self.heads.shape[1]
        level = draws.index(self.weights, count)
        head = draws.integers(len(self.heads), count)
        images = self.heads[head, level].float()[:, None]
        thick = draws.chosen(count, THICK)
        if len(thick):
            near = torch.arange(-3, 4, device=draws.device)
            spread = draws.uniform(len(thick), 0.3, 1.5).view(-1, 1)
            weights = torch.exp(-0.5 * (near / spread).square())
            stack = self.heads[head[thick, None], (level[thick, None] + near).clamp(0, levels - 1)].float()
            weights = weights / weights.sum(dim=1, keepdim=True)
            images[thick, 0] = torch.einsum("bn,bnhw->bhw", weights, stack)
        return self._moved((images / BRAIN_VALUE).clamp(max=BRIGHTNESS)), level

    def _moved(self, images: Tensor) -> Tensor:
        """Slices rotated, scaled, shifted and bent; half of them mirrored."""
        draws, (count, _, height, width) = self.draws, images.shape
        angle = draws.normal(count, math.radians(ROTATION))
        zoom_x, zoom_y = 1 + draws.normal(count, SCALING), 1 + draws.normal(count, SCALING)
        side = torch.where(draws.coin(count, 0.5), -1.0, 1.0)
        ratio = height / width  # coordinates run from -1 to 1 on either axis
        columns = [angle.cos() * zoom_x, -angle.sin() * ratio, draws.normal(count, SHIFT)]
        rows = [angle.sin() / ratio, angle.cos() * zoom_y, draws.normal(count, SHIFT)]
        matrix = torch.cat([side * torch.cat(columns, 3), torch.cat(rows, 3)], dim=2)[:, 0]
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        scale, amount = BENDS[draws.integer(len(BENDS))], draws.uniform(count, 0.0, BEND)
        bend = [self.noise(count, scale) * amount * 2 / length for length in (width, height)]
        bent = torch.cat(bend, dim=1)
        grid = grid + (bent - bent.mean(dim=(2, 3), keepdim=True)).permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def acquired(self, image: Tensor, target: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Both images as another scanner might have shown them, without the skull.

        Contrast, bias field, sharpness and noise change alike in both.
        """
        draws, count, variety = self.draws, len(image), self.variety
        both = torch.cat([image, target], dim=1).clamp(min=1e-3) ** draws.normal(count, variety * GAMMA).exp()
        field = draws.uniform(count, 0.0, variety * BIAS) * self.noise(count, draws.integer(3))
        both = 1 + (both - 1) * draws.normal(count, variety * CONTRAST).exp()
        both = both.clamp(min=0) * torch.exp(field + draws.normal(count, variety * GAIN))
        soft = draws.chosen(count, variety * SOFT[0])
        if len(soft):
            both[soft] = blur(both[soft], draws.uniform(len(soft), *SOFT[1:]))
        noisy = draws.chosen(count, variety * NOISE[0])
        if len(noisy):
            grain = blur(draws.white((len(noisy), 1, *both.shape[2:])), draws.uniform(len(noisy), 0.1, 0.7))
            both[noisy] += grain * draws.log_uniform(len(noisy), *NOISE[1:])
        both = both.clamp(0, BRIGHTNESS) * self.seen[level]
        return both[:, :1], both[:, 1:]

    def holes(self, lesion: Tensor, brain: Tensor) -> Tensor:
        """Holes as in use, (B, 1, h, w), 0 or 1: over the lesion and a little more, or elsewhere, or both."""
        hole = torch.zeros_like(lesion)
        chosen = self.draws.chosen(len(lesion), HOLES)
        if len(chosen):
            own = F.max_pool2d((lesion[chosen] > 0.2).float(), 5, 1, 2)
            other = (self.painter.shape(brain[chosen])[0] > 0.5).float()
            draw = self.draws.uniform(len(chosen), 0.0, 1.0)
            both = torch.maximum(own, other)
            hole[chosen] = torch.where(draw < 0.4, own, torch.where(draw < 0.7, other, both))
        return hole
