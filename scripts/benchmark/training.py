"""Training steps of both stages, ours and as published, on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from ..losses import SoftIntroLoss, SoftMaskAdversarialLoss
from ..networks.perceptual import VGG19_TAPS
from ..networks.trunks import IMAGENET_MEAN, IMAGENET_STD, vgg19
from .measure import Work
from .published import (
    AsPublished,
    AutoencoderStepAsPublished,
    InpainterStepAsPublished,
    contiguous,
    lpips_package,
)
from .subjects import CONFIGS, give_masks

LEARNING_RATE = 5e-5  # published


class RandomVGG19(nn.Module):
    """VGG19's taps of both perceptual losses with random weights; its time does not depend on them."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = vgg19(IMAGENET_MEAN, IMAGENET_STD, VGG19_TAPS).requires_grad_(False).eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W) in [0, 1] -> features of the taps."""
        return self.trunk(images)


def _parser(files: list[str], size: str, device: torch.device, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([CONFIGS / file for file in files])
    parser.update({"bundle_root": "bundle", "device": str(device), "size": size, "cuda_graph": False, **overrides})
    return parser


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), LEARNING_RATE)


def autoencoder_steps(size: str, images: Tensor) -> dict[str, Work]:
    """One step of stage 1 on a batch: `ours`, as train.json trains, and `as published`."""
    parser = _parser(["train.json"], size, images.device)
    ours, network = parser.get_parsed_content("step"), parser.get_parsed_content("autoencoder")
    network.train()
    copy: Any = contiguous(network).eval()  # the published training leaves the normalisation in evaluation mode
    published = AutoencoderStepAsPublished(copy, _adam(copy.encoder), _adam(copy.decoder), SoftIntroLoss())
    return {"ours": lambda: ours(images), "as published": lambda: published(images)}


def inpainter_steps(size: str, images: Tensor) -> dict[str, Work]:
    """One step of stage 2: `ours`, as train_inpainter.json trains; `ours, VGG19`, with the paper's trunk for style and
    perceptual loss; `as published`."""
    files = ["train.json", "train_inpainter.json"]
    parser = _parser(files, size, images.device)
    trunk = parser.get_parsed_content("feature_weights")
    # The time is the architecture's; where the file is not at hand, the package's trunk with its random weights is not
    # buildable without a download, so the small distilled one stands in, and its name is in the table.
    name = "SqueezeNet" if Path(str(trunk)).is_file() else "distilled"
    if name == "distilled":
        parser = _parser(files, size, images.device, feature_trunk="distilled", feature_weights=None)
    works: dict[str, Work] = {}
    for label, vgg in ((f"ours, {name}", None), ("ours, VGG19", RandomVGG19().to(images.device))):
        step = parser.get_parsed_content("step", instantiate=True)
        give_masks(step.network, images)
        step.network.inpainter.train()
        if vgg is not None:
            step.features = vgg.features
        works[label] = lambda step=step: step(images)  # type: ignore[misc]
        parser = _parser(files, size, images.device, feature_trunk="distilled", feature_weights=None)
    composition = AsPublished(step.network, lpips_package().to(images.device))
    composition.inpainter.train().requires_grad_(True)
    discriminator = contiguous(step.discriminator)
    published = InpainterStepAsPublished(
        composition,
        discriminator,
        _adam(composition.inpainter),
        _adam(discriminator),
        RandomVGG19().to(images.device).features,
        SoftMaskAdversarialLoss(),
    )
    works["as published, VGG19"] = lambda: published(images)
    return works
