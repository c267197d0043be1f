"""Rows of trained baselines on whole heads: their own map and PHANES'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.method.head import HeadPhanes
from scripts.space.levels import GRID, LEVELS_MM, brain_of_levels
from scripts.study.baselines.maps import ResidualMap
from scripts.study.baselines.protocol import ReconstructionSystem, save_system
from scripts.study.baselines.vae import VAE
from scripts.study.baselines.zscore import ZScore
from scripts.study.evaluation import heads_baselines as study
from scripts.study.evaluation.heads_baselines import AsFirstStage, Filler, TrainedHeads, baseline_rows, head_map
from scripts.study.evaluation.heads_registrations import Registrations
from scripts.study.evaluation.systems import Entry
from scripts.training.prepared import write_prepared

BRAIN = torch.from_numpy(brain_of_levels().copy())


class Halved(ReconstructionSystem):
    """Half of the slice, a little brighter further up."""

    name, level = "halved", True

    def reconstruct(self, images, masks=None):
        return 0.5 * images[:, :1] + 0.001 * images[:, 1:].clamp(min=0)


class HalvedNetwork(torch.nn.Module):
    def forward(self, x):
        return Halved(ResidualMap()).reconstruct(x)


def _volume():
    return 2 * torch.rand(1, 1, *GRID, generator=torch.Generator().manual_seed(0))


def test_the_same_map_is_the_bundles_coarse_map_of_that_reconstruction():
    volume = _volume()
    planes = torch.tensor(LEVELS_MM).expand_as(volume)
    _, expected = HeadPhanes(HalvedNetwork(), BRAIN, LEVELS_MM).coarse(torch.cat([volume / 2, planes], dim=1))
    torch.testing.assert_close(head_map(Halved(ResidualMap()), volume, BRAIN, same_map=True), expected)


def test_the_own_map_is_the_systems_slice_by_slice():
    volume = _volume()
    found = head_map(Halved(ResidualMap()), volume, BRAIN, same_map=False)[0, 0]
    at = LEVELS_MM.index(21.0)
    expected = (0.25 * volume[0, 0, ..., at] - 0.021).abs() * BRAIN[..., at]
    torch.testing.assert_close(found[..., at], expected)


class LinearInPlace(torch.nn.Module):
    def forward(self, x):
        return 0.4 * x[:, :1]

    def fill(self, x, hole):
        return torch.where(hole > 0, 0.7, x[:, :1])


def test_a_baseline_as_first_stage_is_the_method_with_its_drawing_and_the_linear_filling(tmp_path, monkeypatch):
    healthy = BRAIN.numpy() * np.random.default_rng(0).normal(1.0, 0.02, GRID).astype(np.float32)
    write_prepared(tmp_path / "healthy.nii.gz", healthy)
    linear = HeadPhanes(LinearInPlace(), BRAIN, LEVELS_MM)
    monkeypatch.setattr(study, "load_network", lambda network, weights: None)
    filler = Filler(linear, "linear.pt", str(tmp_path))
    system = AsFirstStage(filler, Entry(Halved(ResidualMap())), None, "row")
    levels = healthy.copy()
    levels[60:70, 60:70, 30:36] *= 0.4
    found = system.levels_map(levels)

    class Both(LinearInPlace):
        forward = HalvedNetwork.forward

    expected = HeadPhanes(Both(), BRAIN, LEVELS_MM)
    volume = torch.stack([torch.from_numpy(levels) / 2, torch.tensor(LEVELS_MM).expand(GRID)])[None]
    expected.mask.threshold.copy_(system.method.mask.threshold)
    torch.testing.assert_close(torch.from_numpy(found), expected(volume)[0, 0])
    clean = volume.clone()
    clean[0, 0] = torch.from_numpy(healthy) / 2
    above = expected.mask.smooth(expected.coarse(clean)[1])[0, 0][BRAIN] > expected.mask.threshold
    assert above.float().mean().item() == pytest.approx(0.001, abs=2e-4)


def test_a_system_without_reconstruction_has_no_second_row():
    system = ZScore()
    system.reconstructs = False  # type: ignore[misc]
    with pytest.raises(ValueError, match="no reconstruction"):
        head_map(system, _volume(), BRAIN, same_map=True)


def test_trained_systems_become_rows_by_their_folder(tmp_path: Path):
    config = {
        "network_def": {
            "_target_": "scripts.study.baselines.vae.VAE",
            "comparison": {"_target_": "scripts.study.baselines.maps.ResidualMap"},
            "channels": [2, 2, 2, 2, 4],
            "latent_dim": 4,
        },
        "_heads_": ["heads.json"],
    }
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "vae.json").write_text(json.dumps(config))
    (configs / "heads.json").write_text('{"network_def::level": true}')
    registrations = Registrations(tmp_path / "registrations")
    assert baseline_rows(None, registrations, configs) == {}
    assert baseline_rows(tmp_path, registrations, configs) == {}
    system = VAE(ResidualMap(), channels=(2, 2, 2, 2, 4), latent_dim=4, level=True)
    save_system(system, tmp_path / "vae" / "model.pt", half=False)
    (tmp_path / "vae" / "record.json").write_text('{"system": "VAE", "size": "compact", "reconstructs": true}')
    rows = baseline_rows(tmp_path, registrations, configs)
    assert {key: row.label for key, row in rows.items()} == {"vae": "VAE", "vae_same": "VAE, PHANES' map"}
    filler = Filler(None, "", "")  # type: ignore[arg-type]
    assert "vae_phanes" in baseline_rows(tmp_path, registrations, configs, filler=filler)
    levels = _volume()[0, 0].numpy()
    maps = {key: row.levels_map(levels) for key, row in rows.items()}
    assert maps["vae"].shape == GRID
    assert not np.allclose(maps["vae"], maps["vae_same"])
    assert rows["vae"].fingerprint() != rows["vae_same"].fingerprint()
    ready = TrainedHeads(Entry(system.eval()), registrations, "VAE")
    np.testing.assert_allclose(ready.levels_map(levels), maps["vae"], rtol=1e-4, atol=1e-6)
