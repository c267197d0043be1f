"""Lesions painted into healthy slices: their shapes, their fillings, and the oedema around them.

No real lesion and no real mask is used.

- A shape is a rough ellipse, or smooth noise above a percentile, which is ragged and often in several pieces. Its edges
  are sharp or soft.
- A filling is a grey value with texture, tissue made darker or brighter, tissue from elsewhere, the lesion's own tissue
  blurred, or dark as fluid.
- A lesion may be half transparent, and may have a rim of changed tissue.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .draws import Draws, SmoothNoise, blur

# Distances between the grid points of the noise, pixels: shapes use the first seven, textures the last four.
SCALES = (43.0, 32.0, 25.0, 18.0, 13.0, 9.0, 6.4, 4.6)
SHAPES, TEXTURES, ROUGHNESS = range(7), range(4, 8), range(4, 7)
PERCENTILES = (85.0, 99.5)  # a shape is where the noise exceeds such a percentile of it within the brain
RADII = (1.5, 28.0)  # half-axes of ellipses, pixels
EDGES = (0.3, 6.0)  # half the width of the edge, pixels
NOISE_SHARE = 0.5  # share of shapes from noise; the others are ellipses
KINDS = (0.2, 0.25, 0.1, 0.35, 0.1)  # shares: grey, scaled tissue, tissue from elsewhere, blurred tissue, fluid
DARK = 0.85  # share of lesions that are darker than the tissue, as most are on T1w scans
OPAQUE = 0.5  # share of lesions that hide what is below
RIM = 0.35  # share of lesions with a rim of changed tissue
AIR = 0.25  # what is darker elsewhere is air, not tissue


class LesionPainter:
    """Paints one lesion into every slice of a batch.

    Args:
        draws: where randomness comes from.
        noise: smooth noise of the scales in SCALES and of the slices' size.
        dark: share of lesions that are darker than the tissue.
    """

    def __init__(self, draws: Draws, noise: SmoothNoise, dark: float = DARK) -> None:
        self.draws, self.noise, self.dark = draws, noise, dark

    def paint(self, images: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
        """One lesion in every slice.

        Args:
            images: (B, 1, H, W), in units of the head's median brightness.
            brain: (B, 1, H, W) bool, with brain in every slice: lesions lie inside.

        Returns:
            (B, 1, H, W) slices with lesions; (B, 1, H, W) how much of each pixel was changed, in [0, 1].
        """
        draws, count = self.draws, len(images)
        lesion, rim = self.shape(brain)
        own = blur(images, draws.uniform(count, 1.5, 4.0))
        with_rim = draws.coin(count, RIM)
        change = torch.where(draws.coin(count, 0.85), draws.uniform(count, 0.7, 0.95), draws.uniform(count, 1.05, 1.2))
        rim = rim * with_rim
        below = images + rim * (own * change - images) * draws.uniform(count, 0.5, 1.0)
        opacity = torch.where(draws.coin(count, OPAQUE), 1.0, draws.uniform(count, 0.2, 1.0))
        painted = below + lesion * opacity * (self.filling(images, own).clamp(0.02, 2.0) - below)
        return painted, torch.maximum(lesion, rim)

    def shape(self, brain: Tensor) -> tuple[Tensor, Tensor]:
        """Where lesions lie, and a larger region around each: weights in [0, 1], (B, 1, H, W) both."""
        draws, count = self.draws, len(brain)
        edge = draws.log_uniform(count, *EDGES)
        depth, wide, width = self._ragged(brain, edge)
        depth_e, wide_e, width_e = self._elliptic(brain, edge)
        ragged = draws.coin(count, NOISE_SHARE)
        depth, wide, width = (
            torch.where(ragged, a, b) for a, b in ((depth, depth_e), (wide, wide_e), (width, width_e))
        )

        def soft(depth: Tensor, width: Tensor) -> Tensor:
            return (0.5 * depth / width + 0.5).clamp(0, 1) * brain

        return soft(depth, width), soft(wide, 1.5 * width)

    def _ragged(self, brain: Tensor, edge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ragged shapes from noise, (B, 1, H, W).

        Returns:
            How far the noise is above a percentile, > 0 in the lesion. How far it is above a lower percentile, > 0 in
            the larger region. The edge's width in the same numbers, (B, 1, 1, 1).
        """
        draws, count = self.draws, len(brain)
        scale = SHAPES[draws.integer(len(SHAPES))]
        field = self.noise(count, scale)
        # Every fourth pixel is enough for a percentile.
        inside = brain.flatten(1)[:, ::4]
        ranked = torch.where(inside, field.flatten(1)[:, ::4], -torch.inf).sort(dim=1, descending=True).values
        pixels = inside.sum(dim=1).view(-1, 1, 1, 1)

        def value_with_above(share: Tensor) -> Tensor:
            rank = (share * pixels).long().clamp(0, ranked.shape[1] - 1)
            rank = torch.minimum(rank, (pixels - 1).clamp(min=0))
            return ranked.gather(1, rank.view(-1, 1)).view(-1, 1, 1, 1)

        share = 1 - draws.uniform(count, *PERCENTILES) / 100
        wider = (share * (1 + draws.uniform(count, 0.5, 2.0))).clamp(max=0.5)
        return field - value_with_above(share), field - value_with_above(wider), 1.4 * edge / SCALES[scale]

    def _elliptic(self, brain: Tensor, edge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_ragged`, for ellipses with rough borders, centred anywhere in the brain."""
        draws, (count, _, height, width) = self.draws, brain.shape
        centre = torch.multinomial(brain.flatten(1).float(), 1, generator=draws.generator).view(-1, 1, 1, 1)
        rows = torch.arange(height, device=brain.device).view(1, 1, -1, 1) - centre // width
        columns = torch.arange(width, device=brain.device).view(1, 1, 1, -1) - centre % width
        angle, radius = draws.uniform(count, 0.0, math.pi), draws.log_uniform(count, *RADII)
        longer = draws.log_uniform(count, 0.6, 1.67)
        along = (angle.cos() * columns + angle.sin() * rows) / (radius * longer)
        across = (angle.cos() * rows - angle.sin() * columns) / (radius / longer)
        rough = draws.uniform(count, 0.0, 0.35) * self.noise(count, ROUGHNESS[draws.integer(len(ROUGHNESS))])
        depth = 1 - (along.square() + across.square()).sqrt() + rough
        return depth, depth + draws.uniform(count, 0.2, 0.8), edge / radius

    def filling(self, images: Tensor, own: Tensor) -> Tensor:
        """The fillings of lesions, for every pixel of the slices.

        Args:
            images: (B, 1, H, W), in units of the head's median brightness.
            own: the same slices, blurred.

        Returns:
            (B, 1, H, W).
        """
        draws, count = self.draws, len(images)
        kind = draws.index(torch.tensor(KINDS, device=images.device), count).view(-1, 1, 1, 1)
        dark = draws.coin(count, self.dark)
        grey = torch.where(dark, draws.uniform(count, 0.15, 0.95), draws.uniform(count, 0.95, 1.8))
        factor = torch.where(dark, draws.uniform(count, 0.3, 0.95), draws.uniform(count, 1.05, 1.6))
        texture = draws.uniform(count, 0.0, 0.15) * self.noise(count, TEXTURES[draws.integer(len(TEXTURES))])
        shift = (draws.integer(60) - 30, draws.integer(60) - 30)
        elsewhere = images.roll(1, 0).roll(shift, (2, 3))
        fillings = (
            grey + texture,
            images * factor * (1 + texture),
            torch.where(elsewhere < AIR, grey + texture, elsewhere),
            own * factor.clamp(min=0.5) * (1 + 0.5 * texture),
            0.5 * grey.clamp(max=0.9) + 0.05 + 0.3 * texture,
        )
        chosen = fillings[0]
        for number, filling in enumerate(fillings[1:], start=1):
            chosen = torch.where(kind == number, filling, chosen)
        return chosen
