"""Batch normalisation over the batches of all processes of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from ..common.processes import process_count


class SynchronizedNorm(nn.BatchNorm2d):
    """`BatchNorm2d` with the statistics of all processes' images together. All batches have the same shape.

    `torch.nn.SyncBatchNorm` does the same, but on GPUs alone; the tests of this project run on CPUs.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> same."""
        if not self.training or process_count() == 1:
            return super().forward(input)
        count = process_count() * input.numel() // input.shape[1]
        mean = all_reduce(input.sum(dim=(0, 2, 3), keepdim=True)) / count
        centred = input - mean
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3), keepdim=True)) / count
        with torch.no_grad():
            running_mean, running_var, batches = self.running_mean, self.running_var, self.num_batches_tracked
            running_mean.lerp_(mean.flatten(), self.momentum)  # type: ignore[union-attr, arg-type]
            unbiased = variance.flatten() * (count / (count - 1))
            running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr, arg-type]
            batches.add_(1)  # type: ignore[union-attr]
        scale = self.weight.view(1, -1, 1, 1) * (variance + self.eps).rsqrt()
        return centred * scale + self.bias.view(1, -1, 1, 1)


def synchronize_norms(network: nn.Module) -> None:
    """Make all batch normalisation of a network synchronise, in place. The optimisers keep their parameters."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedNorm
