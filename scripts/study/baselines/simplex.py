"""Simplex noise of three coordinates, and its octaves: AnoDDPM's noise, in batches on any device.

Sources: Perlin, "Noise hardware" (2001), for simplex noise; Gustavson, "Simplex noise demystified" (2005), for the
arithmetic. The kernel radius is the one that keeps the noise continuous. Existing libraries evaluate the noise on the
CPU, point by point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TABLE_SIZE = 256
LAST = TABLE_SIZE - 1  # index & LAST is index modulo the size, and faster
# The twelve edge directions of a cube.
GRADIENTS = tuple(
    tuple(float(v) for v in g)
    for g in [(a, b, 0) for a in (1, -1) for b in (1, -1)]
    + [(a, 0, b) for a in (1, -1) for b in (1, -1)]
    + [(0, a, b) for a in (1, -1) for b in (1, -1)]
)
RADIUS_SQUARED = 0.5  # of each corner's kernel: it is zero on the far face of its simplices
SCALE = 76.883  # scales the largest possible sum of these kernels and gradients to 1


def permutation_table(seed: int) -> Tensor:
    """The hash of lattice points for a seed, (256,) int64; the same on every device."""
    return torch.randperm(TABLE_SIZE, generator=torch.Generator().manual_seed(seed))


def simplex_noise(x: Tensor, y: Tensor, z: Tensor, table: Tensor) -> Tensor:
    """Noise at given points: the weighted pseudo-random gradients of the four corners of a point's simplex, summed.

    Args:
        x, y, z: float coordinates of one shape (...); the lattice spacing is about 1, the period 256.
        table: (256,) from `permutation_table`, on the same device.

    Returns:
        (...) in [-1, 1], zero mean.
    """
    skew = (x + y + z) / 3.0
    i, j, k = torch.floor(x + skew), torch.floor(y + skew), torch.floor(z + skew)
    unskew = (i + j + k) / 6.0
    x, y, z = x - i + unskew, y - j + unskew, z - k + unskew  # offset from the cell's first corner
    # The simplex: walk from the first corner to the last along the axes in descending order of the offset.
    rank_x = (y > x).long() + (z > x)
    rank_y = (x >= y).long() + (z > y)
    rank_z = 3 - rank_x - rank_y
    i, j, k = i.long(), j.long(), k.long()
    gradients = torch.tensor(GRADIENTS, dtype=x.dtype, device=x.device)[table % len(GRADIENTS)]
    total = torch.zeros_like(x)
    for corner in range(4):
        step_x, step_y, step_z = (rank_x < corner).long(), (rank_y < corner).long(), (rank_z < corner).long()
        dx, dy, dz = x - step_x + corner / 6.0, y - step_y + corner / 6.0, z - step_z + corner / 6.0
        code = table[(k + step_z) & LAST]
        code = table[(j + step_y + code) & LAST]
        gradient = gradients[(i + step_x + code) & LAST]
        weight = (RADIUS_SQUARED - dx * dx - dy * dy - dz * dz).clamp(min=0.0)
        along = gradient[..., 0] * dx + gradient[..., 1] * dy + gradient[..., 2] * dz
        total = total + weight.square().square() * along
    return SCALE * total


class SimplexNoise(nn.Module):
    """Octaves of simplex noise over the image plane. The diffusion step is the third coordinate (AnoDDPM).

        sum over octaves i of persistence^i * simplex(row / f_i, column / f_i, step / f_i),   f_i = frequency / 2^i

    Args:
        octaves: number of octaves.
        persistence: amplitude of an octave relative to the one before.
        frequency: lattice spacing of the first octave in pixels ("frequency" in AnoDDPM).
        unit_variance: divide by the standard deviation of the sum, as a diffusion process assumes; the source does not.
    """

    STD = 0.3928  # of `simplex_noise`, over space and seeds

    def __init__(
        self, octaves: int = 6, persistence: float = 0.8, frequency: float = 64.0, unit_variance: bool = False
    ) -> None:
        super().__init__()
        self.octaves = octaves
        self.persistence = persistence
        self.frequency = frequency
        variance = sum(persistence ** (2 * i) for i in range(octaves)) * self.STD**2
        self.scale = variance**-0.5 if unit_variance else 1.0

    def forward(self, size: tuple[int, int], steps: Tensor, seed: int) -> Tensor:
        """One field of noise, cut at the diffusion steps.

        Args:
            size: height and width, pixels.
            steps: (B,) diffusion steps; their device is the result's. Equal steps get equal noise.
            seed: of the field.

        Returns:
            (B, 1, height, width) float32.
        """
        device = steps.device
        octaves = torch.arange(self.octaves, device=device, dtype=torch.float32)
        spacing = (self.frequency / 2.0**octaves).reshape(-1, 1, 1, 1)
        shape = (self.octaves, len(steps), *size)
        rows = torch.arange(size[0], device=device, dtype=torch.float32)[:, None] / spacing
        columns = torch.arange(size[1], device=device, dtype=torch.float32) / spacing
        depth = steps.float()[:, None, None] / spacing
        table = permutation_table(seed).to(device)
        noise = simplex_noise(rows.expand(shape), columns.expand(shape), depth.expand(shape), table)
        amplitudes = (self.scale * self.persistence**octaves).reshape(-1, 1, 1, 1)
        return (amplitudes * noise).sum(dim=0)[:, None]
