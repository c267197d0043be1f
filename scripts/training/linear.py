"""Fit the closed-form network: means and principal components of every axial level.

A level learns from its own deviations and from those of its two neighbours, each from its own level's mean. With 123
heads these are 369 deviations for 30 components.

`LevelMoments` holds what the fit needs. The moments of two sets of heads add up to those of their union, so heads are
read one block after the other. Do not send moments to others: the deviations of up to 133 heads are kept as they are,
and reveal the heads.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..common.checkpoints import save_state
from ..common.cli import fail
from ..common.errors import PhanesInputError
from ..method.networks.linear import BRIGHTNESS, LinearAutoencoder
from ..space.levels import LEVELS_MM, brain_of_levels
from .prepared import prepared_files, read_prepared

REACH = 1  # neighbouring levels on either side that a level learns from
RANK = 400  # most deviations kept for a level: exact up to 133 heads; beyond, the smallest variances are dropped
BLOCK = 64  # heads whose deviations are taken at once; bounds the memory


@dataclass(frozen=True)
class LevelMoments:
    """Number, mean and scatter of a set of registered heads.

    Attributes:
        heads: number of heads.
        mean: (H, W, D) the mean head, in units of the median brightness.
        brain: (H, W, D) bool, the template's brain; only its pixels have a scatter.
        factors: a matrix F (R, P) for each level, where R is at most RANK and P is the number of the brain's pixels.
            F' F is the scatter: the outer products of the deviations from the mean, summed over the heads and over the
            level and its neighbours.
    """

    heads: int
    mean: Tensor
    brain: Tensor
    factors: tuple[Tensor, ...]

    def __add__(self, other: LevelMoments) -> LevelMoments:
        """The moments of both sets together."""
        heads = self.heads + other.heads
        apart = self.mean - other.mean
        weight = (self.heads * other.heads / heads) ** 0.5
        factors = [
            _compressed(torch.cat([ours, theirs, weight * between[0]]))
            for ours, theirs, between in zip(
                self.factors, other.factors, _level_pixels(apart[None], self.brain), strict=True
            )
        ]
        return LevelMoments(heads, self.mean - apart * (other.heads / heads), self.brain, tuple(factors))


def level_moments(heads: Tensor, brain: Tensor) -> LevelMoments:
    """The moments of some heads.

    Args:
        heads: (N, H, W, D) registered heads in [0, 1], where 0.5 is the head's median brightness.
        brain: (H, W, D), > 0 in the template's brain.
    """
    brain = brain > 0
    images = BRIGHTNESS * heads.float()
    mean = images.mean(dim=0)
    factors = [_compressed(rows.flatten(0, 1)) for rows in _level_pixels(images - mean, brain)]
    return LevelMoments(len(heads), mean, brain, tuple(factors))


def _level_pixels(heads: Tensor, brain: Tensor) -> Iterable[Tensor]:
    """For each level, the heads' pixels in its brain, at this level and its neighbours: (N, H, W, D) -> (N, 3, P)."""
    levels = brain.shape[2]
    for level in range(levels):
        near = heads[..., max(level - REACH, 0) : level + REACH + 1]
        yield near[:, brain[..., level]].transpose(1, 2)


def _compressed(rows: Tensor) -> Tensor:
    """At most RANK rows with the same sum of outer products; nearly the same where there were more."""
    if len(rows) <= RANK:
        return rows
    _, directions = torch.linalg.eigh((rows @ rows.T).double())
    return directions[:, -RANK:].T.to(rows.dtype) @ rows


def fit_linear(network: LinearAutoencoder, moments: LevelMoments) -> None:
    """Fill the network's buffers with mean and components of each level.

    Components are scaled by their standard deviations. Where there are fewer deviations than components, as with few
    heads, the other components are zero.

    Raises:
        PhanesInputError: fewer than two heads.
    """
    if moments.heads < 2:
        raise PhanesInputError(f"{moments.heads} head(s) are too few for the linear network: give at least two.")
    wanted = network.components.shape[1]
    for level, factor in enumerate(moments.factors):
        start = int(network.starts[level])
        at = slice(start, start + factor.shape[1])
        near = min(level + REACH, len(moments.factors) - 1) - max(level - REACH, 0) + 1
        scatter, directions = torch.linalg.eigh((factor @ factor.T).double())  # rising
        kept = min(wanted, len(scatter), factor.shape[1])
        components = directions[:, -kept:].flip(1).T.to(factor.dtype) @ factor / (moments.heads * near) ** 0.5
        network.mean[at] = moments.mean[..., level][moments.brain[..., level]].to(network.mean.dtype)
        network.components[at] = 0
        network.components[at, :kept] = components.T.to(network.components.dtype)
        network.variances[level] = 0
        network.variances[level, :kept] = (scatter.flip(0)[:kept] / (moments.heads * near)).to(torch.float32)


def train_linear(network: LinearAutoencoder, heads: Iterable[Tensor], brain: Tensor) -> None:
    """Fit the network to heads, read one after the other.

    Args:
        network: its buffers are filled.
        heads: (H, W, D) each, in [0, 1], where 0.5 is the head's median brightness.
        brain: (H, W, D), > 0 in the template's brain.

    Raises:
        PhanesInputError: fewer than two heads.
    """
    moments: LevelMoments | None = None
    block: list[Tensor] = []

    def take(block: list[Tensor], moments: LevelMoments | None) -> LevelMoments:
        new = level_moments(torch.stack(block), brain)
        return new if moments is None else moments + new

    for head in heads:
        block.append(head)
        if len(block) == BLOCK:
            moments, block = take(block, moments), []
    if block:
        moments = take(block, moments)
    if moments is None:
        raise PhanesInputError("There are no heads to fit the linear network to: give at least two.")
    fit_linear(network, moments)


class LinearTrainer:
    """Fits the linear network in one pass over the prepared heads, and writes its file. `train_linear.json` runs it.

    Args:
        dataset_dir: folder that `prepare` wrote; the heads of its `train` are read, one after the other.
        output_dir: gets `model.pt`; made when missing.
        levels_mm: MNI z of the levels to learn, evenly spaced, rising; None for all.
        max_epochs: must be None. MONAI's federated client and MONAI Label give a number, for rounds of training that
            this network does not have.

    Raises:
        PhanesInputError: `max_epochs` was given.
    """

    def __init__(
        self,
        dataset_dir: str,
        output_dir: str,
        levels_mm: Sequence[float] | None = None,
        max_epochs: int | None = None,
    ) -> None:
        if max_epochs is not None:
            raise PhanesInputError(
                "The linear network is fitted in one pass, without epochs, and not by several sites: run "
                "train_linear.json where the heads are."
            )
        self.folder = Path(dataset_dir) / "train"
        self.out = Path(output_dir) / "model.pt"
        self.heights = LEVELS_MM if levels_mm is None else levels_mm

    def run(self) -> None:
        """Fit, write, and say what was done.

        Raises:
            SystemExit: on the command line, with one sentence: there are too few heads, or a file is not a head.
            PhanesInputError: the same, elsewhere.
        """
        started = time.monotonic()
        brain = brain_of_levels(self.heights)
        network = LinearAutoencoder(brain, self.heights)
        try:
            files = prepared_files(self.folder)
            heads = (torch.from_numpy(read_prepared(file, self.heights) / BRIGHTNESS).clamp(max=1) for file in files)
            train_linear(network, heads, torch.from_numpy(brain.copy()))
        except PhanesInputError as error:
            fail(str(error))
        save_state(network.state_dict(), self.out)
        print(f"{len(files)} heads in {time.monotonic() - started:.0f} s: {self.out}")
