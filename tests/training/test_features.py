"""The trunk of style and perceptual loss: AOT-GAN's taps of VGG19, and nothing in place of weights that are missing."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from scripts.common.errors import PhanesInputError
from scripts.method.networks.perceptual import SpatialLPIPS
from scripts.method.networks.trunks import IMAGENET_MEAN, IMAGENET_STD, vgg19
from scripts.training.features import FeatureTrunk


def vgg19_file(path: Path) -> str:
    """VGG19's layers with random weights, in torchvision's layout."""
    torch.manual_seed(0)
    torch.save(vgg19(IMAGENET_MEAN, IMAGENET_STD, ["relu5_4"]).state_dict(), path)
    return str(path)


def test_each_loss_gets_its_own_taps_of_vgg19(tmp_path: Path) -> None:
    trunk = FeatureTrunk("vgg19", vgg19_file(tmp_path / "vgg19.pt"))
    image = torch.rand(1, 1, 32, 32)
    # The layers one by one: relu numbers within the stages, counted by hand in torchvision's list.
    x = (image.repeat(1, 3, 1, 1) - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        1, 3, 1, 1
    )
    outputs = []
    for layer in trunk.trunk.trunk.features:
        x = layer(x)
        outputs.append(x)
    style, perceptual = trunk(image)
    for found, layers in ((style, (8, 17, 26, 31)), (perceptual, (1, 6, 11, 20, 29))):
        assert len(found) == len(layers)
        for features, layer in zip(found, layers, strict=True):
            torch.testing.assert_close(features, outputs[layer])


def test_lpips_taps_serve_both_losses(tmp_path: Path) -> None:
    torch.save(SpatialLPIPS("distilled").state_dict(), tmp_path / "trunk.pt")
    style, perceptual = FeatureTrunk("distilled", str(tmp_path / "trunk.pt"))(torch.rand(1, 1, 64, 64))
    assert len(style) == len(perceptual) == 7


def test_missing_weights_are_refused_in_one_sentence_and_nothing_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    for trunk, weights in (("vgg19", None), ("vgg19", str(tmp_path / "nowhere.pt")), ("imagenet", None)):
        with pytest.raises(PhanesInputError, match=f"The weights of feature_trunk {trunk} were not found .*: give"):
            FeatureTrunk(trunk, weights)
    with pytest.raises(PhanesInputError, match="feature_trunk distilled needs its weights"):
        FeatureTrunk("distilled")
    with pytest.raises(PhanesInputError, match="feature_trunk 'resnet' is unknown; choose vgg19, imagenet, file"):
        FeatureTrunk("resnet")
