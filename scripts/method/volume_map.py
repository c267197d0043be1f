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
LEAST_CONTRAST = 0.15  # added to the local contrast; in units of the median brightness
LEAST_ERROR = 0.01  # added to the head's median error; in units of the median brightness


def opening(maps: Tensor, size: int) -> Tensor:
    """Grey-scale opening by a cube: it keeps the parts into which the cube fits.

    Beyond the border there is nothing, so a cube has to fit into the volume. Along an axis shorter than `size`, the
    cube is as long as the axis.

    Args:
        maps: (B, 1, H, W, D).
        size: side of the cube, voxels.

    Returns:
        (B, 1, H, W, D), nowhere larger than `maps`.
    """
    sides = [min(size, length) for length in maps.shape[2:]]
    result = -maps
    for dim, side in enumerate(sides, start=2):
        result = _running_maximum(result, side, dim)
    margins: list[int] = []
    for side in sides[::-1]:
        margins += [side - 1, side - 1]
    result = F.pad(-result, margins, value=float("-inf"))
    for dim, side in enumerate(sides, start=2):
        result = _running_maximum(result, side, dim)
    return result


def _running_maximum(maps: Tensor, size: int, dim: int) -> Tensor:
    """The largest of every `size` consecutive voxels along an axis; the axis gets shorter by `size` - 1."""
    if torch.compiler.is_compiling():  # one node of an exported program in place of ten
        sides = [1, 1, 1]
        sides[dim - 2] = size
        return F.max_pool3d(maps, sides, 1)
    rest = maps.shape[dim] - size + 1
    largest = maps.narrow(dim, 0, rest)
    for offset in range(1, size):
        largest = torch.maximum(largest, maps.narrow(dim, offset, rest))
    return largest


def opened_difference(difference: Tensor, sizes: tuple[int, int, int] = SIZES) -> Tensor:
    """The absolute difference, opened by cubes: the mean over their sizes.

    Voxels that are too dark and voxels that are too bright are opened apart.

    Args:
        difference: (B, 1, H, W, D) image minus reconstruction, either sign.
        sizes: sides of the cubes, voxels.

    Returns:
        (B, 1, H, W, D), >= 0.
    """
    total = torch.zeros_like(difference)
    for size in sizes:
        total = total + opening(difference.clamp(min=0), size) + opening((-difference).clamp(min=0), size)
    return total / len(sizes)


def local_contrast(images: Tensor, window: float = WINDOW) -> Tensor:
    """Standard deviation of the image in a Gaussian window, (B, 1, H, W, D) -> (B, 1, H, W, D).

    Args:
        images: any range.
        window: standard deviation of the Gaussian, voxels.
    """
    mean = gaussian_filter(images, window)
    return (gaussian_filter(images.square(), window) - mean.square()).clamp(min=0).sqrt()


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
    values = torch.where(inside, maps.flatten(1), float("inf")).sort(dim=1).values
    median = values.gather(1, ((count - 1) // 2).clamp(min=0))
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
