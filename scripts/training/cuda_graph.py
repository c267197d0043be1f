"""Training steps as CUDA graphs: one launch instead of thousands, where the host cannot keep the GPU busy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GraphedStep:
    """Runs a training step eagerly a few times, then captures it and replays the capture.

    The step must not synchronise with the host, must take batches of one fixed shape (`drop_last=True`), and its
    optimisers must be `capturable` with a tensor learning rate. On the CPU every step is eager.

    Args:
        step: (B, 1, H, W) images -> dict of scalar tensors.
        warmup: eager calls before the capture.
        enabled: False leaves every step eager.
    """

    def __init__(self, step: Callable[[Tensor], dict[str, Tensor]], warmup: int = 12, enabled: bool = True) -> None:
        self.step = step
        self.enabled = enabled
        self.remaining = warmup
        self.graph: torch.cuda.CUDAGraph | None = None
        self.images: Tensor | None = None
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """One step; the returned scalars are copies."""
        if not (self.enabled and images.is_cuda):
            return self.step(images)
        if self.remaining > 0:
            self.remaining -= 1
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                outputs = self.step(images)
            torch.cuda.current_stream().wait_stream(stream)
            return outputs
        if self.graph is None or self.images is None:
            self.images = images.clone()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = self.step(self.images)
        self.images.copy_(images)
        self.graph.replay()
        return {name: value.clone() for name, value in self.outputs.items()}
