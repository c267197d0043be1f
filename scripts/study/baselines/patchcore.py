"""PatchCore: the distance of each patch's ImageNet features to the nearest healthy patch.

Source: Roth et al., "Towards total recall in industrial anomaly detection" (CVPR 2022). The 3 x 3 neighbourhood of a
position, in the features of two layers, describes a patch; it is averaged to a fixed length. A greedy coreset of all
healthy patches is the bank. The map is the distance to the nearest bank entry, resized and smoothed. There is no
reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...method.filters import gaussian_filter
from .backbones import Backbone, FeatureSystem


def greedy_coreset(
    features: Tensor, size: int, projection: int | None = 128, starts: int = 10, seed: int = 0
) -> Tensor:
    """Choose a subset that covers the features: each next one is the farthest from those chosen before.

    As in the source, distances are measured after a random projection. The first choice is the one with the largest
    mean distance to a few random starts.

    Args:
        features: (N, D).
        size: how many to choose, 1 to N.
        projection: dimensions of the random projection; None for none.
        starts: number of random starts.
        seed: of projection and starts.

    Returns:
        (size,) int64, in the order chosen, no index twice.

    Raises:
        ValueError: size out of range.
    """
    count, dimensions = features.shape
    if not 0 < size <= count:
        raise ValueError(f"a coreset of {size} out of {count} patches cannot be chosen")
    generator = torch.Generator().manual_seed(seed)
    points = features.float()
    if projection is not None and projection < dimensions:
        directions = torch.randn(dimensions, projection, generator=generator) / projection**0.5
        points = points @ directions.to(points)
    first = torch.randperm(count, generator=generator)[:starts].to(points.device)
    distance = torch.cdist(points, points[first]).mean(dim=1)
    chosen = torch.empty(size, dtype=torch.long, device=points.device)
    for n in range(size):
        index = distance.argmax()
        chosen[n] = index
        distance = torch.minimum(distance, torch.linalg.vector_norm(points - points[index], dim=1))
        distance[index] = -1.0
    return chosen


def nearest_distance(queries: Tensor, bank: Tensor, chunk: int = 8192) -> Tensor:
    """Euclidean distance of each query to the nearest bank entry: (N, D), (M, D) -> (N,).

    The fast formula |q|^2 + |b|^2 - 2 q b finds the neighbour. Its rounding is as large as a small distance, so the
    distance to that neighbour is then computed directly.
    """
    pieces = []
    for piece in queries.split(chunk):
        nearest = torch.cdist(piece, bank).argmin(dim=1)
        pieces.append(torch.linalg.vector_norm(piece - bank[nearest], dim=1))
    return torch.cat(pieces)


def _pool_dimensions(features: Tensor, size: int) -> Tensor:
    """Average neighbouring dimensions to a fixed number: (B, D, N) -> (B, size, N)."""
    return F.adaptive_avg_pool1d(features.transpose(1, 2), size).transpose(1, 2)


class PatchCore(FeatureSystem):
    """The memory bank.

    Args:
        backbone: features of two layers as a rule, shallower first. The map has the first layer's grid.
        embedding_dim: length of a patch's description.
        patch_size: side of the neighbourhood, odd.
        coreset_ratio: share of the healthy patches that the bank keeps.
        projection: see `greedy_coreset`.
        sigma: Gaussian smoothing of the map, pixels.
        seed: of the coreset.
    """

    title = "PatchCore"
    bank: Tensor

    def __init__(
        self,
        backbone: Backbone,
        embedding_dim: int = 1024,
        patch_size: int = 3,
        coreset_ratio: float = 0.1,
        projection: int | None = 128,
        sigma: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.embedding_dim = embedding_dim
        self.patch_size = patch_size
        self.coreset_ratio = coreset_ratio
        self.projection = projection
        self.sigma = sigma
        self.seed = seed
        self.register_buffer("bank", torch.empty(0, embedding_dim))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Descriptions of all patches: (B, 1, H, W) in [0, 1] -> (B, embedding_dim, h, w)."""
        described = []
        size = None
        for features in self.backbone(images):
            size = size or features.shape[-2:]
            patches = F.unfold(features, self.patch_size, padding=self.patch_size // 2)  # (B, C * patch_size^2, h * w)
            pooled = _pool_dimensions(patches, self.embedding_dim).unflatten(2, features.shape[-2:])
            described.append(F.interpolate(pooled, size=size, mode="bilinear", align_corners=False))
        layers = torch.cat(described, dim=1)
        return _pool_dimensions(layers.flatten(2), self.embedding_dim).unflatten(2, layers.shape[-2:])

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Describe all healthy patches and keep a coreset of them.

        Raises:
            ValueError: without any slice.
        """
        described = [self.embed(images).movedim(1, -1).flatten(0, 2) for images in batches]
        if not described:
            raise ValueError("PatchCore was given no healthy slice to fit")
        features = torch.cat(described)
        size = max(1, int(len(features) * self.coreset_ratio))
        self.bank = features[greedy_coreset(features, size, self.projection, seed=self.seed)]

    @torch.no_grad()
    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Distance to the nearest healthy patch: (B, 1, H, W) in [0, 1] -> (B, 1, H, W), >= 0.

        Raises:
            RuntimeError: before `fit` and without loaded weights.
        """
        if len(self.bank) == 0:
            raise RuntimeError(f"{self.name} has an empty bank: fit it or load its weights first")
        embedded = self.embed(images)
        batch, _, height, width = embedded.shape
        distance = nearest_distance(embedded.movedim(1, -1).flatten(0, 2), self.bank)
        distance = distance.reshape(batch, 1, height, width)
        distance = F.interpolate(distance, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return gaussian_filter(distance, self.sigma)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """The bank's length is known only from the file."""
        saved = state_dict.get(f"{prefix}bank")
        if saved is not None and saved.shape[1:] == self.bank.shape[1:]:
            self.bank = self.bank.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
