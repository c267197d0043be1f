"""Principal components against scikit-learn; probabilistic PCA as the start of stage 1."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from scripts.common.errors import PhanesInputError
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.training.principal_components import PrincipalComponents, begin, start_from_principal_components
from tests.training.test_distillation import phantoms


def test_principal_components_reconstruct_as_sklearn_does():
    slices = torch.from_numpy(phantoms(20))[:, None]
    components = PrincipalComponents(slices)
    held_out = torch.from_numpy(phantoms(3, seed=1))[:, None]
    flat = held_out.flatten(1).numpy()
    for count in (1, 5, 19):
        pca = PCA(count, svd_solver="full").fit(slices.flatten(1).numpy())
        expected = pca.inverse_transform(pca.transform(flat)).clip(0, 1)
        np.testing.assert_allclose(components.reconstruct(held_out, count).flatten(1).numpy(), expected, atol=1e-4)
    one_each = components.reconstruct(held_out, torch.tensor([1, 5, 19]))
    torch.testing.assert_close(one_each[1:2], components.reconstruct(held_out[1:2], 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("noise", [1.0, 0.25])
def test_the_linear_path_begins_at_probabilistic_pca(noise):
    # Oracle: scikit-learn's components; Tipping and Bishop's posterior shrinks each by (variance - noise) / variance.
    rng = torch.Generator().manual_seed(0)
    factors = torch.randn(60, 3, generator=rng) * torch.tensor([0.14, 0.10, 0.001])
    images = (0.5 + factors @ torch.randn(3, 256, generator=rng)).clamp(0.0, 1.0).reshape(60, 1, 16, 16)
    network = SoftIntroVAE(image_size=16, channels=(4, 8), latent_dim=8, linear_path=True).eval()
    start_from_principal_components(network, images, noise)

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
    with pytest.raises(
        PhanesInputError, match="8 draws of the training slices are too few for 8 principal components: add slices"
    ):
        start_from_principal_components(network, torch.rand(8, 1, 16, 16), 1.0)


def items(count: int) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(n))} for n in range(count)]


def test_without_a_linear_path_there_is_nothing_to_start():
    network = SoftIntroVAE(image_size=16, channels=(4, 8))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    begin(network, items(4), 1.0)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())


def test_a_network_that_goes_on_keeps_its_path_and_a_new_one_begins_at_the_slices():
    network = SoftIntroVAE(image_size=16, channels=(4, 8), latent_dim=4, linear_path=True)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    begin(network, items(4), 0.01, continued=True)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
    assert not network.encoder.linear.weight.requires_grad
    begin(network, items(4), 0.01)
    assert not torch.equal(network.decoder.linear.bias, before["decoder.linear.bias"])
