"""Batch normalisation of two processes is that of one with both batches."""

from __future__ import annotations

import copy
from pathlib import Path

import ignite.distributed as idist
import torch
from torch import nn

from scripts.training.norms import SynchronizedNorm, synchronize_norms
from scripts.training.steps import descend


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    return made.double().train()


def step(trained: nn.Sequential, images: torch.Tensor) -> None:
    loss = trained(images).pow(3).mean()
    descend(loss, trained.parameters(), torch.optim.SGD(trained.parameters(), 0.5))


def on_one_of_two(rank: int, images: torch.Tensor, path: str) -> None:
    torch.set_num_threads(1)
    trained = network()
    synchronize_norms(trained)
    for _ in range(2):
        step(trained, images.chunk(2)[rank])
    if rank == 0:
        torch.save(trained.state_dict(), path)


def test_two_processes_train_as_one_with_both_batches(tmp_path: Path) -> None:
    images = torch.rand(6, 1, 8, 8, dtype=torch.float64) * torch.linspace(0.1, 2.0, 6).view(-1, 1, 1, 1)
    whole = network()
    for _ in range(2):
        step(whole, images)
    path = str(tmp_path / "rank0.pt")
    idist.spawn("gloo", on_one_of_two, (images, path), nproc_per_node=2, start_method="fork")
    torch.testing.assert_close(torch.load(path, weights_only=True), whole.state_dict(), rtol=1e-9, atol=1e-12)


def test_a_process_by_itself_and_evaluation_are_as_ever() -> None:
    plain = network()
    synchronized = copy.deepcopy(plain)
    synchronize_norms(synchronized)
    assert isinstance(synchronized[1], SynchronizedNorm)
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    for mode in (True, False):
        assert torch.equal(plain.train(mode)(images), synchronized.train(mode)(images))
    torch.testing.assert_close(synchronized.state_dict(), plain.state_dict(), rtol=0, atol=0)
