"""What every evaluated system offers: a name, an anomaly map and, where it has one, a pseudo-healthy reconstruction.

    AnomalySystem            anomaly_map(images), analyse(images)
      ReconstructionSystem   + reconstruct(images), compare(images, reconstruction)
    Trainable                + training_loss(images), healthy_error(images): trained by gradients (VAE, DAE, ...)
    Fittable                 + fit(batches): one pass over the healthy slices (z-score, PatchCore)

Slices are float32 (B, 1, H, W) in [0, 1], anterior up. Systems with `level` see slices of whole heads with their
height, (B, 2, H, W), see `heads.py`. Maps are (B, 1, H, W), >= 0; larger is more abnormal. Each image of a batch is
analysed on its own: a batch of eight equals eight batches of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...common.errors import PhanesInputError


class Analysis(NamedTuple):
    """One batch analysed: `anomaly_map` (B, 1, H, W), >= 0; `reconstruction` (B, 1, H, W) in [0, 1], or None."""

    anomaly_map: Tensor
    reconstruction: Tensor | None = None


class AnomalySystem(nn.Module, ABC):
    """A system that can stand in the table. Subclasses set `name` and write `anomaly_map`.

    Attributes:
        name: as the table prints it, with the backbone where there is a choice: "PatchCore (squeezenet)".
        reconstructs: whether `reconstruct` exists.
        needs_masks: whether the true lesion masks must be given (PHANES-GT alone); other systems ignore them.
        level: slices come with a second channel, the plane of their MNI z, mm.
        rebuilt: names of submodules that are not learnt here (ImageNet trunks, LPIPS). They are rebuilt from the
            config and left out of the saved weights.
    """

    name: str
    reconstructs: ClassVar[bool] = False
    needs_masks: ClassVar[bool] = False
    level: bool = False
    rebuilt: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, 1, H, W), >= 0; masks: (B, 1, H, W), 0 or 1, see `needs_masks`."""

    @torch.no_grad()
    def analyse(self, images: Tensor, masks: Tensor | None = None) -> Analysis:
        """Map and reconstruction in one pass; what the evaluation calls."""
        return Analysis(self.anomaly_map(images, masks))


class ReconstructionSystem(AnomalySystem):
    """A system whose map compares the image with its pseudo-healthy reconstruction.

    Args:
        comparison: (image, reconstruction) -> map, all (B, 1, H, W); see `maps.ResidualMap`.
    """

    reconstructs: ClassVar[bool] = True
    rebuilt: ClassVar[tuple[str, ...]] = ("comparison",)

    def __init__(self, comparison: nn.Module) -> None:
        super().__init__()
        self.comparison = comparison

    @abstractmethod
    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """The pseudo-healthy image: (B, 1, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1]."""

    def compare(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """The system's own map of a reconstruction it made: two (B, 1, H, W) -> (B, 1, H, W), >= 0."""
        return self.comparison(images, reconstruction)

    @torch.no_grad()
    def analyse(self, images: Tensor, masks: Tensor | None = None) -> Analysis:
        """Map and reconstruction in one pass, because a reconstruction can be costly (AnoDDPM)."""
        reconstruction = self.reconstruct(images, masks)
        return Analysis(self.compare(images[:, :1], reconstruction), reconstruction)

    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, 1, H, W), >= 0."""
        return self.analyse(images, masks).anomaly_map


class Trainable(ABC):
    """Mixin of systems trained by gradient descent."""

    @abstractmethod
    def training_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, all scalars; images: (B, 1, H, W) in [0, 1], healthy."""

    def healthy_error(self, images: Tensor) -> Tensor:
        """Error on healthy slices in evaluation mode, a scalar. The best checkpoint has the lowest."""
        return self.training_loss(images)[0]


@runtime_checkable
class Fittable(Protocol):
    """Fitted in one pass, without gradients."""

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from healthy slices: batches of (B, 1, H, W) in [0, 1]."""
        ...


def learnt_state(system: AnomalySystem) -> dict[str, Tensor]:
    """The system's state dict without the submodules that its config rebuilds."""
    skipped = tuple(f"{name}." for name in system.rebuilt)
    return {key: value for key, value in system.state_dict().items() if not key.startswith(skipped)}


def save_system(system: AnomalySystem, path: str | Path, half: bool = True) -> None:
    """Write what was learnt, as CPU tensors; floats in half precision unless `half` is False."""
    state = {key: value.detach().cpu() for key, value in learnt_state(system).items()}
    if half:
        state = {key: value.half() if value.dtype == torch.float32 else value for key, value in state.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    torch.save(state, partial)
    partial.replace(path)


def load_system(system: AnomalySystem, path: str | Path) -> AnomalySystem:
    """Fill a system, built from its config, with saved weights, and set it to evaluation mode.

    Raises:
        PhanesInputError: no such file, or weights of another system or size.
    """
    path = Path(path)
    if not path.is_file():
        raise PhanesInputError(f"No weights of {system.name} at '{path}': train it first or correct the path.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    wanted = learnt_state(system)
    if not isinstance(state, dict) or set(state) != set(wanted):
        raise PhanesInputError(f"'{path}' does not hold weights of {system.name}: give the file its training wrote.")
    try:
        system.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise PhanesInputError(
            f"'{path}' holds {system.name} at another size: choose the size it was trained at."
        ) from error
    return system.eval()
