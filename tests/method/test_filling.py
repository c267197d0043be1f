"""The hole filled, and the composition of the pseudo-healthy image."""

import pytest
import torch

from scripts.method.filling import ConstantFilling, compose_pseudo_healthy


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 31, 29, generator=torch.Generator().manual_seed(1))


def test_pixels_outside_the_mask_are_the_inputs_own_bit_for_bit(images):
    mask = (images > 0.6).float()
    generated = torch.full_like(images, 3.0)
    composed = compose_pseudo_healthy(images, generated, mask)
    assert torch.equal(composed[mask == 0], images[mask == 0])
    assert (composed[mask == 1] == 1.0).all(), "the prediction is clamped to [0, 1]"


def test_the_composition_lets_the_gradient_into_the_hole_only():
    image, generated = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.4, requires_grad=True)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    compose_pseudo_healthy(image, generated, mask).sum().backward()
    assert torch.equal(generated.grad, mask)


def test_the_hole_holds_the_constant():
    image, mask = torch.full((1, 1, 1, 2), 0.3), torch.tensor([[[[0.0, 1.0]]]])
    for filling, value in ((ConstantFilling(), 0.0), (ConstantFilling(1.0), 1.0)):
        assert filling(image, mask).flatten().tolist() == pytest.approx([0.3, value])
