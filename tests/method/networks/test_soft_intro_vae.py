"""The autoencoder: the published sizes, shapes, and what each option changes."""

import pytest
import torch
from torch import nn

from scripts.method.networks.soft_intro_vae import SoftIntroVAE, sample_posterior


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_paper_size_has_the_published_number_of_parameters():
    assert parameters(SoftIntroVAE()) == 29_430_785
    assert parameters(SoftIntroVAE().encoder) == 16_360_896


def test_shapes_of_latent_embeddings_and_image():
    network = SoftIntroVAE(channels=(4, 8, 8, 16, 16), latent_dim=12).eval()
    mu, log_var, embeddings = network.encode(torch.rand(2, 1, 128, 128))
    assert mu.shape == log_var.shape == (2, 12)
    assert [tuple(e.shape[1:]) for e in embeddings] == [(4, 64, 64), (8, 32, 32), (8, 16, 16), (16, 8, 8), (16, 4, 4)]
    image = network.decode(mu)
    assert image.shape == (2, 1, 128, 128)
    assert 0 <= image.min() <= image.max() <= 1


def test_frozen_normalisation_keeps_its_statistics_while_training():
    network = SoftIntroVAE(channels=(4, 8), image_size=16, frozen_norm=True).train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    network(torch.rand(4, 1, 16, 16))
    assert network.training
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
    thawed = SoftIntroVAE(channels=(4, 8), image_size=16).train()
    thawed(torch.rand(4, 1, 16, 16))
    assert thawed.encoder.stem_norm.num_batches_tracked == 1


def test_posterior_samples_have_the_posteriors_moments():
    torch.manual_seed(0)
    mu, log_var = torch.full((200_000, 1), 2.0), torch.full((200_000, 1), -1.0)
    z = sample_posterior(mu, log_var)
    assert z.mean().item() == pytest.approx(2.0, abs=0.01)
    assert z.var().item() == pytest.approx(0.3679, abs=0.01)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="divisible by 32"):
        SoftIntroVAE(image_size=100)
