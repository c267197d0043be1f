"""The map of a whole head: its distance from its reconstruction, relative to what is usual in healthy tissue.

The map has three steps. They depart from the paper, whose equation (4) is for one slice.

1. The difference is opened by small cubes. Structures thinner than a lesion fall away, such as noise or a rim along a
   sulcus.
2. It is divided by the local contrast, because every reconstruction errs along edges.
3. It is divided by the head's median error, because some scans are reconstructed less well everywhere.

All functions are pure and treat every head of a batch on its own. Heads and maps are float tensors (B, 1, H, W, D)
on the grid of levels. Images are in units of the head's median brightness. A single slice has D = 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .filters import gaussian_filter

SIZES = (2, 3, 4)  # of the cubes, voxels
WINDOW = 3.0  # standard deviation of the window of the local contrast, voxels
WINDOW_RADIUS = 12  # voxels farther away have no part in the local contrast: see `gaussian_filter`
LEAST_CONTRAST = 0.15  # added to the local contrast; in units of the median brightness
LEAST_ERROR = 0.01  # added to the head's median error; in units of the median brightness


def _running_maximum(maps: Tensor, size: int, dim: int) -> Tensor:
    """The largest of every `size` consecutive voxels along an axis; the axis gets shorter by `size` - 1."""
    if torch.compiler.is_compiling():  # one node of an exported program in place of many
        sides = [1, 1, 1]
        sides[dim - 2] = size
        return F.max_pool3d(maps, sides, 1)
    largest, window = maps, 1
    while window < size:  # the window doubles as long as it may
        step = min(window, size - window)
        rest = largest.shape[dim] - step
        largest = torch.maximum(largest.narrow(dim, 0, rest), largest.narrow(dim, step, rest))
        window += step
    return largest


def largest_in_cubes(maps: Tensor, sides: list[int]) -> Tensor:
    """The largest value of every cube that fits into the volume.

    Args:
        maps: (B, C, H, W, D).
        sides: of the cubes along the last three axes, voxels.

    Returns:
        (B, C, H, W, D), each axis shorter by its side - 1.
    """
    for dim, side in enumerate(sides, start=2):
        maps = _running_maximum(maps, side, dim)
    return maps


def opened_difference(difference: Tensor, sizes: tuple[int, int, int] = SIZES) -> Tensor:
    """The absolute difference, opened by cubes (grey-scale opening keeps the parts into which the cube fits): the mean
    over the cubes' sizes.

    Voxels that are too dark and voxels that are too bright are opened apart. Beyond the border there is nothing, so a
    cube has to fit into the volume. Along an axis shorter than `size`, the cube is as long as the axis.

    Args:
        difference: (B, 1, H, W, D) image minus reconstruction, either sign.
        sizes: sides of the cubes, voxels, rising.

    Returns:
        (B, 1, H, W, D), >= 0, nowhere larger than the absolute difference.
    """
    total = torch.zeros_like(difference)
    least_dark, least_bright = -difference, difference  # with the sign changed, the least is the largest
    done = [1, 1, 1]
    for size in sizes:
        sides = [min(size, length) for length in difference.shape[2:]]
        # A cube is what a smaller one sweeps over, so that each size goes on where the last one ended.
        further = [side - before + 1 for side, before in zip(sides, done)]  # noqa: B905 - TorchScript knows no strict
        least_dark = largest_in_cubes(least_dark, further)
        least_bright = largest_in_cubes(least_bright, further)
        done = sides
        # A cube is too dark or too bright, never both, and no voxel lies in cubes of both kinds.
        eroded = (-torch.minimum(least_dark, least_bright)).clamp(min=0)
        margins: list[int] = []
        for side in sides[::-1]:
            margins += [side - 1, side - 1]
        total = total + largest_in_cubes(F.pad(eroded, margins), sides)
    return total / len(sizes)


def local_contrast(images: Tensor, window: float = WINDOW, kept: list[tuple[int, int, int]] | None = None) -> Tensor:
    """Standard deviation of the image in a Gaussian window, (B, 1, H, W, D) -> (B, 1, H, W, D) or the part `kept`.

    Args:
        images: any range.
        window: standard deviation of the Gaussian, voxels.
        kept: see `gaussian_filter`.
    """
    mean = gaussian_filter(images, window, kept=kept)
    return (gaussian_filter(images.square(), window, kept=kept) - mean.square()).clamp(min=0).sqrt()


def median_within(maps: Tensor, region: Tensor) -> Tensor:
    """Median of each map's values within a region; of two middle values the lower one, as in `torch.median`.

    Args:
        maps: (B, 1, ...).
        region: same shape, or broadcastable to it, > 0 inside; the median of an empty region is 0.

    Returns:
        (B, 1, ..., 1), as many dimensions as `maps`.
    """
    inside = (region > 0).expand_as(maps).flatten(1)
    count = inside.sum(dim=1, keepdim=True)
    if torch.compiler.is_compiling():  # ONNX knows no median
        values = torch.where(inside, maps.flatten(1), float("inf")).sort(dim=1).values
        median = values.gather(1, ((count - 1) // 2).clamp(min=0))
    else:
        # Divided by 0, what lies outside becomes NaN; `torch.where` takes ten times as long.
        within = inside.to(maps.dtype)
        median = (maps.flatten(1) * within / within).nanmedian(dim=1, keepdim=True)[0]
    median = torch.where(count > 0, median, torch.zeros_like(median))
    return median.reshape([-1] + [1] * (maps.dim() - 1))


def relative_map(
    image: Tensor,
    reconstruction: Tensor,
    brain: Tensor,
    contrast: Tensor,
    least_contrast: float = LEAST_CONTRAST,
    least_error: float = LEAST_ERROR,
) -> Tensor:
    """The opened difference, relative to local contrast and to the head's median error.

    Args:
        image: (B, 1, H, W, D), in units of the head's median brightness.
        reconstruction: same shape and units.
        brain: same shape, or broadcastable to it; > 0 in the brain.
        contrast: same shape, `local_contrast` of the image.
        least_contrast: added to the contrast.
        least_error: added to the median error.

    Returns:
        (B, 1, H, W, D), >= 0; 0 outside of the brain.
    """
    inside = (brain > 0).to(image.dtype)
    difference = (image - reconstruction) * inside
    error = median_within(difference.abs(), brain)
    usual = (contrast + least_contrast) * (error + least_error)
    return opened_difference(difference) / usual * inside
