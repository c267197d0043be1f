"""What holds for every system: maps, batches, saved weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scripts.common.errors import PhanesInputError
from scripts.study.baselines.protocol import AnomalySystem, Trainable, load_system, save_system
from tests.study.baselines.conftest import BUILDERS

KEYS = tuple(BUILDERS)
Build = Callable[[str], AnomalySystem]


def lesion_masks(images: Tensor) -> Tensor:
    masks = torch.zeros_like(images)
    for n in range(len(masks)):
        masks[n, :, 20 + n : 30, 20:32] = 1.0
    return masks


@pytest.mark.parametrize("key", KEYS)
def test_map_and_reconstruction_have_the_images_shape_and_range(key: str, build: Build, images: Tensor) -> None:
    system = build(key)
    found = system.analyse(images, lesion_masks(images))
    assert found.anomaly_map.shape == images.shape
    assert found.anomaly_map.min() >= 0
    assert not found.anomaly_map.requires_grad
    assert system.name
    assert (found.reconstruction is not None) == system.reconstructs
    if found.reconstruction is not None:
        assert found.reconstruction.shape == images.shape
        assert found.reconstruction.min() >= 0
        assert found.reconstruction.max() <= 1


@pytest.mark.parametrize("key", KEYS)
def test_a_batch_equals_its_images_one_by_one(key: str, build: Build, images: Tensor) -> None:
    system, masks = build(key), lesion_masks(images)
    together = system.anomaly_map(images, masks)
    alone = torch.cat([system.anomaly_map(images[n : n + 1], masks[n : n + 1]) for n in range(len(images))])
    # Convolutions round differently in other batch sizes, and equalisation (RA, PHANES) turns that into grey levels.
    torch.testing.assert_close(together, alone, atol=1e-3 * float(together.max()), rtol=1e-4)


@pytest.mark.parametrize("key", KEYS)
def test_the_same_images_give_the_same_map_twice(key: str, build: Build, images: Tensor) -> None:
    system, masks = build(key), lesion_masks(images)
    first = system.anomaly_map(images, masks)
    torch.manual_seed(99)
    assert torch.equal(first, system.anomaly_map(images, masks))


@pytest.mark.parametrize("key", [k for k in KEYS if k != "phanes_gt"])
def test_only_phanes_gt_sees_the_masks(key: str, build: Build, images: Tensor) -> None:
    system = build(key)
    assert not system.needs_masks
    assert torch.equal(system.anomaly_map(images), system.anomaly_map(images, lesion_masks(images)))


@pytest.mark.parametrize("key", [k for k in KEYS if not k.startswith("phanes")])
def test_saved_weights_bring_the_system_back(key: str, build: Build, images: Tensor, tmp_path: Path) -> None:
    system = build(key)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.mul_(1.01)  # no longer what a fresh one is
        for name in system.rebuilt:
            for parameter in system.get_submodule(name).parameters():
                parameter.div_(1.01)
    save_system(system, tmp_path / "model.pt", half=False)
    again = load_system(build(key), tmp_path / "model.pt")
    assert not again.training
    torch.testing.assert_close(again.anomaly_map(images), system.anomaly_map(images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("key", [k for k in KEYS if not k.startswith("phanes")])
def test_weights_are_saved_in_half_precision_and_without_pretrained_parts(
    key: str, build: Build, images: Tensor, tmp_path: Path
) -> None:
    system = build(key)
    save_system(system, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(value.dtype != torch.float32 for value in state.values())
    assert not any(name.split(".")[0] in system.rebuilt for name in state)
    loaded = load_system(build(key), tmp_path / "model.pt").anomaly_map(images)
    expected = system.anomaly_map(images)
    assert (loaded - expected).abs().mean() < 0.05 * expected.abs().mean() + 1e-6


def test_missing_weights_are_named(build: Build, tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match=r"No weights of VAE at '.*nowhere\.pt'"):
        load_system(build("vae"), tmp_path / "nowhere.pt")


def test_weights_of_another_system_are_refused(build: Build, tmp_path: Path) -> None:
    save_system(build("dae"), tmp_path / "model.pt")
    with pytest.raises(PhanesInputError, match="does not hold weights of VAE"):
        load_system(build("vae"), tmp_path / "model.pt")


def test_weights_of_another_size_are_refused(build: Build, tmp_path: Path) -> None:
    system = build("zscore")
    system.mean = torch.zeros(1, 8, 8)
    save_system(system, tmp_path / "model.pt")
    with pytest.raises(PhanesInputError, match="at another size"):
        load_system(build("zscore"), tmp_path / "model.pt")


@pytest.mark.parametrize("key", KEYS)
def test_a_few_steps_of_training_reduce_the_error(key: str, build: Build, images: Tensor) -> None:
    system = build(key)
    if not isinstance(system, Trainable):
        pytest.skip("is not trained by a loss of its own")

    def error() -> float:
        torch.manual_seed(3)
        with torch.no_grad():
            return float(system.eval().healthy_error(images))

    before = error()
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(12):
        system.train()
        optimizer.zero_grad()
        loss, parts = system.training_loss(images)
        assert loss.ndim == 0
        assert all(value.ndim == 0 for value in parts.values())
        loss.backward()
        optimizer.step()
    assert error() < before
