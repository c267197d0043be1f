"""The optimisers of a training, and the course of their learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Adam, Optimizer

WARM_UP = 100  # steps over which the cosine's rate rises
SCHEDULES = ("constant", "cosine")


def adam(parameters: Iterable[nn.Parameter], learning_rate: float, cuda_graph: bool = False) -> Adam:
    """Adam as in the paper, with betas 0.9 and 0.999 and no decay. It updates all parameters in one launch.

    Args:
        parameters: on the device where they are trained.
        learning_rate: of the first step.
        cuda_graph: keep step count and rate on the device, where a captured graph reads them at each replay. A rate on
            the host would be frozen into the graph.
    """
    optimizer = Adam(parameters, learning_rate, fused=True, capturable=cuda_graph)
    if cuda_graph:
        for group in optimizer.param_groups:
            group["lr"] = torch.full((), learning_rate, device=group["params"][0].device)
    return optimizer


class LearningRate:
    """Sets the learning rate before every step of a trainer, by the number of the step alone.

    The schedule `constant` keeps the peak. `cosine` is a short linear warm-up, and then half a cosine. It reaches zero
    at the last step, or at the time limit if that comes first.

    Args:
        optimizers: whose rate is set.
        peak: the highest rate.
        schedule: one of `SCHEDULES`.
        max_seconds: the training's time limit.

    Raises:
        ValueError: an unknown schedule.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        peak: float,
        schedule: str = "constant",
        max_seconds: float | None = None,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"lr_schedule '{schedule}' is unknown; choose {' or '.join(SCHEDULES)}.")
        self.optimizers = optimizers
        self.peak = peak
        self.schedule = schedule
        self.max_seconds = max_seconds
        self.started = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Called by MONAI's engines."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def _start(self) -> None:
        self.started = time.monotonic()

    def spent(self) -> float:
        """Share of the training's time that is over."""
        return (time.monotonic() - self.started) / self.max_seconds if self.max_seconds else 0.0

    def rate(self, step: int, steps: int, share: float = 0.0) -> float:
        """The rate of a step.

        Args:
            step: number of the step, from 0.
            steps: how many there are in the training.
            share: share of the training's time that is over.
        """
        if self.schedule == "constant":
            return self.peak
        rising, falling = (
            min(1.0, (step + 1) / WARM_UP),
            0.5 * (1.0 + math.cos(math.pi * min(1.0, max(share, step / steps)))),
        )
        return self.peak * rising * falling

    def __call__(self, engine: Engine) -> None:
        """Before a step."""
        steps = (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
        rate = self.rate(engine.state.iteration - 1, steps, self.spent())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if torch.is_tensor(group["lr"]):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
