"""z-score in closed form; VAE's evidence lower bound against torch.distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from scripts.study.baselines.maps import ResidualMap
from scripts.study.baselines.vae import VAE
from scripts.study.baselines.zscore import ZScore


def test_zscore_is_the_distance_from_the_mean_in_standard_deviations() -> None:
    healthy = np.random.default_rng(0).random((10, 1, 16, 16)).astype(np.float32)
    system = ZScore(image_size=16, min_std=0.25)
    system.fit(torch.from_numpy(healthy).split([3, 3, 4]))
    mean, std = healthy.mean(axis=0, dtype=np.float64), healthy.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(system.mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(system.std.numpy(), std, rtol=1e-5)
    assert (std < 0.25).any()
    assert (std > 0.25).any()
    image = np.random.default_rng(1).random((2, 1, 16, 16)).astype(np.float32)
    expected = np.abs(image - mean) / np.maximum(std, 0.25)
    np.testing.assert_allclose(system.anomaly_map(torch.from_numpy(image)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_zscore_takes_the_mean_slice_for_its_reconstruction() -> None:
    system = ZScore(image_size=16)
    system.fit([torch.full((2, 1, 16, 16), 0.4)])
    assert torch.allclose(system.reconstruct(torch.rand(3, 1, 16, 16)), torch.full((3, 1, 16, 16), 0.4))


def test_zscore_refuses_an_empty_training_set() -> None:
    with pytest.raises(ValueError, match="no healthy slice"):
        ZScore(image_size=16).fit([])


@pytest.mark.parametrize("sigma", [1.0, 0.3])
def test_the_negative_elbo_is_that_of_the_distributions(sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    image, reconstruction, mu, log_var = draw(3, 1, 32, 32), draw(3, 1, 32, 32), draw(3, 7), draw(3, 7)
    rec, kl = VAE(ResidualMap(), image_size=32, channels=(4, 4), sigma=sigma).elbo(image, reconstruction, mu, log_var)
    expected = -Normal(reconstruction, sigma).log_prob(image).sum(dim=(1, 2, 3))
    torch.testing.assert_close(rec, expected, rtol=1e-12, atol=1e-9)
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(
        kl, kl_divergence(Normal(mu, (0.5 * log_var).exp()), prior).sum(dim=1), rtol=1e-12, atol=1e-9
    )


def test_the_latent_is_sampled_in_training_and_its_mean_taken_otherwise() -> None:
    torch.manual_seed(0)
    system = VAE(ResidualMap(), image_size=32, channels=(4, 4), latent_dim=4)
    images = torch.rand(2, 1, 32, 32)
    system.train()
    assert system.training_loss(images)[0] != system.training_loss(images)[0]
    system.eval()
    assert system.training_loss(images)[0] == system.training_loss(images)[0]


def test_the_published_network_has_5_85_million_parameters() -> None:
    assert sum(p.numel() for p in VAE(ResidualMap()).parameters()) == 5_849_600


def test_an_image_size_that_cannot_be_halved_often_enough_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 32"):
        VAE(ResidualMap(), image_size=100)
