"""Generator and discriminator of stage 2: the published sizes and shapes."""

import pytest
import torch
from torch import nn

from scripts.method.networks.aot_gan import AOTBlock, AOTGenerator, PatchDiscriminator


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_paper_size_has_the_published_number_of_parameters():
    assert parameters(AOTGenerator()) == 15_193_409
    assert parameters(PatchDiscriminator()) == 2_761_729


def test_the_generator_predicts_an_image_and_the_discriminator_a_map_of_patches():
    image = torch.rand(2, 1, 128, 128)
    generated = AOTGenerator(channels=(4, 8, 16), blocks=1)(image, torch.zeros_like(image))
    assert generated.shape == image.shape
    assert generated.abs().max() <= 1
    assert PatchDiscriminator(channels=(4, 8, 16, 32))(image).shape == (2, 1, 14, 14)


def test_the_discriminators_layers_are_spectrally_normalised():
    network = PatchDiscriminator(channels=(4, 8)).train()
    for _ in range(200):  # the power iteration converges over forward passes
        network(torch.rand(1, 1, 32, 32))
    weight = network.layers[2].weight.detach()
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-2)


def test_an_open_gate_passes_the_fused_branches_and_a_closed_one_the_input():
    block = AOTBlock(8, (1, 2)).eval()
    x = torch.rand(1, 8, 16, 16)
    nn.init.zeros_(block.gate[1].weight)
    nn.init.zeros_(block.gate[1].bias)
    with torch.no_grad():
        fused = block.fuse(torch.cat([b(x) for b in block.branches], dim=1))
        # A constant gate standardises to zero, so its value is sigmoid(-5) everywhere.
        gate = 1 / (1 + torch.e**5)
        torch.testing.assert_close(block(x), x * (1 - gate) + fused * gate, atol=1e-5, rtol=0)


def test_channels_that_the_dilations_cannot_share_are_refused():
    with pytest.raises(ValueError, match="cannot be shared"):
        AOTBlock(10, (1, 2, 4, 8))
