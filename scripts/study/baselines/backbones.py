"""ImageNet networks as feature extractors for PatchCore, MKD and FAE.

SqueezeNet 1.1 and AlexNet are this project's own definitions; any other name is torchvision's (WideResNet50-2 and VGG16
as published). Weights come from a file in torchvision's layout, or from torchvision's cache or download.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...common.errors import PhanesInputError
from ...common.safe_loading import tensors_only
from ...common.torchvision_shim import make_torchvision_importable
from ...method.networks.trunks import IMAGENET_MEAN, IMAGENET_STD, Trunk, alexnet, squeezenet
from .protocol import AnomalySystem

OWN = {"squeezenet1_1": squeezenet, "alexnet": alexnet}


class Backbone(nn.Module):
    """A frozen ImageNet network that hands out the features of named layers.

    Args:
        name: torchvision's name: squeezenet1_1, alexnet, vgg16, wide_resnet50_2, ...
        layers: names of the layers as in torchvision's state dict, shallowest first: "features.7", "layer2".
        weights: path of a state dict in torchvision's layout, with or without the classifier. None takes torchvision's
            ImageNet weights from its cache (TORCH_HOME) or a download. "random" loads none (tests).
        input_size: resize the images to squares of this side, bilinearly; None leaves them.
        normalize: by ImageNet's mean and standard deviation.

    Raises:
        PhanesInputError: the weights cannot be had, or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        layers: Sequence[str],
        weights: str | Path | None = None,
        input_size: int | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.name = name
        self.input_size = input_size
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if normalize else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.network = _own(name, layers, weights) if name in OWN else _torchvision(name, layers, weights)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: its normalisation layers are frozen too."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W) in [0, 1] -> (B, C, h, w) for each layer; the grey image serves as all three colours."""
        if self.input_size is not None:
            images = F.interpolate(images, size=(self.input_size,) * 2, mode="bilinear", align_corners=False)
        features = self.network((images.expand(-1, 3, -1, -1) - self.mean) / self.std)
        return list(features.values()) if isinstance(features, dict) else features

    @torch.no_grad()
    def shapes(self, image_size: int) -> list[tuple[int, int, int]]:
        """(C, h, w) of each layer's features for square images."""
        probe = torch.zeros(1, 1, image_size, image_size, device=self.mean.device)
        return [(f.shape[1], f.shape[2], f.shape[3]) for f in self(probe)]


class FeatureSystem(AnomalySystem):
    """A system on frozen features. They are named in its row, and left out of its saved weights.

    Args:
        backbone: the features; shallowest first.
    """

    title: ClassVar[str]
    rebuilt: ClassVar[tuple[str, ...]] = ("backbone",)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.name = f"{self.title} ({backbone.name})"
        self.backbone = backbone


def _read(path: str | Path, name: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise PhanesInputError(
            f"No weights of {name} at '{path}': give the path of a state dict in torchvision's layout."
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _load(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Fill the network; a file may hold more (a classifier), not less."""
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(state))
    if missing or any(state[key].shape != wanted[key].shape for key in wanted):
        raise PhanesInputError(
            f"'{source}' does not hold this network's weights (first one missing: {missing[:1]}): "
            "give torchvision's file."
        )
    network.load_state_dict({key: state[key] for key in wanted})


def _own(name: str, layers: Sequence[str], weights: str | Path | None) -> nn.Module:
    whole = OWN[name]((0.0,) * 3, (1.0,) * 3)  # normalisation is the caller's
    taps = [int(layer.removeprefix("features.")) for layer in layers]
    trunk = Trunk(list(whole.features), [0] * len(taps), taps, (0.0,) * 3, (1.0,) * 3)
    if weights == "random":
        return trunk
    if weights is None:
        _load(trunk, _download(name), f"torchvision's {name}")
    else:
        _load(trunk, _read(weights, name), str(weights))
    return trunk


def _torchvision(name: str, layers: Sequence[str], weights: str | Path | None) -> nn.Module:
    make_torchvision_importable()
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    network = create_feature_extractor(get_model(name, weights=None).eval(), list(layers))
    if weights is None:
        _load(network, _download(name), f"torchvision's {name}")
    elif weights != "random":
        _load(network, _read(weights, name), str(weights))
    return network


def _download(name: str) -> dict[str, Tensor]:
    make_torchvision_importable()
    from torchvision.models import get_model_weights

    try:
        with tensors_only():
            return dict(get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError) as error:
        raise PhanesInputError(
            f"The ImageNet weights of {name} cannot be downloaded here: get them elsewhere, and give the "
            "file by backbone_weights."
        ) from error
