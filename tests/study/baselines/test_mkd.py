"""MKD: its loss by hand, guided backpropagation, the gradient map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.study.baselines.backbones import Backbone
from scripts.study.baselines.mkd import MKD, Cloner, GuidedBackpropagation, disagreement


def test_the_loss_of_a_hand_made_case() -> None:
    """Right angle and squared distance in one layer, same direction and twice the length in the other."""
    taught = [torch.tensor([[3.0, 0.0], [1.0, 1.0]]).reshape(2, 2, 1, 1), torch.ones(2, 1, 2, 2)]
    cloned = [torch.tensor([[0.0, 4.0], [1.0, 1.0]]).reshape(2, 2, 1, 1), 2 * torch.ones(2, 1, 2, 2)]
    direction, value = disagreement(taught, cloned, value_weight=0.01)
    torch.testing.assert_close(direction, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(value, 0.01 * torch.tensor([(9.0 + 16.0) / 2 + 1.0, 0.0 + 1.0]))


def test_guided_backpropagation_passes_positive_gradients_of_active_units_only() -> None:
    x = torch.tensor([-1.0, 2.0, 3.0, 4.0], requires_grad=True)
    weight = torch.tensor([5.0, -6.0, 7.0, 0.0])
    for relu in (torch.relu, F.relu, nn.ReLU(), nn.ReLU(inplace=True)):
        with GuidedBackpropagation():
            y = relu(1.0 * x)
        assert y.tolist() == [0.0, 2.0, 3.0, 4.0]
        (gradient,) = torch.autograd.grad((weight * y).sum(), x)
        assert gradient.tolist() == [0.0, 0.0, 7.0, 0.0]
    (plain,) = torch.autograd.grad((weight * torch.relu(x)).sum(), x)
    assert plain.tolist() == [0.0, -6.0, 7.0, 0.0]


class Teacher(nn.Module):
    """One smooth layer, in float64, for finite differences."""

    name = "teacher"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.max_pool2d(torch.tanh(self.layer(images)), 2)]

    def shapes(self, image_size: int) -> list[tuple[int, int, int]]:
        return [(3, image_size // 2, image_size // 2)]


def test_the_plain_gradient_is_that_of_finite_differences() -> None:
    system = MKD(
        Teacher(), stages=((4,),), image_size=8, map_layers=1, localisation="gradient", sigma=0, normalize_map=False
    ).double()  # type: ignore[arg-type]
    system.eval()
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    found = system.anomaly_map(images)

    def error(x: Tensor) -> Tensor:
        with torch.no_grad():
            direction, value = disagreement(system.backbone(x), system.cloner(x), system.value_weight)
        return direction + value

    for row, column in ((1, 1), (3, 6), (7, 0)):
        nudge = torch.zeros_like(images)
        nudge[:, :, row, column] = 1e-6
        slope = (error(images + nudge) - error(images - nudge)) / 2e-6
        torch.testing.assert_close(found[:, 0, row, column], slope.abs(), atol=1e-6, rtol=1e-3)


def test_the_normalised_map_spans_zero_to_one_in_each_image() -> None:
    torch.manual_seed(0)
    teacher = Backbone("squeezenet1_1", ["features.1", "features.4"], "random", normalize=False)
    system = MKD(teacher, stages=((4,), (4,)), image_size=64, map_layers=2, sigma=0).eval()
    found = system.anomaly_map(torch.rand(3, 1, 64, 64))
    assert found.amin(dim=(1, 2, 3)).tolist() == pytest.approx([0.0] * 3)
    assert found.amax(dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 3)
    at_one = (found == 1).float().mean(dim=(1, 2, 3))
    assert ((at_one > 0.005) & (at_one < 0.015)).all()  # above the 99th percentile


def test_the_map_is_the_same_in_inference_mode_in_which_evaluations_run() -> None:
    teacher = Backbone("squeezenet1_1", ["features.1", "features.4"], "random", normalize=False)
    system = MKD(teacher, stages=((4,), (4,)), image_size=32, map_layers=2).eval()
    images = torch.rand(2, 1, 32, 32)
    expected = system.anomaly_map(images)
    with torch.inference_mode():
        found = system.analyse(images + 0.0).anomaly_map
    assert torch.equal(found, expected)


def test_a_cloner_that_agrees_leaves_no_map() -> None:
    system = MKD(Teacher(), stages=((4,),), image_size=8, map_layers=1, localisation="gradient", sigma=0)  # type: ignore[arg-type]
    system.cloner = system.backbone
    system.normalize_map = False
    assert system.anomaly_map(torch.rand(1, 1, 8, 8)).max() < 1e-6


def test_only_the_cloner_learns() -> None:
    teacher = Backbone("squeezenet1_1", ["features.1"], "random", normalize=False)
    system = MKD(teacher, stages=((4,),), image_size=32, map_layers=1).train()
    assert not system.backbone.training
    assert system.cloner.training
    system.training_loss(torch.rand(2, 1, 32, 32))[0].backward()
    assert all(p.grad is None for p in system.backbone.parameters())
    assert all(p.grad is not None for p in system.cloner.parameters())


def test_the_cloner_of_vgg16_is_the_published_one() -> None:
    """0.344 M parameters; no bias; normalisation after all but the last convolution of a stage."""
    taps = [(128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    cloner = Cloner(((16, 16), (16,), (16, 16), (16, 16), (16, 16)), taps, image_size=128)
    widths = [m.out_channels for m in cloner.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [16, 16, 16, 128, 16, 16, 256, 16, 16, 512, 16, 16, 512]
    assert sum(p.numel() for p in cloner.parameters()) == 343_984
    assert [tuple(f.shape[1:]) for f in cloner(torch.rand(2, 1, 128, 128))] == taps


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="localisation must be one of"):
        MKD(Teacher(), stages=((4,),), image_size=8, localisation="saliency")  # type: ignore[arg-type]
    teacher = Backbone("alexnet", ["features.1", "features.4"], "random")
    with pytest.raises(ValueError, match="1 stages, but the teacher 2 layers"):
        MKD(teacher, stages=((4,),), image_size=64)
