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
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256),
        blocks: int = 8,
        dilations: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        super().__init__()
        self.channels = list(channels)
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
        self.up1 = nn.Conv2d(quarter, half, 3, padding=1)
        self.up2 = nn.Conv2d(half, full, 3, padding=1)
        self.output = nn.Conv2d(full, 1, 3, padding=1)
        self.apply(_init_normal)

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:
        """Raw prediction of the whole image; `compose_pseudo_healthy` then composes it with the input.

        Args:
            masked_image: (B, 1, H, W) in [0, 1], with its hole filled as in training.
            mask: (B, 1, H, W), 1 in the hole, 0 elsewhere.

        Returns:
            (B, 1, H, W) in [-1, 1].
        """
        x = self.middle(self.encoder(torch.cat([masked_image, mask], dim=1)))
        for up in (self.up1, self.up2):
            x = torch.relu(up(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)))
        return torch.tanh(self.output(x))


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
