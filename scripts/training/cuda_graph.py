"""Training steps as CUDA graphs: one launch instead of thousands. It helps where the host cannot keep the GPU busy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GraphedStep:
    """Runs a training step eagerly a few times, then captures it and replays the capture.

    The step must not synchronise with the host. Its batches must have one fixed shape (`drop_last=True`). Its
    optimisers must keep step count and learning rate on the device (`optimization.adam`). On the CPU every step is
    eager.

    Args:
        step: (B, 1, H, W) images -> dict of scalar tensors.
        warmup: eager calls before the capture.
        enabled: False leaves every step eager.
    """

    def __init__(self, step: Callable[[Tensor], dict[str, Tensor]], warmup: int = 12, enabled: bool = True) -> None:
        self.step = step
        self.enabled = enabled
        self.remaining = warmup
        self.stream: torch.cuda.Stream | None = None  # of all eager calls and of the capture, as CUDA asks for
        self.graph: torch.cuda.CUDAGraph | None = None
        self.images: Tensor | None = None
        self.outputs: dict[str, Tensor] = {}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """One step; the returned scalars are copies."""
        if not (self.enabled and images.is_cuda):
            return self.step(images)
        if self.stream is None:
            self.stream = torch.cuda.Stream(images.device)
        if self.remaining > 0:
            self.remaining -= 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                outputs = self.step(images)
            torch.cuda.current_stream().wait_stream(self.stream)
            return outputs
        if self.graph is None or self.images is None:
            self.images = images.clone()
            self.graph = torch.cuda.CUDAGraph()
            # Thread-local: the loader's thread may pin memory meanwhile, and that must not end the capture.
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                self.outputs = self.step(self.images)
        self.images.copy_(images)
        self.graph.replay()
        return {name: value.clone() for name, value in self.outputs.items()}
