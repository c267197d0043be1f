"""Random numbers, one for each slice of a batch, and smooth random fields. They have a generator of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

FIELDS = 96  # number of stored fields of each scale
MARGIN = 64  # pixels by which a stored field is larger than the part that is read


class Draws:
    """Random numbers, (B, 1, 1, 1) each, on a device.

    Args:
        seed: of the generator.
        device: where the numbers are made.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.device = torch.device(device)

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        """Uniform between two ends."""
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=self.generator, device=self.device)

    def log_uniform(self, count: int, low: float, high: float) -> Tensor:
        """Between two ends, uniform in the logarithm."""
        return torch.exp(self.uniform(count, math.log(low), math.log(high)))

    def normal(self, count: int, spread: float) -> Tensor:
        """Normal about 0, with the standard deviation `spread`."""
        return spread * torch.randn(count, 1, 1, 1, generator=self.generator, device=self.device)

    def coin(self, count: int, probability: float) -> Tensor:
        """True with a probability."""
        return self.uniform(count, 0.0, 1.0) < probability

    def chosen(self, count: int, probability: float) -> Tensor:
        """Indices of the slices for which a coin fell: (n,), n <= count, possibly none."""
        return self.coin(count, probability).flatten().nonzero()[:, 0]

    def index(self, weights: Tensor, count: int) -> Tensor:
        """(count,) indices into `weights`, (N,), drawn in proportion to them."""
        return torch.multinomial(weights, count, replacement=True, generator=self.generator)

    def integers(self, end: int, count: int) -> Tensor:
        """(count,) from 0 to `end` - 1."""
        return torch.randint(end, (count,), generator=self.generator, device=self.device)

    def integer(self, end: int) -> int:
        """One number for the whole batch, 0 to `end` - 1."""
        return int(torch.randint(end, (1,), generator=self.generator, device=self.device))

    def white(self, shape: Sequence[int]) -> Tensor:
        """White noise of unit spread."""
        return torch.randn(*shape, generator=self.generator, device=self.device)


class SmoothNoise:
    """Smooth random fields of unit spread, at several scales.

    Fields are made once. They are read at random places, mirrored and with either sign. This costs a tenth of making
    them anew.

    Args:
        draws: where randomness comes from.
        size: (h, w) of the fields.
        scales: distance between the noise's grid points, pixels, from smooth to fine.
    """

    def __init__(self, draws: Draws, size: tuple[int, int], scales: Sequence[float]) -> None:
        self.draws, self.size, self.scales = draws, size, tuple(scales)
        height, width = size[0] + MARGIN, size[1] + MARGIN
        self.fields = []
        for scale in self.scales:
            grid = draws.white((FIELDS, 1, math.ceil(height / scale) + 3, math.ceil(width / scale) + 3))
            field = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
            border = int(scale)  # where the interpolation repeats the grid's border
            field = field[:, :, border : border + height, border : border + width]
            self.fields.append((field / field.std()).contiguous())

    def __call__(self, count: int, scale: int) -> Tensor:
        """(count, 1, h, w) fields of the scale number `scale`."""
        draws = self.draws
        top, left = draws.integer(MARGIN), draws.integer(MARGIN)
        stored = self.fields[scale][:, :, top : top + self.size[0], left : left + self.size[1]]
        fields = stored[draws.integers(FIELDS, count)]
        mirrored = [dim for dim in (2, 3) if draws.integer(2)]
        sign = 1 - 2 * draws.integers(2, count).view(-1, 1, 1, 1)
        return (fields.flip(mirrored) if mirrored else fields) * sign


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, with another width for every slice. At the border the kernel is cut and normalised to 1 again.

    Args:
        images: (B, 1, H, W).
        sigma: (B, 1, 1, 1), pixels, > 0.

    Returns:
        (B, 1, H, W).
    """

    def band(length: int) -> Tensor:
        place = torch.arange(length, device=images.device)
        distance = (place[None] - place[:, None]).abs()
        weights = torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1)).square())
        return (weights / weights.sum(dim=2, keepdim=True))[:, None]

    return band(images.shape[2]) @ images @ band(images.shape[3]).transpose(2, 3)
