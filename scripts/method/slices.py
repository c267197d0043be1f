"""Volumes and their slices: two-dimensional steps fold the levels into the batch.

The method's tensors are volumes (B, C, H, W, D) of D axial levels. A batch of single slices (B, C, H, W) passes through
the same steps unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK = 32  # slices that go through a network together; bounds the memory of a whole head


def fold(volume: Tensor) -> Tensor:
    """(B, C, H, W, D) -> (B D, C, H, W), slices of a head one after the other; a batch of slices stays as it is."""
    if volume.dim() == 4:
        return volume
    # Contiguous: a step then sees the same memory, and returns the same bits, as for a batch of slices.
    return volume.permute(0, 4, 1, 2, 3).flatten(0, 1).contiguous()


def unfold(slices: Tensor, like: Tensor) -> Tensor:
    """The inverse of `fold`: (B D, C, H, W) -> (B, C, H, W, D), a view.

    Args:
        slices: result computed from the slices of `like`.
        like: the volume they came from; single slices leave `slices` as they are.
    """
    if like.dim() == 4:
        return slices
    volumes = slices.reshape(like.shape[0], like.shape[4], slices.shape[1], slices.shape[2], slices.shape[3])
    return volumes.permute(0, 2, 3, 4, 1)


def branchless() -> bool:
    """True where the flow must not depend on the data: in compiled programs and in training.

    Training must not wait for the GPU to know what to do next.
    """
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()


def chunks(slices: Tensor, size: int = CHUNK) -> list[Tensor]:
    """The batch (N, C, H, W) in parts of `size` slices; one single part where `branchless` holds."""
    if branchless() or slices.shape[0] <= size:
        return [slices]
    return list(slices.split(size))


def joined(parts: list[Tensor]) -> Tensor:
    """The results of `chunks` as one batch again."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def slice_quantile(slices: Tensor, q: float) -> Tensor:
    """The q-quantile of each slice, linearly interpolated as `numpy.quantile`: (N, ...) -> (N, 1, 1, 1).

    It sorts the values above the quantile. Unlike `torch.quantile`, this exports to ONNX.
    """
    values = slices.flatten(1)
    position = q * (values.shape[1] - 1)
    lower = math.floor(position)
    weight = position - lower
    largest = torch.topk(values, values.shape[1] - lower, dim=1).values  # descending: the last one has rank `lower`
    upper = max(largest.shape[1] - 2, 0)
    quantile = largest[:, -1] * (1.0 - weight) + largest[:, upper] * weight
    return quantile.reshape(-1, 1, 1, 1)
