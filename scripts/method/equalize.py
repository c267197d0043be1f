"""Contrast-limited adaptive histogram equalisation of image batches, equal to scikit-image's.

The method is Zuiderveld's (Graphics Gems IV, 1994), in the steps of `skimage.exposure.equalize_adapthist` (0.26):

1. The image's own range becomes whole grey levels.
2. Every tile gets a histogram, which is clipped.
3. The histogram's cumulative sum is the tile's lookup table.
4. A pixel is interpolated bilinearly between the tables of the four nearest tiles.
5. The result is stretched to [0, 1].

CLAHE of other libraries gives other images: they differ from this one by as much as equalisation changes the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Brain slices need 3 rounds. Histograms constructed to need many take 6. Fixed, so that nothing waits for the device.
_ROUNDS = 8


def _to_bins(images: Tensor, top: float, width: int) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> number of the histogram bin, int64.

    Grey levels are whole numbers: 0 is each image's minimum, `top` its maximum. A bin holds `width` grey levels.
    """
    levels16 = (images * 65535).round().clamp(0, 65535).to(torch.float64)
    low = levels16.amin(dim=(1, 2, 3), keepdim=True)
    high = levels16.amax(dim=(1, 2, 3), keepdim=True)
    stretched = (levels16 - low) / (high - low).clamp(min=1) * top
    levels = torch.where(high > low, stretched, levels16.clamp(max=top)).round()
    return (levels / width).floor().to(torch.int64)  # integer division is many times slower


def _reflected_indices(length: int, padded_length: int, device: torch.device) -> Tensor:
    """Source index of each pixel of a b c ... n | m ...: padding by reflection that does not repeat the border."""
    period = max(2 * (length - 1), 1)
    position = torch.arange(padded_length, device=device) % period
    return torch.minimum(position, period - position) if length > 1 else torch.zeros_like(position)


