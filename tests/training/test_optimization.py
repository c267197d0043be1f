"""The optimisers, and the learning rate against torch's own scheduler."""

import math

import pytest
import torch
from ignite.engine import Engine, Events

from scripts.training.optimization import WARM_UP, LearningRate, adam


def rates(schedule: str, epochs: int, length: int, graph: bool = False) -> list[float]:
    """The rate of every step of a training, as the optimiser had it."""
    optimizer = adam([torch.zeros(1, requires_grad=True)], 1.0, graph)
    engine, seen = Engine(lambda engine, batch: seen.append(float(optimizer.param_groups[0]["lr"]))), []
    LearningRate([optimizer], 0.1, schedule).attach(engine)
    engine.run(range(length), max_epochs=epochs)
    return seen


@pytest.mark.parametrize("graph", [False, True])
def test_the_cosine_is_that_of_torchs_scheduler_with_a_linear_warm_up(graph):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    expected = []
    for step in range(150):
        expected.append(optimizer.param_groups[0]["lr"] * min(1.0, (step + 1) / WARM_UP))
        optimizer.step()
        scheduler.step()
    assert rates("cosine", 3, 50, graph) == pytest.approx(expected, abs=1e-8)


def test_a_constant_rate_stays_and_an_unknown_schedule_is_named():
    assert rates("constant", 2, 3) == [0.1] * 6
    with pytest.raises(ValueError, match="lr_schedule 'step' is unknown; choose constant or cosine"):
        LearningRate([], 0.1, "step")


def test_a_resumed_training_goes_on_with_the_rate_of_its_step():
    optimizer = adam([torch.zeros(1, requires_grad=True)], 1.0)
    seen: list[float] = []
    engine = Engine(lambda engine, batch: seen.append(optimizer.param_groups[0]["lr"]))
    LearningRate([optimizer], 0.1, "cosine").attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda e: e.terminate())
    engine.run(range(100), max_epochs=2)
    state = engine.state_dict()
    engine.load_state_dict(state)
    engine.run(range(100), max_epochs=2)
    assert seen[100] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_for_a_captured_graph_count_and_rate_are_tensors_of_the_parameters_device():
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = adam([parameter], 1e-3, True)
    (group,) = optimizer.param_groups
    assert torch.is_tensor(group["lr"])
    assert group["lr"].device == parameter.device
    assert group["capturable"]
    assert not torch.is_tensor(adam([parameter], 1e-3).param_groups[0]["lr"])
