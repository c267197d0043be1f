"""PHANES for whole heads: the paper's two stages around one network, with a map of the volume between them.

1. x_c = network(x) is the coarse reconstruction, and s_c its map (`volume_map`).
2. The mask m is 1 where the smoothed s_c exceeds t, the threshold of healthy heads. It grows a little.
3. x_ph is network.fill(x, m) in m, and x_c around it. The network draws the tissue in m from its surroundings alone.
4. s = sqrt((s_c + s_ph) S). s_ph is the map of x_ph. S is the mean of s_c over the neighbourhood.

A network may draw several reconstructions (`BothNetworks`). Each has its own map, and the maps add up. The images that
people see are the mean of the reconstructions.

The network sees the brain and a little around it. Fat is far brighter in some scans than in others, and bright fat
beside a brain makes the brain look dark.

S takes the place of the perceptual distance in the paper's equation (4). s_c and s_ph say how far the tissue itself is
from healthy; S says how suspicious its surroundings are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from .filters import gaussian_filter
from .networks.levels import level_index
from .networks.linear import BRIGHTNESS
from .phanes import OF_SLICES, leave_out, with_head
from .slices import CHUNK, chunks, fold, joined, unfold
from .volume_map import WINDOW_RADIUS, largest_in_cubes, local_contrast, relative_map

SMOOTHING = 0.7  # of the coarse map before its threshold, voxels
GROWTH = 2  # voxels by which the mask grows, in a cube
SEEN = 2  # pixels around the template's brain that the network sees
NEIGHBOURHOOD = 2.0  # standard deviation of S's window, voxels


def surroundings(brain: Tensor) -> Tensor:
    """The brain at each level, and `SEEN` pixels around it: (D, 1, H, W), > 0 inside -> same shape, bool."""
    return F.max_pool2d((brain > 0).float(), 2 * SEEN + 1, 1, SEEN) > 0


def slices_first(volume: Tensor) -> Tensor:
    """(B, C, H, W, D) -> (B, C, D, H, W), a view. Steps that treat all axes alike are fastest along the memory."""
    return volume.movedim(4, 2)


def slices_last(volume: Tensor) -> Tensor:
    """The inverse of `slices_first`."""
    return volume.movedim(2, 4)


def within(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` where the mask is 1, `other` where it is 0, to the bit; several times as fast as `torch.where`."""
    return mask * one + (1.0 - mask) * other


def _span(inside: Tensor) -> tuple[int, int]:
    """First and last + 1 position along the last axis at which anything is inside; (0, length) where nothing is."""
    found = inside.flatten(0, -2).any(dim=0).nonzero().flatten().tolist()
    return (found[0], found[-1] + 1) if found else (0, inside.shape[-1])


class VolumeMask(nn.Module):
    """m = 1 where the smoothed coarse map exceeds t, and `GROWTH` voxels around.

    t is the buffer `threshold`, which `calibrate_mask` fills. As long as t is NaN, so is m.

    Args:
        percentile: t is this percentile of the smoothed coarse maps within the brains of healthy heads.
    """

    threshold: Tensor

    def __init__(self, percentile: float = 99.9) -> None:
        super().__init__()
        self.percentile = float(percentile)
        self.smoothing, self.growth = SMOOTHING, GROWTH  # TorchScript reads attributes, not a module's constants
        self.register_buffer("threshold", torch.tensor(float("nan")))

    def smooth(self, coarse_map: Tensor) -> Tensor:
        """The smoothed coarse map, which the threshold is compared with: (B, 1, H, W, D) -> same shape."""
        return gaussian_filter(coarse_map, self.smoothing)

    def forward(self, coarse_map: Tensor) -> Tensor:
        """(B, 1, H, W, D), >= 0 -> same shape, 0 or 1."""
        above = (self.smooth(coarse_map) > self.threshold).to(coarse_map.dtype)
        grown = largest_in_cubes(F.pad(above, [self.growth] * 6), [2 * self.growth + 1] * 3)
        return grown + 0.0 * self.threshold


