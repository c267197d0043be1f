"""Too little memory on the device: fewer slices at a time, then the CPU, and it is said."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from scripts.pipeline.inference import HeadInferer


class Hungry(nn.Module):
    """Doubles its input; its memory suffices from some chunk on, and where no other than the CPU's is asked for."""

    tried: tuple[int, ...] = ()

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.chunk, self.most, self.error, self.copied = 32, most, error, False

    def __deepcopy__(self, memo: dict) -> Hungry:
        other = Hungry(32, self.error)
        other.copied = True
        return other

    def forward(self, x: Tensor) -> Tensor:
        Hungry.tried += (self.chunk,)
        if self.chunk > self.most:
            raise self.error
        return 2 * x + self.copied


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
MPS = RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")


@pytest.mark.parametrize("error", [CUDA, MPS], ids=["cuda", "mps"])
@pytest.mark.parametrize(
    ("most", "tried", "said"),
    [
        (32, (32,), ""),
        (8, (32, 8), "8 slices at a time"),
        (1, (32, 8, 1), "1 slices at a time"),
        (0, (32, 8, 1, 32), "analysed on the CPU"),
    ],
)
def test_the_head_is_analysed_all_the_same_and_the_fallback_is_said(
    error: Exception, most: int, tried: tuple[int, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    network, inferer, Hungry.tried = Hungry(most, error), HeadInferer(), ()
    x = torch.rand(1, 2, 4, 4, 3)
    with caplog.at_level(logging.WARNING):
        result = inferer(x, network)
    assert torch.equal(result, 2 * x + (most == 0))
    assert Hungry.tried == tried
    assert network.chunk == 32  # the next head is tried as usual
    assert inferer.fallback.endswith(said)
    assert bool(caplog.text) == bool(said)


def test_a_later_head_has_no_warning_of_an_earlier_one() -> None:
    inferer, x = HeadInferer(), torch.rand(1, 2, 4, 4, 3)
    inferer(x, Hungry(1, CUDA))
    inferer(x, Hungry(32, CUDA))
    assert inferer.fallback == ""


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        HeadInferer()(torch.rand(1, 2, 4, 4, 3), Hungry(8, RuntimeError("shapes do not fit")))
