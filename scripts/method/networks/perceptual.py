"""Perceptual distance: LPIPS (Zhang et al. 2018, version 0.1) as a map, and trunks for perceptual and style losses."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.safe_loading import tensors_only
from ...common.torchvision_shim import make_torchvision_importable
from ..filters import gaussian_filter
from .trunks import IMAGENET_MEAN, IMAGENET_STD, alexnet, squeezenet, vgg19

# LPIPS scales images in [-1, 1] by these. For images in [0, 1], the mean is (shift + 1) / 2 and the std is scale / 2.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LPIPS_MEAN = tuple((shift + 1) / 2 for shift in _SHIFT)
LPIPS_STD = tuple(scale / 2 for scale in _SCALE)

# SqueezeNet 1.1 for one input channel, a quarter to a half as wide. It is narrowest in front, where the pixels are many
# and most of the time goes.
DISTILLED_STEM = 16
DISTILLED_FIRES = ((8, 16), (8, 16), (16, 64), (16, 64), (24, 96), (24, 96), (32, 128), (32, 128))

TRUNKS = ("imagenet", "file", "distilled", "squeezenet")

# The inpainter's perceptual loss uses relu*_1; its style loss uses the others.
VGG19_TAPS = tuple(f"relu{tap}" for tap in ("1_1", "2_1", "2_2", "3_1", "3_4", "4_1", "4_4", "5_1", "5_2"))


def _unit(features: Tensor) -> Tensor:
    """Features scaled to length 1 over the channels, in float32. The 1e-10 comes from LPIPS.

    The lower bound keeps the gradient of the root finite where all features are zero.
    """
    features = features.float()
    length = features.square().sum(dim=1, keepdim=True).clamp(min=1e-20).sqrt()
    return features / (length + 1e-10)


class Head(nn.Module):
    """LPIPS' linear layer: squared differences of unit-length features, weighted by channel and summed.

    The weights count by their absolute value, so that the distance is never negative.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), 1 / channels))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two (B, C, h, w) -> (B, 1, h, w), >= 0."""
        return ((_unit(a) - _unit(b)).square() * self.weight.abs()).sum(dim=1, keepdim=True)


class SpatialLPIPS(nn.Module):
    """LPIPS as a map: `lpips.LPIPS(net, spatial=True)(a, b, normalize=True)` for grey images.

    Frozen and without state that depends on the mode.

    Args:
        trunk: where the trunk comes from. "imagenet" is the `lpips` package as published; torchvision's weights come
            from its cache (TORCH_HOME), or are downloaded if missing there. "file" reads those weights from the path
            `weights`, and takes the linear heads of the installed `lpips` package. "distilled" is this project's own
            small network with one input channel. "squeezenet" has the layers of the published one. The last two read
            nothing unless `weights` is given: their weights come with the state dict they are part of.
        weights: path of a state dict. "file" wants torchvision's layout (keys `features.*`). "distilled" and
            "squeezenet" want this module's own.
        net: "squeeze" or "alex", for "imagenet" and "file".
        stem: for "distilled", channels of the first convolution.
        fires: for "distilled", (squeeze, expand) channels of the eight fire blocks.
        smoothing: standard deviation of a Gaussian over the map, pixels. LPIPS and the paper's text have 0, which does
            not smooth; the published code has 2.

    Raises:
        ValueError: the trunk or net is unknown; `weights` are missing or do not fit.
        FileNotFoundError: no file at `weights`.
    """

    def __init__(
        self,
        trunk: str = "distilled",
        weights: str | Path | None = None,
        net: str = "squeeze",
        stem: int = DISTILLED_STEM,
        fires: Sequence[Sequence[int]] = DISTILLED_FIRES,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"Perceptual trunk '{trunk}' is unknown; choose {', '.join(TRUNKS)}.")
        if net not in ("squeeze", "alex"):
            raise ValueError(f"LPIPS network '{net}' is unknown here; choose squeeze or alex.")
        self.distilled = trunk == "distilled"
        if self.distilled:
            self.trunk = squeezenet((0.5,), (0.5,), stem, fires)
        else:
            self.trunk = squeezenet(LPIPS_MEAN, LPIPS_STD) if net == "squeeze" else alexnet(LPIPS_MEAN, LPIPS_STD)
        self.heads = nn.ModuleList(Head(channels) for channels in self.trunk.channels)
        self.smoothing = float(smoothing)
        if trunk == "imagenet":
            _load_published(self, net)
        elif trunk == "file":
            if weights is None:
                raise ValueError("Perceptual trunk 'file' needs the path of its weights.")
            _load(self.trunk, read_weights(weights, "features."), weights)
            heads = _lpips_package() / "weights" / "v0.1" / f"{net}.pth"
            _load(self.heads, _heads_from(read_weights(heads, "lin")), heads)
        elif weights is not None:
            _load(self, read_weights(weights), weights)
        self.requires_grad_(False)
        self.eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two batches of images in [0, 1], (B, 1, H, W) each -> (B, 1, H, W), >= 0."""
        features_a: list[Tensor] = []
        features_b: list[Tensor] = []
        for tap in self.features(torch.cat([a, b])):  # one pass: half the launches
            features_a.append(tap[: a.shape[0]])
            features_b.append(tap[a.shape[0] :])
        distance = self.sum_maps(self.tap_maps(features_a, features_b), a.shape[2], a.shape[3])
        return gaussian_filter(distance, self.smoothing) if self.smoothing > 0 else distance

    def features(self, images: Tensor) -> list[Tensor]:
        """The trunk's taps, not normalised: (B, 1, H, W) in [0, 1] -> list of (B, C, h, w)."""
        return self.trunk(images)

    def tap_maps(self, features_a: list[Tensor], features_b: list[Tensor]) -> list[Tensor]:
        """The distance at each tap in the tap's own resolution, (B, 1, h, w) each."""
        maps: list[Tensor] = []
        for index, head in enumerate(self.heads):
            maps.append(head(features_a[index], features_b[index]))
        return maps

    def sum_maps(self, maps: list[Tensor], height: int, width: int) -> Tensor:
        """The taps' maps, resized to the image and summed: (B, 1, height, width).

        Resizing is linear, so neighbouring maps of one size are summed before they are resized.
        """
        total = torch.zeros_like(maps[0][:, :, :1, :1])
        pending = maps[0]
        for tap in maps[1:]:
            if tap.shape[2] == pending.shape[2] and tap.shape[3] == pending.shape[3]:
                pending = pending + tap
            else:
                total = total + F.interpolate(pending, size=[height, width], mode="bilinear", align_corners=False)
                pending = tap
        return total + F.interpolate(pending, size=[height, width], mode="bilinear", align_corners=False)


