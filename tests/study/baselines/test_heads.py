"""The systems on slices of whole heads: data, the height, the step of RA and SI-VAE, and the training overlay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data.utils import set_rnd
from torch.optim import Adam

from scripts.method.head import surroundings
from scripts.space.levels import GRID, LEVELS_MM, brain_of_levels
from scripts.study.baselines.heads import (
    LevelAutoencoder,
    LevelStep,
    PlainSlices,
    TakingTurns,
    VariedSlices,
    scaled,
    with_heights,
)
from scripts.study.baselines.protocol import load_system
from scripts.study.baselines.train_all import head_configs, train_baselines
from scripts.training.losses import SoftIntroLoss
from scripts.training.prepared import write_prepared

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training heads and two for validation."""
    root = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    texture = 1 + 0.3 * np.sin(np.arange(GRID[0]) / 5)[:, None, None]
    for split, count in (("train", 3), ("val", 2)):
        (root / split).mkdir()
        for n in range(count):
            write_prepared(root / split / f"S{n}.nii.gz", texture * rng.uniform(0.9, 1.1) * np.ones(GRID))
    return root


@pytest.fixture
def _from_the_repository_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    yield
    torch.use_deterministic_algorithms(False)


def _autoencoder() -> LevelAutoencoder:
    torch.manual_seed(0)
    return LevelAutoencoder(128, (2, 2, 4), 4)


def test_varied_slices_lie_in_the_brain_and_repeat_with_their_seed(prepared: Path) -> None:
    data = VariedSlices(str(prepared), 5, 2, level=True)
    set_rnd(data, 3)
    first = [data[n]["image"] for n in range(2)]
    assert not torch.equal(first[0], first[1])
    set_rnd(data, 3)
    assert torch.equal(first[1], [data[n]["image"] for n in range(2)][1])
    slices, heights = first[0][:, 0], first[0][:, 1]
    assert slices.shape == (5, 128, 128)
    assert slices.min() == 0
    assert 0.2 < slices.max() <= 1
    seen = surroundings(torch.from_numpy(brain_of_levels().copy()).permute(2, 0, 1)[:, None])[:, 0]
    for one, height in zip(slices, heights, strict=True):
        assert height.unique().numel() == 1
        assert not one[~seen[LEVELS_MM.index(float(height[0, 0]))]].any()
    with pytest.raises(IndexError):
        data[2]


def test_plain_slices_are_what_the_bundles_network_sees(prepared: Path) -> None:
    data = PlainSlices(prepared / "val", every=20, level=True)
    batch = data[1]["image"]
    level = LEVELS_MM.index(float(batch[0, 1, 0, 0]))
    assert batch.shape == (2, 2, 128, 128)
    inside = surroundings(torch.from_numpy(brain_of_levels()[..., level : level + 1].copy()).permute(2, 0, 1)[:, None])
    expected = (data.heads[..., 1].float() / 200).clamp(max=1) * inside[0, 0]
    torch.testing.assert_close(batch[:, 0], expected)
    assert len(PlainSlices(prepared / "val", every=20)) == len(data)


def test_heights_run_from_minus_one_to_one() -> None:
    slices = with_heights(torch.rand(2, 1, 4, 4), torch.tensor([LEVELS_MM[0], LEVELS_MM[-1]]))
    assert scaled(slices)[:, 1, 0, 0].tolist() == [-1, 1]
    assert torch.equal(scaled(slices)[:, :1], slices[:, :1])


def test_the_autoencoder_heeds_the_height() -> None:
    network, slices = _autoencoder().eval(), torch.rand(1, 1, 128, 128)
    low, high = (network(with_heights(slices, torch.tensor([z]))) for z in (-60.0, 60.0))
    assert low.shape == (1, 1, 128, 128)
    assert not torch.allclose(low, high)
    z = torch.zeros(1, 4)
    at = [network.decode_at(z, with_heights(slices, torch.tensor([height]))) for height in (-60.0, 60.0)]
    assert not torch.allclose(*at)


def test_one_optimiser_in_turns_is_two_optimisers(prepared: Path) -> None:
    data = VariedSlices(str(prepared), 2, 3, level=True)
    batches = [data[n]["image"] for n in range(3)]
    trained = []
    for turns in (True, False):
        network = _autoencoder().train()
        loss = SoftIntroLoss(1.0, 1.0, 0.5)
        step = LevelStep(network, TakingTurns(network.parameters(), 1e-2), loss, warmup_epochs=1, batches=1)
        if not turns:
            step.encoder_optimizer = Adam(network.encoder.parameters(), 1e-2)
            step.decoder_optimizer = Adam(network.decoder.parameters(), 1e-2)
        torch.manual_seed(1)
        outputs = [step(batch) for batch in batches]
        assert "encoder" not in outputs[0]  # a plain VAE's step
        assert all("encoder" in output for output in outputs[1:])
        assert all(torch.isfinite(value) for output in outputs for value in output.values())
        trained.append(network.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], msg=name)


TINY = {
    "vae": {"network_def::channels": [2, 2, 2, 2, 4], "network_def::latent_dim": 4},
    "si_vae": {"channels": [2, 2, 4], "warmup_epochs": 1},
    "dae": {"network_def::channels": [4, 4], "network_def::groups": [2, 2]},
    "fae": {"backbone_weights": "random", "network_def::channels": [4, 4]},
    "mkd": {"backbone_weights": "random", "network_def::stages": [[4], [4], [4], [4]]},
    "reflect": {
        "network_def::autoencoder::channels": [8, 8, 8],
        "network_def::flow::channels": [16, 16],
        "network_def::flow::num_head_channels": 4,
    },
}


@pytest.mark.usefixtures("_from_the_repository_root")
@pytest.mark.parametrize("name", TINY)
def test_the_overlay_trains_on_heads(name: str, prepared: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(head_configs()[name])
    parser.update({"dataset_dir": str(prepared), "output_dir": str(tmp_path), "bundle_root": "bundle", "device": "cpu"})
    parser.update({"max_epochs": 2, "batches": 2, "batch_size": 2, "every": 40, **TINY[name]})
    parser.get_parsed_content("run")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["steps"] == 4
    assert [step for step, _ in record["healthy_error_by_step"]] == [2, 4]
    assert record["reconstructs"] == (name not in ("fae", "mkd"))
    again = ConfigParser()
    again.read_config(head_configs()[name])
    again.update({"bundle_root": "bundle", **TINY[name]})
    system = load_system(again.get_parsed_content("network_def"), tmp_path / "model.pt")
    assert system.level == (name not in ("fae", "mkd"))
    slices = with_heights(torch.rand(1, 1, 128, 128), torch.tensor([20.0]))
    assert system.analyse(slices if system.level else slices[:, :1]).anomaly_map.shape == (1, 1, 128, 128)


@pytest.mark.usefixtures("_from_the_repository_root")
def test_patchcore_is_fitted_on_heads_by_the_one_command(prepared: Path, tmp_path: Path) -> None:
    options = {"backbone_weights": "random", "every": 60, "network_def::backbone::input_size": 64}
    train_baselines(str(prepared), systems="patchcore", output_dir=str(tmp_path), heads=True, **options)
    assert json.loads((tmp_path / "patchcore/record.json").read_text())["slices"] == 3
