"""Contrast-limited adaptive histogram equalisation of image batches, equal to scikit-image's.

The steps, after Zuiderveld (Graphics Gems IV, 1994) as `skimage.exposure.equalize_adapthist` (0.26) takes them:
grey levels of the image's own range -> a clipped histogram for every tile -> its cumulative sum as the tile's lookup
table -> bilinear interpolation between the tables of the four nearest tiles -> the result stretched to [0, 1].
Other libraries' CLAHE differ from it by as much as equalisation changes the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 16  # brain slices need 3, histograms made up to need many 6; fixed, so that nothing waits for the device


def _to_grey_levels(images: Tensor, top: float) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> whole numbers from 0 to `top`, each image's minimum to its maximum."""
    levels16 = (images * 65535).round().clamp(0, 65535).to(torch.float64)
    low = levels16.amin(dim=(1, 2, 3), keepdim=True)
    high = levels16.amax(dim=(1, 2, 3), keepdim=True)
    stretched = (levels16 - low) / (high - low).clamp(min=1) * top
    return torch.where(high > low, stretched, levels16.clamp(max=top)).round().to(torch.int64)


def _reflected_indices(length: int, padded_length: int, device: torch.device) -> Tensor:
    """Where a b c ... n | m ... reads from: the border pixel is not repeated."""
    period = max(2 * (length - 1), 1)
    position = torch.arange(padded_length, device=device) % period
    return torch.minimum(position, period - position) if length > 1 else torch.zeros_like(position)


