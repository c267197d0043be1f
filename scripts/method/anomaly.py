"""Equations (3) and (4) of PHANES, the mask between them, and the composition of the pseudo-healthy image.

All functions are pure and treat every image of a batch on its own: a batch of eight equals eight batches of one.
Images and maps are float tensors (B, 1, H, W); images in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .filters import gaussian_filter, maximum_filter


def per_image_quantile(images: Tensor, q: float) -> Tensor:
    """The q-quantile of each image, linearly interpolated as `numpy.quantile`: (B, ...) -> (B, 1, 1, 1).

    By sorting what lies above it, which unlike `torch.quantile` exports to ONNX.
    """
    values = images.flatten(1)
    position = q * (values.shape[1] - 1)
    lower = math.floor(position)
    weight = position - lower
    largest = torch.topk(values, values.shape[1] - lower, dim=1).values  # descending: the last one has rank `lower`
    upper = max(largest.shape[1] - 2, 0)
    quantile = largest[:, -1] * (1.0 - weight) + largest[:, upper] * weight
    return quantile.reshape(-1, 1, 1, 1)


def normalize_by_quantile(residual: Tensor, q: float = 0.95, eps: float = 1e-8) -> Tensor:
    """norm95: residual divided by its own q-quantile over all pixels, cut off at 1 (PHANES section 2.2).

    Args:
        residual: (B, 1, H, W), >= 0.
        q: the quantile that becomes 1.
        eps: keeps an all-zero residual at zero.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    return torch.clamp(residual / (per_image_quantile(residual, q) + eps), max=1.0)


def coarse_anomaly_map(residual: Tensor, saliency: Tensor, q: float = 0.95) -> Tensor:
    """Equation (3) before its threshold: norm95(|eq(x_coarse) - eq(x)|) * S(eq(x_coarse), eq(x)).

    Args:
        residual: (B, 1, H, W) absolute difference of the (equalised) coarse reconstruction and input.
        saliency: (B, 1, H, W) perceptual distance S of the same pair, >= 0.
        q: quantile of the residual's normalisation.

    Returns:
        (B, 1, H, W), >= 0.
    """
    return normalize_by_quantile(residual, q) * saliency


def binarize_mask(
    coarse_map: Tensor,
    threshold: Tensor,
    sigma: float = 1.2,
    cut: float = 0.1,
    keep_below: bool = False,
    dilation: int = 0,
) -> Tensor:
    """The mask m of equation (3): above the threshold, then smoothed, so that edges grow by about a pixel.

    The smoothing (sigma in pixels, cut at `cut`) is the published code's, absent from the paper; a single pixel stays
    one pixel, a 4x4 square becomes 6x6. `sigma` 0 leaves it out.

    Args:
        coarse_map: (B, 1, H, W) from `coarse_anomaly_map`.
        threshold: one value, or (B, 1, 1, 1) a value an image. NaN (no calibration was loaded) makes a NaN mask, so
            that an uncalibrated network cannot pass for a healthy finding.
        sigma: of the Gaussian, pixels.
        cut: mask where the smoothed indicator is above it.
        keep_below: smooth the map itself where it is not above the threshold, instead of 0 there (the published code
            did until March 2024): what lies around a certain pixel, and is itself suspicious, joins the mask.
        dilation: pixels by which the mask grows at last, in a square (not in the paper).

    Returns:
        (B, 1, H, W), 0 or 1.
    """
    above = coarse_map > threshold
    mask = above.to(coarse_map.dtype)
    if keep_below:
        mask = torch.where(above, mask, coarse_map)
        if sigma <= 0:
            mask = (mask > cut).to(coarse_map.dtype)
    if sigma > 0:
        mask = (gaussian_filter(mask, sigma) > cut).to(coarse_map.dtype)
    if dilation > 0:
        mask = maximum_filter(mask, 2 * dilation + 1)
    return mask + 0.0 * threshold


def fill_hole(image: Tensor, mask: Tensor, filling: Tensor) -> Tensor:
    """The inpainter's input: the image outside the mask, `filling` inside.

    Args:
        image: (B, 1, H, W) in [0, 1].
        mask: (B, 1, H, W), 0 or 1.
        filling: (B, 1, H, W) or broadcastable: a constant (AOT-GAN: 1; the paper writes 0), or the coarse image.

    Returns:
        (B, 1, H, W).
    """
    return image * (1.0 - mask) + filling * mask


