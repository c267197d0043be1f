"""Lessons of stage 2: what becomes a hole, and what the generator sees."""

import torch

from scripts.method.filling import ConstantFilling
from scripts.method.networks.aot_gan import AOTGenerator
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.training.holes import PublishedHoles
from tests.method.composed import composed

SIZE = 64


def test_as_published_the_holes_are_ellipses_and_the_models_own_mask():
    torch.manual_seed(0)
    autoencoder = SoftIntroVAE(image_size=SIZE, channels=(4, 8), latent_dim=6)
    network = composed(autoencoder, AOTGenerator((4, 8, 8), 1, (1, 2)), filling=ConstantFilling(0.25)).eval()
    network.mask.threshold.fill_(1e6)  # nothing is above it
    images = torch.rand(6, 1, SIZE, SIZE)
    filled, mask = PublishedHoles(network)(images)
    assert torch.equal(filled[mask == 0], images[mask == 0])
    assert (filled[mask == 1] == 0.25).all()
    assert 0 < mask.mean() < 0.5
    _, coarse_map = network.coarse(images)
    network.mask.threshold.copy_(coarse_map.quantile(0.8))
    own = coarse_map > network.mask.threshold
    mask = PublishedHoles(network)(images)[1]
    assert (mask[own] == 1).all()
    assert mask.sum() > own.sum()