def _tile_histograms(bins: Tensor, tile_height: int, tile_width: int, nbins: int) -> Tensor:
    """Counts per tile; (B, 1, H, W) bin numbers -> (B, tiles, nbins). Border tiles are filled up by reflection."""
    batch, height, width = bins.shape[0], bins.shape[2], bins.shape[3]
    rows, columns = -(-height // tile_height), -(-width // tile_width)
    bins = bins.index_select(2, _reflected_indices(height, rows * tile_height, bins.device))
    bins = bins.index_select(3, _reflected_indices(width, columns * tile_width, bins.device))
    tiles = bins.reshape(batch, rows, tile_height, columns, tile_width).transpose(2, 3)
    tiles = tiles.reshape(batch, rows * columns, tile_height * tile_width)
    counts = torch.zeros(batch, rows * columns, nbins, dtype=torch.int32, device=bins.device)
    return counts.scatter_add(2, tiles, torch.ones_like(tiles, dtype=torch.int32))


def _redistribute(counts: Tensor, excess: Tensor, limit: int, rounds: int = _ROUNDS) -> Tensor:
    """Hand `excess` counts out to the bins below `limit`, each bin one at a time, in scikit-image's order.

    Its passes go over start = 0, 1, ...; at each start, every step-th bin from there on gets one if it is below the
    limit, where step = (number of bins below the limit) // (excess left), at least 1. A start at which no bin
    qualifies changes nothing, so every round here jumps to the next one that does, in all tiles at once.
    """
    may_ask = counts.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
    nbins = counts.shape[2]
    position = torch.arange(nbins, device=counts.device, dtype=torch.int32)
    start = torch.zeros_like(excess)
    for _ in range(rounds):
        if may_ask and not bool((excess > 0).any()):
            break
        below = counts < limit
        step = (below.sum(dim=2, keepdim=True, dtype=torch.int32) // excess.clamp(min=1)).clamp(min=1)
        last = position.masked_fill(~below, -1).amax(dim=2, keepdim=True)
        start = start.masked_fill(start > last, 0)  # the next pass
        offset = position - start
        phase = (offset % step).masked_fill(~below | (offset < 0), nbins)
        first = phase.amin(dim=2, keepdim=True)
        chosen = below & (phase == first) & (excess > 0)
        counts = counts + chosen.to(torch.int32)
        excess = excess - chosen.sum(dim=2, keepdim=True, dtype=torch.int32)
        start = start + first + 1
    return counts


def _clip_histograms(counts: Tensor, limit: int) -> Tensor:
    """Cut (B, tiles, nbins) counts at `limit` and spread what was cut over the other bins."""
    excess = (counts - limit).clamp(min=0).sum(dim=2, keepdim=True, dtype=torch.int32)
    counts = counts.clamp(max=limit)
    even_share = excess // counts.shape[2]
    shared = torch.where(counts < limit - even_share, counts + even_share, counts)
    shared = shared.masked_fill(shared >= limit - even_share, limit)
    excess = excess - (shared - counts).sum(dim=2, keepdim=True, dtype=torch.int32)
    return _redistribute(shared, excess, limit)


def _lookup_tables(counts: Tensor, pixels: int, top: float) -> Tensor:
    """Cumulative (B, tiles, nbins) counts scaled to whole grey levels, cut off (not rounded) as scikit-image does."""
    return (counts.cumsum(dim=2).to(torch.float64) * (top / pixels)).clamp(max=top).floor()


def _neighbours(length: int, tile: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each position on one axis: the tile before it, the tile after it, and the weight of the latter."""
    position = torch.arange(length, device=device) + tile // 2
    after = position // tile
    last = -(-length // tile) - 1
    weight = (position % tile).to(torch.float64) / tile
    return (after - 1).clamp(min=0, max=last), after.clamp(max=last), weight


def _interpolate(tables: Tensor, bins: Tensor, tile_height: int, tile_width: int) -> Tensor:
    """Map (B, 1, H, W) bins through the tables of the four nearest tiles, weighted bilinearly; whole grey levels.

    Products in float64, sums in float32, then the fraction is cut off: so it is in scikit-image, and one grey level
    is 6e-5 of the range.
    """
    batch, height, width = bins.shape[0], bins.shape[2], bins.shape[3]
    nbins = tables.shape[2]
    columns = -(-width // tile_width)
    above, beneath, down = _neighbours(height, tile_height, bins.device)
    left, right, across = _neighbours(width, tile_width, bins.device)
    flat = tables.reshape(batch, -1)
    result = torch.zeros(bins.shape, dtype=torch.float32, device=bins.device)
    for row, row_weight in ((above, 1 - down), (beneath, down)):
        for column, column_weight in ((left, 1 - across), (right, across)):
            tile = row[:, None] * columns + column
            index = (tile * nbins + bins).reshape(batch, -1)
            grey = flat.gather(1, index).reshape(bins.shape)
            result = result + (grey * (column_weight * row_weight[:, None])).to(torch.float32)
    return result.floor()


def _stretch(images: Tensor) -> Tensor:
    """Each image's minimum to 0 and its maximum to 1; a constant image is only clipped to [0, 1]."""
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    high = images.amax(dim=(1, 2, 3), keepdim=True)
    constant = high == low
    stretched = (images - low) / torch.where(constant, torch.ones_like(high), high - low)
    return torch.where(constant, images.clamp(0, 1), stretched)


def equalize_adapthist(
    images: Tensor, kernel_size: int | None = None, clip_limit: float = 0.01, nbins: int = 256
) -> Tensor:
    """Contrast-limited adaptive histogram equalisation of every image of a batch.

    Equals `skimage.exposure.equalize_adapthist(image, kernel_size, clip_limit, nbins)` of each (H, W) image. It has
    no gradient (grey levels are whole numbers), works under `torch.jit.script` and `torch.export`, and never waits
    for the device.

    Args:
        images: (B, 1, H, W) in [0, 1]; values outside are clipped.
        kernel_size: side of the square tiles in pixels; None takes an eighth of the height by an eighth of the width.
        clip_limit: highest count of a histogram bin, as a fraction of the tile's pixels; 0 does not clip.
        nbins: number of bins of a tile's histogram.

    Returns:
        (B, 1, H, W) float32 (float64 for float64 input) in [0, 1]; every image that is not constant spans it.

    Raises:
        ValueError: images are not (B, 1, H, W).
    """
    if images.dim() != 4 or images.shape[1] != 1:
        raise ValueError(f"equalize_adapthist needs images of shape (B, 1, H, W), got {list(images.shape)}.")
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    height, width = images.shape[2], images.shape[3]
    tile_height = max(height // 8, 1) if kernel_size is None else kernel_size
    tile_width = max(width // 8, 1) if kernel_size is None else kernel_size
    pixels = tile_height * tile_width
    limit = max(int(clip_limit * pixels), 1) if clip_limit > 0 else pixels
    grey_levels = 16384  # of the equalised image, as in scikit-image
    top = float(grey_levels - 1)
    bins = _to_grey_levels(images.detach().to(dtype), top) // (1 + grey_levels // nbins)
    counts = _clip_histograms(_tile_histograms(bins, tile_height, tile_width, nbins), limit)
    tables = _lookup_tables(counts, pixels, top)
    return _stretch(_interpolate(tables, bins, tile_height, tile_width).to(dtype))