def compose_pseudo_healthy(image: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """x_ph = x (1 - m) + G(x (1 - m), m) m; outside the mask the input's own values, bit for bit.

    Args:
        image: (B, 1, H, W) in [0, 1].
        generated: (B, 1, H, W), the inpainter's raw prediction; clamped to [0, 1].
        mask: (B, 1, H, W), 0 or 1.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    return torch.where(mask > 0, torch.clamp(generated, 0.0, 1.0), image)


def anomaly_map(
    image: Tensor,
    pseudo_healthy: Tensor,
    saliency: Tensor,
    opening_sizes: list[int] | None = None,
    opening_floor: float = 0.0,
    opening_growth: int = 0,
    saliency_power: float = 1.0,
) -> Tensor:
    """Equation (4): s = |x_ph - x| * S(x_ph, x).

    Args:
        image: (B, 1, H, W) in [0, 1].
        pseudo_healthy: (B, 1, H, W) in [0, 1].
        saliency: (B, 1, H, W) perceptual distance S(x_ph, x), >= 0.
        opening_sizes: see `opened_difference`; none in the paper, which takes the absolute difference.
        opening_floor: see `opened_difference`.
        opening_growth: see `opened_difference`.
        saliency_power: exponent of S; 1 in the paper.

    Returns:
        (B, 1, H, W), >= 0; exactly 0 where the input was not replaced.
    """
    difference = pseudo_healthy - image
    residual = torch.abs(difference)
    if opening_sizes is not None and len(opening_sizes) > 0:
        residual = opened_difference(difference, opening_sizes, opening_floor, opening_growth)
    weight = saliency if saliency_power == 1.0 else torch.clamp(saliency, min=0.0) ** saliency_power
    return residual * weight


def opened_difference(difference: Tensor, sizes: list[int], floor: float = 0.0, growth: int = 0) -> Tensor:
    """Absolute difference, less what is thin: the mean of grey-scale openings by squares, of both signs apart.

    Healthy folds that were drawn a pixel beside their place differ in thin stripes, brighter and darker ones side by
    side; a lesion differs in one direction over an area. An opening keeps what its square fits into.

    Args:
        difference: (B, 1, H, W).
        sizes: odd sides of the squares, pixels.
        floor: least share of the absolute difference that is left, so that what was replaced, however thin, still ranks
            above what was not.
        growth: pixels by which each opening is grown, as far as the difference goes: a square does not fit into round
            edges and corners, which belong to what it fits into all the same.

    Returns:
        (B, 1, H, W), between `floor` times the absolute difference and that difference; exactly 0 where it is 0.
    """
    signs = torch.cat([difference, -difference], dim=1).clamp(min=0.0)
    total = torch.zeros_like(signs)
    for size in sizes:
        eroded = -maximum_filter(-signs, size)
        opened = maximum_filter(eroded, size)
        if growth > 0:
            opened = torch.minimum(signs, maximum_filter(opened, 2 * growth + 1))
        total = total + opened
    return torch.maximum(total.amax(dim=1, keepdim=True) / len(sizes), floor * torch.abs(difference))


def relative_anomaly_map(
    anomaly: Tensor,
    image: Tensor,
    coarse: Tensor,
    tissue: float = 0.2,
    error_floor: float = 0.01,
    sigma: float = 4.0,
    contrast_floor: float = 0.15,
    unit: float = 0.02,
) -> Tensor:
    """An anomaly map in units of what is usual for its slice and at its place. Not in the paper.

    s unit / ((e + error_floor) (c + contrast_floor)). e, one number a slice, is the coarse reconstruction's mean
    absolute error over the tissue: whoever is less like the training's subjects differs more everywhere. c, a number a
    pixel, is the image's local standard deviation: where the cortex folds, any reconstruction is off by more than
    in white matter.

    Args:
        anomaly: (B, 1, H, W), >= 0, such as `anomaly_map`'s.
        image: (B, 1, H, W) in [0, 1].
        coarse: (B, 1, H, W) in [0, 1], its coarse reconstruction.
        tissue: where the image is brighter, e is taken.
        error_floor: least e that is told from 0, in units of the image.
        sigma: of the Gaussian window of c, pixels.
        contrast_floor: as error_floor, of c.
        unit: (e + error_floor) (c + contrast_floor) of a typical healthy slice; leaves the map's scale as it is there.

    Returns:
        (B, 1, H, W), >= 0.
    """
    # In double precision: a difference of nearly equal squares, and a mean that must not depend on the batch.
    where = (image > tissue).double()
    pixels = where.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1.0)
    error = (where * torch.abs(coarse - image).double()).sum(dim=(1, 2, 3), keepdim=True) / pixels
    exact = image.double()
    mean, square = gaussian_filter(torch.cat([exact, exact.square()], dim=1), sigma).chunk(2, dim=1)
    contrast = (square - mean.square()).clamp(min=0.0).sqrt()
    usual = (error + error_floor) * (contrast + contrast_floor)
    return (anomaly.double() * unit / usual).to(anomaly.dtype)