class VGG19Features(nn.Module):
    """VGG19 as the trunk of perceptual and style losses, as in the paper; frozen.

    Args:
        weights: path of torchvision's VGG19 state dict (keys `features.*`); None takes torchvision's cache
            (TORCH_HOME) or download.
        taps: the features handed out; the default is what the inpainter's two losses use, shallowest first.
        input_range: "unit" normalises images in [0, 1] with ImageNet's mean and deviation. "signed" takes the same
            images as if they were in [-1, 1]; the published code does so.

    Raises:
        ValueError: the range or a tap is unknown; the weights do not fit.
        FileNotFoundError: no file at `weights`.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        taps: Sequence[str] = VGG19_TAPS,
        input_range: str = "unit",
    ) -> None:
        super().__init__()
        if input_range not in ("unit", "signed"):
            raise ValueError(f"VGG19's input_range '{input_range}' is unknown; choose unit or signed.")
        # (x + 1) / 2, then (. - mean) / std, in one step
        signed = input_range == "signed"
        mean = [2 * m - 1 if signed else m for m in IMAGENET_MEAN]
        std = [2 * s if signed else s for s in IMAGENET_STD]
        self.trunk = vgg19(mean, std, taps)
        if weights is None:
            make_torchvision_importable()
            from torchvision.models import VGG19_Weights

            with tensors_only():
                state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
            source = "torchvision's VGG19"
        else:
            state, source = read_weights(weights, "features."), str(weights)
        _load(self.trunk, {key: state[key] for key in self.trunk.state_dict() if key in state}, source)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W) in [0, 1] -> the taps' features, (B, C, h, w) each."""
        return self.trunk(images)

    def features(self, images: Tensor) -> list[Tensor]:
        """The same as `forward`, under the name that `SpatialLPIPS` uses."""
        return self.trunk(images)


def read_weights(path: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a state dict file whose names begin with `prefix`, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No perceptual weights at {path}; give the path of a state dict, or another trunk.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {key: value for key, value in state.items() if key.startswith(prefix)}


def _load(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all of a state dict, in single or half precision, or say which file does not fit."""
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"The weights in {source} do not fit this perceptual trunk: {reason}") from error


def _heads_from(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LPIPS' `lin0.model.1.weight` -> `0.weight`."""
    return {f"{key.split('.')[0].removeprefix('lin')}.weight": value for key, value in state.items()}


def _lpips_package() -> Path:
    """Folder of the installed `lpips` package, found without importing it (that would import torchvision)."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("LPIPS' linear heads ship in the 'lpips' package: pip install lpips==0.1.4")
    return Path(spec.origin).parent


def _load_published(model: SpatialLPIPS, net: str) -> None:
    """Copy trunk and heads of the `lpips` package's network. Its slices number the layers as torchvision does."""
    make_torchvision_importable()
    import lpips

    with tensors_only():
        published = lpips.LPIPS(net=net, verbose=False).state_dict()
    trunk = {
        f"features.{key.split('.', 2)[2]}": value for key, value in published.items() if key.startswith("net.slice")
    }
    _load(model.trunk, trunk, f"lpips' {net} network")
    heads = {key: value for key, value in published.items() if key.startswith("lin") and not key.startswith("lins")}
    _load(model.heads, _heads_from(heads), f"lpips' {net} heads")
