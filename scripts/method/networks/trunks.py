"""Convolutional trunks that hand out their features at several depths, in torchvision's layout and key names.

They are SqueezeNet 1.1 in any width (Iandola et al. 2016), AlexNet and VGG19. The layers, which torchvision calls
`features`, are defined here. So building them imports and downloads nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SQUEEZENET_STEM = 64
SQUEEZENET_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Fire(nn.Module):
    """SqueezeNet's block: 1x1 convolution to few channels, then 1x1 and 3x3 side by side, concatenated."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


class Trunk(nn.Module):
    """Layers with taps. The result holds the features after the tapped layers, shallowest first.

    The input, (B, 1, H, W) in [0, 1], becomes (x - mean) / std for each input channel. With three channels, this
    repeats the grey image.

    Args:
        layers: the convolutional part of a network.
        channels: number of channels at each tap.
        taps: indices of the tapped layers.
        mean: of each input channel, for images in [0, 1].
        std: standard deviation of each input channel, for images in [0, 1].
    """

    mean: Tensor  # TorchScript reads these two: no postponed evaluation of annotations in this module
    std: Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        channels: Sequence[int],
        taps: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers[: max(taps) + 1])
        self.channels = list(channels)
        self.taps = list(taps)
        # Constants of the definition, not weights: they stay out of the state dict.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W) in [0, 1] -> features (B, C, h, w) of each tap."""
        x = (images - self.mean) / self.std
        tapped: list[Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                tapped.append(x)
        return tapped


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def squeezenet(
    mean: Sequence[float],
    std: Sequence[float],
    stem: int = SQUEEZENET_STEM,
    fires: Sequence[Sequence[int]] = SQUEEZENET_FIRES,
) -> Trunk:
    """SqueezeNet 1.1 with LPIPS' seven taps.

    Args:
        mean: of each input channel.
        std: of each input channel.
        stem: channels of the first convolution; 64 as published.
        fires: (squeeze, expand) channels of the eight fire blocks.

    Raises:
        ValueError: there are not eight blocks.
    """
    if len(fires) != 8:
        raise ValueError(f"SqueezeNet 1.1 has eight fire blocks, got the widths of {len(fires)}.")
    widths = [stem, *(2 * expand for _, expand in fires)]
    blocks = [Fire(width, squeeze, expand) for width, (squeeze, expand) in zip(widths, fires, strict=False)]
    first = nn.Conv2d(len(mean), stem, 3, stride=2)
    layers = [first, nn.ReLU(), _pool(), *blocks[:2], _pool(), *blocks[2:4], _pool(), *blocks[4:]]
    channels = [widths[i] for i in (0, 2, 4, 5, 6, 7, 8)]
    return Trunk(layers, channels, (1, 4, 7, 9, 10, 11, 12), mean, std)


def alexnet(mean: Sequence[float], std: Sequence[float]) -> Trunk:
    """AlexNet (torchvision's, "one weird trick") with LPIPS' five taps."""
    layers: list[nn.Module] = [nn.Conv2d(len(mean), 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for i, o in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]
    return Trunk(layers, (64, 192, 384, 256, 256), (1, 4, 7, 9, 11), mean, std)


def vgg19(
    mean: Sequence[float],
    std: Sequence[float],
    taps: Sequence[str],
) -> Trunk:
    """VGG19 without batch normalisation.

    Args:
        mean: of each input channel.
        std: of each input channel.
        taps: names such as "relu3_1", the first rectified convolution of the third stage.

    Raises:
        ValueError: a tap that does not exist.
    """
    layers: list[nn.Module] = []
    where: dict[str, tuple[int, int]] = {}
    channels = len(mean)
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)), start=1):
        for number in range(1, depth + 1):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            where[f"relu{stage}_{number}"] = (len(layers) - 1, width)
            channels = width
        layers.append(nn.MaxPool2d(2))
    unknown = [tap for tap in taps if tap not in where]
    if unknown:
        raise ValueError(f"VGG19 has no tap {', '.join(unknown)}; choose among {', '.join(where)}.")
    chosen = sorted(where[tap] for tap in taps)
    return Trunk(layers, [width for _, width in chosen], [index for index, _ in chosen], mean, std)
