"""The autoencoder: the published sizes, shapes, and what each option changes."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from scripts.common.errors import PhanesInputError
from scripts.method.networks.soft_intro_vae import SoftIntroVAE, sample_posterior


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_paper_size_has_the_published_number_of_parameters():
    assert parameters(SoftIntroVAE()) == 29_430_785
    assert parameters(SoftIntroVAE(force_skip_conv=True)) == 29_955_073
    assert parameters(SoftIntroVAE().encoder) == 16_360_896


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_shapes_of_latent_embeddings_and_image(stem_stride):
    network = SoftIntroVAE(channels=(4, 8, 8, 16, 16), latent_dim=12, stem_stride=stem_stride).eval()
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


@pytest.mark.parametrize("noise", [1.0, 0.25])
def test_the_linear_path_begins_at_probabilistic_pca(noise):
    # Oracle: scikit-learn's components; Tipping and Bishop's posterior shrinks each by (variance - noise) / variance.
    rng = torch.Generator().manual_seed(0)
    factors = torch.randn(60, 3, generator=rng) * torch.tensor([0.14, 0.10, 0.001])
    images = (0.5 + factors @ torch.randn(3, 256, generator=rng)).clamp(0.0, 1.0).reshape(60, 1, 16, 16)
    network = SoftIntroVAE(image_size=16, channels=(4, 8), latent_dim=8, linear_path=True).eval()
    network.start_from_principal_components(images, noise)

    flat = images.flatten(1).double().numpy()
    pca = PCA(8).fit(flat)
    variance = np.maximum(pca.explained_variance_ * 59 / 60, noise)
    shrunk = pca.transform(flat) * (variance - noise) / variance
    expected = np.clip(shrunk @ pca.components_ + pca.mean_, 0, 1)
    np.testing.assert_allclose(network(images).detach().flatten(1), expected, atol=1e-4)
    assert (variance > noise).sum() == 2, "the third factor explains less than the noise"
    _, log_var, _ = network.encode(images)
    np.testing.assert_allclose(log_var.detach().exp(), np.tile(noise / variance, (60, 1)), rtol=1e-4)
    assert not network.decoder.linear.weight.requires_grad


def test_fewer_images_than_components_are_refused_with_a_way_out():
    network = SoftIntroVAE(image_size=16, channels=(4, 8), latent_dim=8, linear_path=True)
    with pytest.raises(PhanesInputError, match="8 training slices are too few for 8 principal components"):
        network.start_from_principal_components(torch.rand(8, 1, 16, 16))


def test_without_a_linear_path_there_is_nothing_to_start():
    network = SoftIntroVAE(image_size=16, channels=(4, 8))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.start_from_principal_components(torch.rand(4, 1, 16, 16))
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


def test_posterior_samples_have_the_posteriors_moments():
    torch.manual_seed(0)
    mu, log_var = torch.full((200_000, 1), 2.0), torch.full((200_000, 1), -1.0)
    z = sample_posterior(mu, log_var)
    assert z.mean().item() == pytest.approx(2.0, abs=0.01)
    assert z.var().item() == pytest.approx(0.3679, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"image_size": 100}, "divisible by 32"), ({"stem_stride": 4}, "1 or 2")]
)
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftIntroVAE(**arguments)
