"""Stage 2: the AOT-GAN inpainter (aggregated contextual transformations) and its patch discriminator.

Source: Zeng et al., "Aggregated Contextual Transformations for High-Resolution Image Inpainting"; here in one channel.
With the defaults (`paper` size) the inpainter has 15,193,409 parameters, and the discriminator 2,761,729.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


def _init_normal(module: nn.Module) -> None:
    """Weights from N(0, 0.02) and zero biases, as in AOT-GAN."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _init_kaiming(module: nn.Module) -> None:
    """He initialisation for ReLU, zero biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class AOTBlock(nn.Module):
    """Dilated branches are fused and blended with the block's input. A gate, learnt from that input, blends them.

    Args:
        channels: channels of input and output; divisible by the number of dilations.
        dilations: one branch of `channels / len(dilations)` channels each.

    Raises:
        ValueError: the channels are not divisible by the number of dilations.
    """

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        if channels % len(dilations):
            raise ValueError(f"{channels} channels cannot be shared by {len(dilations)} dilations")
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.ReflectionPad2d(d), nn.Conv2d(channels, channels // len(dilations), 3, dilation=d), nn.ReLU()
            )
            for d in dilations
        )
        self.fuse = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3))
        self.gate = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        branches = []
        for branch in self.branches:
            branches.append(branch(x))
        fused = self.fuse(torch.cat(branches, dim=1))
        gate = self.gate(x)
        if gate.dtype == torch.bfloat16 or gate.dtype == torch.float16:
            gate = gate.float()
        # Standardised over H and W by the unbiased deviation. It takes two passes, because torch.std_mean goes pixel by
        # pixel, which is slow where channels come last.
        gate = gate - gate.mean(dim=(2, 3), keepdim=True)
        pixels = gate.shape[2] * gate.shape[3]
        variance = gate.square().mean(dim=(2, 3), keepdim=True) * (pixels / (pixels - 1))
        std = variance.clamp(min=1e-20).sqrt()  # the root has a gradient at its lower bound, too
        gate = torch.sigmoid(gate * (10.0 / (std + 1e-9)) - 5.0)  # 5 (2 g / std - 1)
        return torch.lerp(x, fused.to(x.dtype), gate.to(x.dtype))


class AOTGenerator(nn.Module):
    """Fills the hole of a masked image from its surroundings.

    Args:
        channels: channels at full, half and quarter resolution.
        blocks: number of AOT blocks at quarter resolution.
        dilations: dilations of each block's branches.
        residual: predict the difference to the filled input instead of the image. Not in the paper. It is meant for a
            hole filled with the coarse reconstruction: training then begins there.
        init: initialisation of the hidden layers. `normal` is AOT-GAN's N(0, 0.02), made for 64 channels and more. In a
            narrow network it lets the signal vanish; `kaiming` does not.
        skips: hand the encoder's features at full and half resolution to the decoder. Not in the paper. In a narrow
            network, the fine structure around a small hole does not survive a quarter of the resolution.

    Raises:
        ValueError: another `init` was given.
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256),
        blocks: int = 8,
        dilations: Sequence[int] = (1, 2, 4, 8),
        residual: bool = False,
        init: str = "normal",
        skips: bool = False,
    ) -> None:
        super().__init__()
        if init not in ("normal", "kaiming"):
            raise ValueError(f"init must be 'normal' or 'kaiming', not {init!r}")
        self.channels = list(channels)
        self.residual = residual
        self.skips = skips
        full, half, quarter = channels
        self.encoder = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(2, full, 7),
            nn.ReLU(),
            nn.Conv2d(full, half, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.middle = nn.Sequential(*(AOTBlock(quarter, dilations) for _ in range(blocks)))
        self.up1 = nn.Conv2d(quarter + (half if skips else 0), half, 3, padding=1)
        self.up2 = nn.Conv2d(half + (full if skips else 0), full, 3, padding=1)
        self.apply(_init_normal if init == "normal" else _init_kaiming)
        self.output = nn.Conv2d(full, 1, 3, padding=1)
        _init_normal(self.output)

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:
        """Raw prediction of the whole image; `compose_pseudo_healthy` then composes it with the input.

        Args:
            masked_image: (B, 1, H, W) in [0, 1], with its hole filled as in training.
            mask: (B, 1, H, W), 1 in the hole, 0 elsewhere.

        Returns:
            (B, 1, H, W) in [-1, 1]; with `residual` in [-1, 2].
        """
        full = self.encoder[2](self.encoder[1](self.encoder[0](torch.cat([masked_image, mask], dim=1))))
        half = self.encoder[4](self.encoder[3](full))
        x = self.middle(self.encoder[6](self.encoder[5](half)))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        x = torch.relu(self.up1(torch.cat([x, half], dim=1) if self.skips else x))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        x = torch.relu(self.up2(torch.cat([x, full], dim=1) if self.skips else x))
        prediction = torch.tanh(self.output(x))
        return masked_image + prediction if self.residual else prediction


class PatchDiscriminator(nn.Module):
    """Spectrally normalised patch discriminator: (B, 1, H, W) -> (B, 1, H / 8 - 2, W / 8 - 2).

    128 x 128 pixels give 14 x 14 scores.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 1
        for level, width in enumerate(channels):
            stride = 2 if level < len(channels) - 1 else 1
            conv = nn.Conv2d(previous, width, 4, stride=stride, padding=1, bias=False)
            layers += [conv, nn.LeakyReLU(0.2)]
            previous = width
        layers.append(nn.Conv2d(previous, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(_init_normal)
        for layer in layers[:-1]:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> map of patch scores; training takes them towards 1 for real and 0 for inpainted patches."""
        return self.layers(image)
