"""Shortcuts of inference change nothing but the time: each against the plain path, which training takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scripts.method.filling import CoarseFilling
from scripts.method.networks.aot_gan import AOTBlock, AOTGenerator
from scripts.method.networks.soft_intro_vae import SoftIntroVAE
from scripts.method.phanes import Phanes
from scripts.method.refinement import Refinement
from tests.method.composed import composed, fill_thresholds


class Spy(nn.Module):
    """Passes calls on to a module and keeps the batch sizes it was called with."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.batches: list[int] = []

    def forward(self, *tensors: Tensor) -> Tensor:
        self.batches.append(len(tensors[0]))
        return self.module(*tensors)


@pytest.fixture
def network() -> Phanes:
    torch.manual_seed(0)
    inpainter = AOTGenerator(channels=(4, 8, 8), blocks=2, dilations=(1, 2), init="kaiming")
    network = composed(SoftIntroVAE(channels=(4, 8)), Spy(inpainter), filling=CoarseFilling(0))
    fill_thresholds(network)
    return network.eval()


@pytest.fixture
def images() -> Tensor:
    coarse = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    return nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1)


@pytest.fixture
def masks(images: Tensor) -> Tensor:
    """The first, third and last slice have nothing to replace."""
    masks = torch.zeros_like(images)
    masks[1, :, 30:60, 40:50] = 1.0
    masks[3, :, 5, 7] = 1.0
    return masks


def test_slices_with_an_empty_mask_are_left_out_of_the_inpainter_and_nothing_else_changes(network, images, masks):
    plain = network.forward_with_mask(images, masks)  # with gradients: everything goes everywhere
    assert network.inpainter.batches == [5]
    with torch.no_grad():
        short = network.forward_with_mask(images, masks)
    assert network.inpainter.batches == [5, 2]
    for a, b in zip(short, plain, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-6)


def test_without_any_mask_the_inpainter_is_not_asked_and_the_slices_come_back_bit_for_bit(network, images):
    with torch.no_grad():
        anomaly, pseudo_healthy = network.forward_with_mask(images, torch.zeros_like(images))
    assert network.inpainter.batches == []
    assert torch.equal(pseudo_healthy, images)
    assert not anomaly.any()


def test_an_uncalibrated_network_stays_without_result_in_inference(network, images):
    network.mask.threshold.fill_(float("nan"))
    with torch.no_grad():
        output = network(images)
    assert output[:, 0].isnan().all()
    assert output[:, 2].isnan().all()


def test_the_inputs_perceptual_features_serve_every_filling(network, images):
    network.refinement = Refinement(2)
    network.refinement.threshold.fill_(0.0)
    seen: list[Tensor] = []
    hook = network.perceptual.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        output = network(images)
        hook.remove()
        anomaly, _, _, coarse = network.analyse(images, False, False).split(1, dim=1)  # by itself: nothing to share
        total = anomaly
        for _ in range(2):
            anomaly, pseudo_healthy = network.forward_with_mask(images, network.refinement(anomaly), coarse)
            total = total + anomaly
    assert sum(any(torch.equal(image, images[0]) for image in x) for x in seen) == 1
    torch.testing.assert_close(output[:, 0:1], total / 3, rtol=0, atol=1e-6)
    torch.testing.assert_close(output[:, 1:2], pseudo_healthy, rtol=0, atol=1e-6)


def test_the_gate_of_an_aot_block_is_the_published_formula():
    torch.manual_seed(1)
    block = AOTBlock(8, (1, 2)).double()
    x = torch.randn(2, 8, 12, 10, dtype=torch.float64)
    fused = block.fuse(torch.cat([branch(x) for branch in block.branches], dim=1))
    gate = block.gate(x)
    std, mean = torch.std_mean(gate, dim=(2, 3), keepdim=True)
    gate = torch.sigmoid(5 * (2 * (gate - mean) / (std + 1e-9) - 1))
    torch.testing.assert_close(block(x), x * (1 - gate) + fused * gate, rtol=0, atol=1e-12)


def test_a_constant_gate_has_a_finite_gradient():
    block = AOTBlock(4, (1,))
    nn.init.zeros_(block.gate[1].weight)
    x = torch.rand(1, 4, 8, 8, requires_grad=True)
    block(x).sum().backward()
    assert x.grad.isfinite().all()
    assert block.gate[1].weight.grad.isfinite().all()
