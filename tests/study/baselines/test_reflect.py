"""REFLECT-like: lesions follow from the seed, and the one step learns to take them away."""

from __future__ import annotations

import torch

from scripts.study.baselines.heads import with_heights
from scripts.study.baselines.reflect import FOREGROUND, Reflect

from .conftest import brain_like


def test_lesions_lie_in_the_brain_and_follow_from_the_seed(build) -> None:
    system = build("reflect")
    assert isinstance(system, Reflect)
    healthy = torch.cat([brain_like(6, seed=3), torch.zeros(1, 1, 64, 64)])
    torch.manual_seed(5)
    first = system.painted(healthy)
    assert not torch.equal(first, system.painted(healthy))
    torch.manual_seed(5)
    assert torch.equal(first, system.painted(healthy))
    changed = (first != healthy)[:6]
    assert changed.flatten(1).any(dim=1).all()
    assert not changed[healthy[:6] <= FOREGROUND].any()


def test_a_flow_that_points_to_the_healthy_latent_corrects_the_slice(build, monkeypatch) -> None:
    system, healthy = build("reflect"), brain_like(2, seed=3)
    torch.manual_seed(1)
    sick = system.painted(healthy)
    mean = system.autoencoder.encode
    monkeypatch.setattr(system, "velocity", lambda latent, time, images: mean(healthy)[0] - latent)
    torch.testing.assert_close(system.reconstruct(sick), system.autoencoder.decode(mean(healthy)[0]).clamp(0, 1))


def test_training_lowers_the_error_of_corrected_slices(build) -> None:
    system = build("reflect").train()
    optimizer = torch.optim.Adam(system.parameters(), 3e-3)
    healthy = brain_like(8, seed=3)
    errors = []
    for steps in (0, 60):
        torch.manual_seed(0)
        for _ in range(steps):
            optimizer.zero_grad()
            system.training_loss(healthy)[0].backward()
            optimizer.step()
        torch.manual_seed(7)
        with torch.no_grad():
            errors.append(float(system.healthy_error(healthy)))
    assert errors[1] < 0.6 * errors[0]


def test_the_flow_sees_height_and_time(build, monkeypatch) -> None:
    system = build("reflect")
    system.level = True
    seen = {}

    def forward(latent, timesteps):
        seen.update(latent=latent, time=timesteps)

    monkeypatch.setattr(system.flow, "forward", forward)
    slices = with_heights(brain_like(2), torch.tensor([-60.0, 60.0]))
    system.velocity(torch.zeros(2, 2, 4, 4), torch.tensor([0.0, 0.5]), slices)
    assert seen["latent"].shape == (2, 3, 4, 4)
    assert seen["latent"][0, 2].max() < 0 < seen["latent"][1, 2].min()
    assert seen["time"].tolist() == [0, 500]
