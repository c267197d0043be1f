"""Both stages on a GPU: everything lies on the device, and no step waits for the host, so that it can be captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts.training.engines import StepTrainer
from scripts.training.optimization import LearningRate
from tests.training.fake_gpu import GPU, NoWaiting, fake_gpu, on_fake_gpu
from tests.training.test_train_configs import TINY, parser_of

STAGES = [("train.json",), ("train.json", "train_inpainter.json")]
Loop = Callable[[Tensor], dict[str, Tensor]]


def waits(step: Loop) -> Loop:
    def waiting(images: Tensor) -> dict[str, Tensor]:
        terms = step(images)
        float(terms["loss"])
        return terms

    return waiting


def fetches(step: Loop) -> Loop:
    return lambda images: {name: value.cpu() for name, value in step(images).items()}


def selects(step: Loop) -> Loop:
    return lambda images: step(images[images.flatten(1).amax(dim=1) > 0])


def mixes(step: Loop) -> Loop:
    return lambda images: step(images * torch.ones(1, 1, 128, 128))


def freezes(step: Any) -> Loop:
    """As it was: a tensor of the host, whose number a captured graph would keep for ever."""
    first, _ = (value for name, value in vars(step).items() if name.endswith("optimizer"))
    for group in first.param_groups:
        group["lr"] = torch.full((), 1e-3)
    return step


def loop(files: tuple[str, ...], fault: Callable[[Any], Loop] | None = None) -> None:
    """A forward pass of the network and three steps of a stage, as a trainer takes them."""
    torch.set_num_threads(1)
    small = {f"{part}::{k}": v for part, changes in TINY.items() for k, v in changes.items()}
    with fake_gpu():
        parser = parser_of(*files, device=GPU, amp=False, cuda_graph=True, feature_trunk="distilled", **small)
        network, step, networks = (parser.get_parsed_content(name) for name in ("network", "step", "networks"))
        optimizers = [value for name, value in vars(step).items() if name.endswith("optimizer")]
        rate = LearningRate(optimizers, 1e-3, "cosine")
        images = torch.rand(4, 1, 128, 128, device=GPU)
        with NoWaiting():
            assert network(images).device == torch.device(GPU)
            step = fault(step) if fault else step
            batches = [{"image": images}] * 3
            StepTrainer(GPU, 1, batches, step, networks, train_handlers=[rate]).run()


@pytest.mark.parametrize("files", STAGES, ids=" ".join)
def test_a_step_stays_on_the_device_and_does_not_wait(files: tuple[str, ...]) -> None:
    assert on_fake_gpu(loop, files) == ""


@pytest.mark.parametrize(
    ("stage", "fault", "message"),
    [
        (0, waits, "_local_scalar_dense"),
        (1, fetches, "tensors on cpu and fakegpu"),
        (1, selects, "nonzero"),
        (0, mixes, "tensors on cpu and fakegpu"),
        (0, freezes, "tensors on cpu and fakegpu"),
        (1, freezes, "tensors on cpu and fakegpu"),
    ],
)
def test_the_check_sees_what_waits_or_lies_elsewhere(stage: int, fault: Any, message: str) -> None:
    assert message in on_fake_gpu(loop, STAGES[stage], fault)