def _tile_histograms(bins: Tensor, tile_height: int, tile_width: int, nbins: int) -> Tensor:
    """Counts per tile; (B, 1, H, W) bin numbers -> (B * tiles, nbins). Border tiles are filled up by reflection.

    Whole numbers in float32: exact below 2**24, and several times faster than integers on a CPU.
    """
    batch, height, width = bins.shape[0], bins.shape[2], bins.shape[3]
    rows, columns = -(-height // tile_height), -(-width // tile_width)
    if rows * tile_height > height:
        bins = bins.index_select(2, _reflected_indices(height, rows * tile_height, bins.device))
    if columns * tile_width > width:
        bins = bins.index_select(3, _reflected_indices(width, columns * tile_width, bins.device))
    tiles = bins.reshape(batch, rows, tile_height, columns, tile_width).transpose(2, 3)
    tiles = tiles.reshape(batch * rows * columns, tile_height * tile_width)
    counts = torch.zeros(batch * rows * columns, nbins, dtype=torch.int32, device=bins.device)
    return counts.scatter_add(1, tiles, torch.ones_like(tiles, dtype=torch.int32)).to(torch.float32)


def _hand_out(counts: Tensor, excess: Tensor, start: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """One round of `_redistribute`: every tile goes to its next start at which a bin qualifies.

    Args:
        counts: (tiles, nbins).
        excess: (tiles, 1) counts not handed out yet; a tile with none keeps its counts.
        start: (tiles, 1), where the search goes on.
        limit: highest count.

    Returns:
        The same three after the round.
    """
    nbins = counts.shape[1]
    position = torch.arange(nbins, device=counts.device, dtype=counts.dtype)
    below = counts < limit
    step = torch.floor(below.sum(dim=1, keepdim=True) / excess.clamp(min=1)).clamp(min=1)
    last = torch.where(below, position, -1.0).amax(dim=1, keepdim=True)
    start = start.masked_fill(start > last, 0)  # the next pass
    offset = position - start
    phase = offset - step * torch.floor(offset / step)
    phase = torch.where(below & (position >= start), phase, nbins)  # no phase is as large
    first = phase.amin(dim=1, keepdim=True)
    chosen = (phase == first.masked_fill((excess <= 0) | (first == nbins), -1)).to(counts.dtype)
    return counts + chosen, excess - chosen.sum(dim=1, keepdim=True), start + first + 1


def _redistribute(counts: Tensor, excess: Tensor, limit: int, rounds: int = _ROUNDS) -> Tensor:
    """Hand `excess` counts out to the bins below `limit`, one count a bin at a time, in scikit-image's order.

    scikit-image passes over start = 0, 1, ... At each start it looks at every step-th bin from there on, and a bin
    below the limit gets one count. The step is (number of bins below the limit) // (excess left), at least 1.

    A start at which no bin qualifies changes nothing. So every round here jumps to the next start at which one does, in
    all tiles at once. On the CPU, tiles with nothing left to hand out are passed over: a GPU would have to wait to know
    which these are.

    Args:
        counts: (tiles, nbins) whole numbers, at most `limit`.
        excess: (tiles, 1) whole numbers.
        limit: highest count.
        rounds: how many rounds there are at most.

    Returns:
        (tiles, nbins) counts.
    """
    start = torch.zeros_like(excess)
    if counts.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        for _ in range(rounds):
            counts, excess, start = _hand_out(counts, excess, start, limit)
        return counts
    result = counts.clone()
    unfinished = torch.arange(counts.shape[0])
    for _ in range(rounds):
        left = torch.nonzero(excess[:, 0] > 0)[:, 0]
        if left.shape[0] == 0:
            break
        unfinished = unfinished[left]
        counts, excess, start = _hand_out(counts[left], excess[left], start[left], limit)
        result[unfinished] = counts
    return result


def _clip_histograms(counts: Tensor, limit: int) -> Tensor:
    """Cut (tiles, nbins) counts at `limit` and spread what was cut over the other bins."""
    clipped = counts.clamp(max=limit)
    excess = (counts - clipped).sum(dim=1, keepdim=True)
    even_share = torch.floor(excess / counts.shape[1])
    roof = limit - even_share
    shared = torch.where(clipped < roof, clipped + even_share, clipped)
    shared = shared.masked_fill(shared >= roof, limit)
    excess = excess - (shared - clipped).sum(dim=1, keepdim=True)
    return _redistribute(shared, excess, limit)


def _lookup_tables(counts: Tensor, pixels: int, top: float) -> Tensor:
    """Cumulative (tiles, nbins) counts as whole grey levels; fractions are cut off, as in scikit-image."""
    return (counts.cumsum(dim=1).to(torch.float64) * (top / pixels)).clamp(max=top).floor()


def _neighbours(length: int, tile: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each position on one axis: the tile before it, the tile after it, and the weight of the latter."""
    position = torch.arange(length, device=like.device) + tile // 2
    after = position // tile
    last = -(-length // tile) - 1
    weight = (position % tile).to(like.dtype) / tile
    return (after - 1).clamp(min=0, max=last), after.clamp(max=last), weight


def _interpolate(tables: Tensor, bins: Tensor, tile_height: int, tile_width: int) -> Tensor:
    """Map (B, 1, H, W) bins through the tables of the four nearest tiles, weighted bilinearly; whole grey levels.

    As in scikit-image, products are in float64, sums in float32, and fractions are cut off. One grey level is 6e-5 of
    the range. Where the tiles' sides are powers of two, the weights have few bits, and float32 holds the products
    without rounding.
    """
    batch, height, width = bins.shape[0], bins.shape[2], bins.shape[3]
    nbins = tables.shape[1]
    columns = -(-width // tile_width)
    pixels = tile_height * tile_width  # x & (x - 1) is 0 for powers of two
    if pixels <= 1024 and tile_height & (tile_height - 1) == 0 and tile_width & (tile_width - 1) == 0:
        tables = tables.to(torch.float32)  # its 24 bits hold 14 of a table and log2(pixels) <= 10 of a weight
    above, beneath, down = _neighbours(height, tile_height, tables)
    left, right, across = _neighbours(width, tile_width, tables)
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

    Equals `skimage.exposure.equalize_adapthist(image, kernel_size, clip_limit, nbins)` of each (H, W) image. It works
    under `torch.jit.script` and `torch.export`, and never waits for the device. It has no gradient, for grey levels are
    whole numbers.

    Args:
        images: (B, 1, H, W) in [0, 1]; values outside are clipped.
        kernel_size: side of the square tiles in pixels; None takes an eighth of the height by an eighth of the width.
        clip_limit: highest count of a histogram bin, as a fraction of the tile's pixels; 0 does not clip.
        nbins: number of bins of a tile's histogram.

    Returns:
        (B, 1, H, W) in [0, 1], float32, or float64 for float64 input; every image that is not constant spans [0, 1].

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
    bins = _to_bins(images.detach().to(dtype), top, 1 + grey_levels // nbins)
    counts = _clip_histograms(_tile_histograms(bins, tile_height, tile_width, nbins), limit)
    tables = _lookup_tables(counts, pixels, top)
    return _stretch(_interpolate(tables, bins, tile_height, tile_width).to(dtype))