class HeadPhanes(nn.Module):
    """Heads in, anomaly map, pseudo-healthy image, mask and coarse reconstruction out.

    Args:
        network: `BothNetworks`, `RestorationNetwork` or `LinearAutoencoder`. It takes slices (N, 2, H, W) to K
            reconstructions (N, K, H, W). Its `fill(slices, hole)` does so without looking into the hole.
        brain: (H, W, D) the template's brain at each level, > 0 inside.
        heights: MNI z of each level, mm, evenly spaced, rising.
        mask: the rule that makes m of the coarse map; None for a `VolumeMask` with its defaults.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations and knows the modules better
        network: Any  # a module with `fill`
        mask: VolumeMask
        brain: Tensor
        seen: Tensor

    def __init__(
        self, network: nn.Module, brain: ArrayLike, heights: Sequence[float], mask: VolumeMask | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.mask = VolumeMask() if mask is None else mask
        self.neighbourhood, self.brightness, self.radius = NEIGHBOURHOOD, BRIGHTNESS, WINDOW_RADIUS
        self.first, self.last = float(heights[0]), float(heights[-1])
        self.chunk = CHUNK  # slices that go through the network together; fewer take less memory
        levels = torch.asarray(brain, copy=True).permute(2, 0, 1)[:, None] > 0
        self.rows, self.columns = _span(levels.any(dim=3)), _span(levels.any(dim=2))
        self.register_buffer("brain", levels.contiguous(), persistent=False)
        self.register_buffer("seen", surroundings(levels), persistent=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Load the weights of heads. The shipped model.pt also holds the weights of `Phanes`; they are left out.

        Raises:
            RuntimeError: the weights are of another network. This holds also where the host loads with `strict=False`.
        """
        leave_out(state_dict, prefix, OF_SLICES)
        missing = [name for name in self.state_dict() if prefix + name not in state_dict]
        if missing:
            raise RuntimeError(f"These weights are of another network: they do not hold {missing[0]}.")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, image: Tensor) -> Tensor:
        """The whole method.

        Args:
            image: (B, 2, H, W, D), or single slices (B, 2, H, W). Channel 0 is the head in [0, 1], where 0.5 is the
                median brightness of its brain. Channel 1 is each level's MNI z, mm.

        Returns:
            (B, 4, H, W, D) or (B, 4, H, W). The channels are: anomaly map s, >= 0, and 0 outside of the brain;
            pseudo-healthy image, outside of the mask the image itself; mask, 0 or 1; coarse reconstruction.
        """
        volume = image if image.dim() == 5 else image[..., None]
        volume = unfold(fold(volume), volume)  # in memory slice by slice, as the networks take it
        contrast = self.contrast(volume)
        coarse, coarse_map = self.coarse(volume, contrast)
        mask = self.hidden(volume, coarse_map)
        anomaly, pseudo_healthy = self.complete(volume, mask, coarse, coarse_map, contrast)
        drawn = fold(coarse).mean(dim=1, keepdim=True)
        result = unfold(torch.cat([fold(anomaly), fold(pseudo_healthy), fold(mask), drawn], dim=1), volume)
        return result if image.dim() == 5 else result[..., 0]

    def forward_with_mask(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The method with a given mask, such as the true lesion (PHANES-GT). The map is 0 outside of the mask.

        Args:
            image: (B, 2, H, W, D), as in `forward`.
            mask: (B, 1, H, W, D), 0 or 1; its voxels outside of the brain are ignored.

        Returns:
            (B, 1, H, W, D) each: anomaly map; pseudo-healthy image.
        """
        contrast = self.contrast(image)
        coarse, coarse_map = self.coarse(image, contrast)
        mask = mask * self.inside(image)
        anomaly, pseudo_healthy = self.complete(image, mask, coarse, coarse_map, contrast)
        return anomaly * mask, pseudo_healthy

    def hidden(self, volume: Tensor, coarse_map: Tensor) -> Tensor:
        """The mask m: what stage 2 draws anew. Both (B, C, H, W, D), as in `complete` -> (B, 1, H, W, D), 0 or 1."""
        return slices_last(self.mask(slices_first(coarse_map))) * self.inside(volume)

    def complete(
        self, volume: Tensor, mask: Tensor, coarse: Tensor, coarse_map: Tensor, contrast: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The steps that follow the mask.

        Args:
            volume: (B, 2, H, W, D), as in `forward`.
            mask: (B, 1, H, W, D), 0 or 1.
            coarse: (B, K, H, W, D), the coarse reconstructions.
            coarse_map: (B, 1, H, W, D), their map.
            contrast: see `map_of`.

        Returns:
            (B, 1, H, W, D) each: anomaly map; pseudo-healthy image.
        """
        filled = self.fill(volume, mask)
        filled_map = self.map_of(volume, within(mask, filled, coarse), contrast)
        neighbourhood = slices_last(gaussian_filter(slices_first(coarse_map), self.neighbourhood))
        anomaly = ((coarse_map + filled_map) * neighbourhood).sqrt() + 0.0 * mask
        drawn = unfold(fold(filled).mean(dim=1, keepdim=True), volume)
        return anomaly, within(mask, drawn, volume[:, :1])

    def contrast(self, volume: Tensor) -> Tensor:
        """The local contrast of the part of (B, 2, H, W, D) that holds the brain: (B, 1, h, w, D)."""
        (top, bottom), (left, right) = self.rows, self.columns
        first_row, first_column = max(top - self.radius, 0), max(left - self.radius, 0)
        around = volume[:, :1, first_row : bottom + self.radius, first_column : right + self.radius]
        kept = [(3, top - first_row, bottom - top), (4, left - first_column, right - left), (2, 0, volume.shape[4])]
        return slices_last(local_contrast(slices_first(self.brightness * around), kept=kept))

    def map_of(self, volume: Tensor, reconstructions: Tensor, contrast: Tensor | None = None) -> Tensor:
        """How far the head is from its reconstructions: the sum of their maps.

        Args:
            volume: (B, 2, H, W, D), as in `forward`.
            reconstructions: (B, K, H, W, D), in the volume's units.
            contrast: of the volume, where it is known already.

        Returns:
            (B, 1, H, W, D), >= 0.
        """
        (top, bottom), (left, right) = self.rows, self.columns  # elsewhere the map is 0
        count = reconstructions.shape[1]
        head = self.brightness * volume[:, :1, top:bottom, left:right]
        inside = self.inside(volume)[:, :, top:bottom, left:right]
        usual = self.contrast(volume) if contrast is None else contrast
        drawn = self.brightness * reconstructions[:, :, top:bottom, left:right]
        # All at once, so that several threads have something to do.
        parts = [slices_first(part).expand(-1, count, -1, -1, -1) for part in [head, drawn, inside, usual]]
        parts = [part.flatten(0, 1).unsqueeze(1) for part in parts]
        maps = relative_map(parts[0], parts[1], parts[2], parts[3])
        total = maps.unflatten(0, (-1, count)).sum(dim=1)
        return slices_last(F.pad(total, [left, volume.shape[3] - right, top, volume.shape[2] - bottom]))

    def inside(self, volume: Tensor) -> Tensor:
        """The template's brain at the levels of a volume (B, 2, H, W, D): (B, 1, H, W, D), 0 or 1."""
        return unfold(self.at(self.brain, fold(volume[:, :, :1, :1])), volume)  # a pixel knows the height

    def at(self, levels: Tensor, slices: Tensor) -> Tensor:
        """For each slice, the plane of `levels` that lies at its height.

        Args:
            levels: (D, 1, H, W), one plane a level.
            slices: (N, 2, H, W); channel 1 is MNI z, mm.

        Returns:
            (N, 1, H, W), of the slices' type.
        """
        return levels[level_index(slices[:, 1], self.first, self.last, levels.shape[0])].to(slices.dtype)

    def coarse(self, volume: Tensor, contrast: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Stage 1: (B, 2, H, W, D) -> coarse reconstructions (B, K, H, W, D), and their map (B, 1, H, W, D).

        `contrast` is that of `map_of`.
        """
        parts: list[Tensor] = []
        for part in chunks(fold(volume), self.chunk):
            seen = self.at(self.seen, part)
            drawn = self.network(with_head(part, part[:, :1] * seen))
            parts.append(within(seen, drawn, part[:, :1]))
        coarse = unfold(joined(parts), volume)
        return coarse, self.map_of(volume, coarse, contrast)

    def fill(self, volume: Tensor, mask: Tensor) -> Tensor:
        """Stage 2: complete the slices in the mask.

        Args:
            volume: (B, 2, H, W, D), as in `forward`.
            mask: (B, 1, H, W, D), 0 or 1.

        Returns:
            (B, K, H, W, D), one completed head for each reconstruction of the network.
        """
        parts: list[Tensor] = []
        slices, holes = chunks(fold(volume), self.chunk), chunks(fold(mask), self.chunk)
        for part, hole in zip(slices, holes):  # noqa: B905 - TorchScript knows no strict
            seen = self.at(self.seen, part)
            parts.append(self.network.fill(with_head(part, part[:, :1] * seen), hole))
        return unfold(joined(parts), volume)
