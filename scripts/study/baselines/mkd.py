"""MKD: multiresolution knowledge distillation; a small network imitates an ImageNet network on healthy images only.

Source: Salehi et al., "Multiresolution knowledge distillation for anomaly detection" (CVPR 2021). The map is the
gradient of the two networks' disagreement with respect to the image. There is no reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...method.filters import gaussian_filter
from ...method.slices import slice_quantile
from .backbones import Backbone, FeatureSystem
from .protocol import Trainable

LOCALISATIONS = ("guided", "gradient")


class _GuidedRelu(torch.autograd.Function):
    """ReLU that passes a gradient only where input and gradient are positive (Springenberg et al. 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """max(x, 0)."""
        ctx.save_for_backward(x)
        return x.clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The positive part of the gradient where x is positive."""
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0.0) * (x > 0)


class GuidedBackpropagation(TorchFunctionMode):
    """Within this context every ReLU, whether a module or a function, is a guided one."""

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch for each of its functions."""
        if func in (torch.relu, torch.relu_, F.relu, Tensor.relu):
            return _GuidedRelu.apply(args[0])
        return func(*args, **(kwargs or {}))


class Cloner(nn.Module):
    """The imitating network: narrow 3 x 3 convolutions, the last of each stage as wide as the teacher's features.

    Batch normalisation follows every convolution but the last of a stage. There are no biases, and weights start by
    Xavier's rule. Each stage ends in a maximum pooling to the teacher's resolution.

    Args:
        stages: hidden widths of each stage. There are at least as many stages as `taps`; the first ones beyond that
            are not compared.
        taps: (C, h, w) of the teacher's features for the last stages. Each earlier stage halves the image.
        image_size: side of the square images.
    """

    def __init__(self, stages: Sequence[Sequence[int]], taps: Sequence[tuple[int, int, int]], image_size: int) -> None:
        super().__init__()
        self.compared = len(taps)
        ahead = len(stages) - len(taps)
        self.stages = nn.ModuleList()
        channels = 3
        for n, hidden in enumerate(stages):
            side = (image_size // 2 ** (n + 1),) * 2 if n < ahead else taps[n - ahead][1:]
            widths = list(hidden) if n < ahead else [*hidden, taps[n - ahead][0]]
            layers: list[nn.Module] = []
            for k, width in enumerate(widths):
                layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
                if k < len(widths) - 1:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                channels = width
            self.stages.append(nn.Sequential(*layers, nn.AdaptiveMaxPool2d(side)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W), repeated for the teacher's three channels -> features of the compared stages."""
        x = images.expand(-1, 3, -1, -1)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[-self.compared :]


def disagreement(taught: Sequence[Tensor], cloned: Sequence[Tensor], value_weight: float) -> tuple[Tensor, Tensor]:
    """The two parts of the distillation loss of each image, summed over the layers.

    Args:
        taught: the teacher's features, (B, C, h, w) each.
        cloned: the cloner's, of the same shapes.
        value_weight: weight of the mean squared error (lambda).

    Returns:
        Direction: the sum of 1 - cosine of the flattened features. Value: the weighted sum of mean squared errors. Both
        are (B,).
    """
    pairs = [(t.flatten(1), c.flatten(1)) for t, c in zip(taught, cloned, strict=True)]
    direction = torch.stack([1.0 - F.cosine_similarity(t, c, dim=1) for t, c in pairs]).sum(dim=0)
    value = torch.stack([(t - c).square().mean(dim=1) for t, c in pairs]).sum(dim=0)
    return direction, value_weight * value


class MKD(Trainable, FeatureSystem):
    """Teacher, cloner and the gradient map.

    Args:
        teacher: frozen ImageNet network; layers shallowest first.
        stages: hidden widths of the cloner's stages, see `Cloner`. The source has 16-16 | 16 | 16-16 | 16-16 | 16-16
            (0.344 M parameters), for VGG16's pool2 to pool5 as the teacher's layers.
        image_size: side of the square slices, pixels.
        value_weight: lambda; 0.01 for images in general, 0.5 for MVTec.
        map_layers: number of layers, deepest last, whose disagreement the map differentiates.
        localisation: `guided` backpropagation (source) or the plain `gradient`.
        sigma: Gaussian smoothing of the map, pixels.
        normalize_map: cut each map at its own 99th percentile and stretch it to [0, 1], as the source does. Maps of
            different images can then no longer be compared. False keeps the gradient.

    Raises:
        ValueError: for another localisation, or fewer stages than layers.
    """

    title = "MKD"

    def __init__(
        self,
        teacher: Backbone,
        stages: Sequence[Sequence[int]] = ((16, 16), (16,), (16, 16), (16, 16), (16, 16)),
        image_size: int = 128,
        value_weight: float = 0.01,
        map_layers: int = 3,
        localisation: str = "guided",
        sigma: float = 4.0,
        normalize_map: bool = True,
    ) -> None:
        super().__init__(teacher)
        if localisation not in LOCALISATIONS:
            raise ValueError(f"localisation must be one of {LOCALISATIONS}, not {localisation!r}")
        taps = teacher.shapes(image_size)
        if len(stages) < len(taps):
            raise ValueError(f"the cloner has {len(stages)} stages, but the teacher {len(taps)} layers to imitate")
        self.cloner = Cloner(stages, taps, image_size)
        self.value_weight = value_weight
        self.map_layers = map_layers
        self.localisation = localisation
        self.sigma = sigma
        self.normalize_map = normalize_map

    def training_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Disagreement of teacher and cloner, mean over the batch."""
        with torch.no_grad():
            taught = self.backbone(images)
        direction, value = disagreement(taught, self.cloner(images), self.value_weight)
        return (direction + value).mean(), {"direction": direction.mean(), "value": value.mean()}

    def gradient(self, images: Tensor) -> Tensor:
        """|d disagreement / d image| of the deepest layers: (B, 1, H, W) -> (B, 1, H, W), >= 0."""
        # Evaluations run in inference mode, which enable_grad alone does not end.
        with torch.inference_mode(False), torch.enable_grad():
            images = images.detach().clone().requires_grad_(True)
            if self.localisation == "guided":
                with GuidedBackpropagation():
                    taught, cloned = self.backbone(images), self.cloner(images)
            else:
                taught, cloned = self.backbone(images), self.cloner(images)
            parts = disagreement(taught[-self.map_layers :], cloned[-self.map_layers :], self.value_weight)
            (gradient,) = torch.autograd.grad((parts[0] + parts[1]).sum(), images)
        return gradient.abs()

    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, 1, H, W), >= 0."""
        change = self.gradient(images)
        if self.normalize_map:
            low = change.amin(dim=(1, 2, 3), keepdim=True)
            high = slice_quantile(change, 0.99)
            change = ((change - low) / (high - low).clamp(min=1e-12)).clamp(max=1.0)
        return gaussian_filter(change, self.sigma)
