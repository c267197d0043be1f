"""PatchCore: patches, coreset and nearest neighbours against plain numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, zoom
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from scripts.common.errors import PhanesInputError
from scripts.study.baselines.backbones import Backbone
from scripts.study.baselines.patchcore import PatchCore, greedy_coreset, nearest_distance


class Pixels(nn.Module):
    """A backbone whose features are the image itself."""

    name = "pixels"

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


def test_the_coreset_is_the_greedy_one() -> None:
    features = np.random.default_rng(0).standard_normal((80, 5)).astype(np.float32)
    chosen = greedy_coreset(torch.from_numpy(features), 12, projection=None, starts=4, seed=3).tolist()
    start = torch.randperm(80, generator=torch.Generator().manual_seed(3))[:4].numpy()
    pairwise = np.linalg.norm(features[:, None] - features[None], axis=2)
    distance = pairwise[:, start].mean(axis=1)
    expected: list[int] = []
    for _ in range(12):
        expected.append(int(distance.argmax()))
        distance = np.minimum(distance, pairwise[expected[-1]])
    assert chosen == expected


def test_the_coreset_has_its_size_no_patch_twice_and_covers_better_than_chance() -> None:
    features = torch.randn(600, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 40)
    chosen = greedy_coreset(features, 60, projection=16, seed=0)
    assert chosen.shape == (60,)
    assert len(chosen.unique()) == 60
    random = torch.randperm(600, generator=torch.Generator().manual_seed(1))[:60]
    assert nearest_distance(features, features[chosen]).max() < nearest_distance(features, features[random]).max()


def test_the_whole_set_is_its_own_coreset_and_more_cannot_be_chosen() -> None:
    features = torch.randn(20, 3)
    assert sorted(greedy_coreset(features, 20).tolist()) == list(range(20))
    with pytest.raises(ValueError, match="21 out of 20"):
        greedy_coreset(features, 21)


def test_nearest_distances_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    queries, bank = rng.standard_normal((101, 16)), rng.standard_normal((37, 16))
    expected = NearestNeighbors(n_neighbors=1).fit(bank).kneighbors(queries)[0][:, 0]
    found = nearest_distance(torch.from_numpy(queries), torch.from_numpy(bank), chunk=10)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_a_patch_is_described_by_its_neighbourhood() -> None:
    image = torch.rand(1, 1, 6, 6)
    described = PatchCore(Pixels(), embedding_dim=9).embed(image)  # type: ignore[arg-type]
    assert described.shape == (1, 9, 6, 6)
    assert torch.equal(described[0, :, 2, 3], image[0, 0, 1:4, 2:5].flatten())
    assert torch.equal(described[0, :3, 0, 0], torch.zeros(3))  # beyond the border


def test_two_layers_share_the_description_half_and_half() -> None:
    class Two(Pixels):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [torch.ones(1, 8, 6, 6), torch.full((1, 8, 3, 3), 5.0)]

    described = PatchCore(Two(), embedding_dim=4, patch_size=1).embed(torch.zeros(1, 1, 6, 6))  # type: ignore[arg-type]
    assert described[0, :, 2, 2].tolist() == [1.0, 1.0, 5.0, 5.0]


def test_the_map_is_the_distance_resized_and_smoothed() -> None:
    class Coarse(Pixels):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [images[:, :, ::2, ::2]]

    system = PatchCore(Coarse(), embedding_dim=1, patch_size=1, coreset_ratio=1.0, sigma=2.0)  # type: ignore[arg-type]
    system.fit([torch.zeros(1, 1, 16, 16)])
    image = torch.rand(1, 1, 16, 16)
    coarse = image[0, 0, ::2, ::2].numpy()
    expected = gaussian_filter(zoom(coarse, 2, order=1, mode="nearest", grid_mode=True), 2.0)
    np.testing.assert_allclose(system.anomaly_map(image)[0, 0].numpy(), expected, atol=1e-5)


def test_a_patch_of_the_bank_is_not_abnormal() -> None:
    images = torch.rand(3, 1, 16, 16)
    system = PatchCore(Pixels(), embedding_dim=9, coreset_ratio=1.0)  # type: ignore[arg-type]
    system.fit(images.split(2))
    assert system.bank.shape == (3 * 256, 9)
    assert system.anomaly_map(images).max() < 1e-6
    assert system.anomaly_map(1.0 + images).min() > 0.5


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(RuntimeError, match="empty bank"):
        PatchCore(Pixels()).anomaly_map(torch.rand(1, 1, 16, 16))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no healthy slice"):
        PatchCore(Pixels()).fit([])  # type: ignore[arg-type]


def test_the_name_says_which_backbone() -> None:
    assert PatchCore(Pixels()).name == "PatchCore (pixels)"  # type: ignore[arg-type]


def test_the_backbone_stays_frozen_in_training() -> None:
    backbone = Backbone("alexnet", ["features.4"], "random")
    system = PatchCore(backbone, embedding_dim=8).train()
    assert not system.backbone.training
    assert not any(p.requires_grad for p in system.parameters())


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "layer"), [("squeezenet1_1", "features.7"), ("alexnet", "features.4")])
def test_the_backbone_is_torchvisions_with_its_weights(name: str, layer: str, data_root) -> None:
    from scripts.common.torchvision_shim import make_torchvision_importable

    make_torchvision_importable()
    from torchvision.models import get_model

    weights = data_root / "perceptual" / f"{name}_features.pt"
    network = get_model(name, weights=None).eval()
    network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    image = torch.rand(1, 1, 96, 96)
    colour = (image.expand(-1, 3, -1, -1) - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    expected = network.features[: int(layer.split(".")[1]) + 1](colour)
    torch.testing.assert_close(Backbone(name, [layer], weights)(image)[0], expected, atol=1e-4, rtol=1e-4)


def test_any_torchvision_network_serves() -> None:
    backbone = Backbone("resnet18", ["layer2", "layer3"], "random", input_size=64)
    assert backbone.shapes(32) == [(128, 8, 8), (256, 4, 4)]


def test_missing_and_wrong_weights_are_named(tmp_path) -> None:
    with pytest.raises(PhanesInputError, match="No weights of alexnet"):
        Backbone("alexnet", ["features.4"], tmp_path / "nowhere.pt")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "wrong.pt")
    with pytest.raises(PhanesInputError, match="does not hold this network's weights"):
        Backbone("alexnet", ["features.4"], tmp_path / "wrong.pt")
