"""Training steps of both stages, ours and as published, on the same batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from ...method.networks.perceptual import VGG19_TAPS
from ...method.networks.trunks import IMAGENET_MEAN, IMAGENET_STD, vgg19
from ...training.losses import SoftIntroLoss, SoftMaskAdversarialLoss
from .measure import Work, has_bfloat16
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
    """One step of stage 1 on a batch: `ours`, as train.json trains, also in bfloat16, and `as published`."""
    works: dict[str, Work] = {}
    for label, amp in _precisions("ours", images.device):
        parser = _parser(["train.json"], size, images.device, amp=amp)
        step, network = parser.get_parsed_content("step"), parser.get_parsed_content("autoencoder")
        network.train()
        works[label] = lambda step=step: step(images)  # type: ignore[misc]
    copy: Any = contiguous(network).eval()  # the published training leaves the normalisation in evaluation mode
    published = AutoencoderStepAsPublished(copy, _adam(copy.encoder), _adam(copy.decoder), SoftIntroLoss())
    works["as published"] = lambda: published(images)
    return works


def _precisions(label: str, device: torch.device) -> list[tuple[str, bool]]:
    """Label and `amp`: float32, and bfloat16 where the device has it."""
    return [(label, False), (f"{label}, bfloat16", True)] if has_bfloat16(device) else [(label, False)]


def inpainter_steps(size: str, images: Tensor) -> dict[str, Work]:
    """One step of stage 2: `ours`, as train_inpainter.json trains; `ours, VGG19`, with the paper's trunk for style and
    perceptual loss; both also in bfloat16; `as published`."""
    files = ["train.json", "train_inpainter.json"]
    # The time is the architecture's; where the file is not at hand, the package's trunk with its random weights is not
    # buildable without a download, so the small distilled one stands in, and its name is in the table.
    given = Path(str(_parser(files, size, images.device).get_parsed_content("feature_weights"))).is_file()
    stand_in: dict[str, Any] = {"feature_trunk": "distilled", "feature_weights": None}
    works: dict[str, Work] = {}
    for name, vgg in (("SqueezeNet" if given else "distilled", None), ("VGG19", RandomVGG19().to(images.device))):
        for label, amp in _precisions(f"ours, {name}", images.device):
            overrides = {} if given and vgg is None else stand_in
            step = _parser(files, size, images.device, amp=amp, **overrides).get_parsed_content("step")
            give_masks(step.network, images)
            step.network.inpainter.train()
            if vgg is not None:
                step.features = vgg.features
            works[label] = lambda step=step: step(images)  # type: ignore[misc]
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
