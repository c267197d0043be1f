"""Distilling LPIPS' ImageNet trunk into a small network of our own: pairs of images, loss and training step.

The student sees the same two images as its teacher. It learns the teacher's distance map, which is the sum over the
taps. Everything between the slices and the optimiser runs on the device without waiting for it. So the step can be
captured as a CUDA graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..method.equalize import equalize_adapthist
from ..method.networks.perceptual import SpatialLPIPS
from . import degrade
from .principal_components import PrincipalComponents

Lesson = tuple[Tensor, Tensor, Tensor]  # two batches of images, the teacher's distance maps
# Kinds of changes; a kind named twice is used twice as often.
KINDS = ("pca", "pca", "pca_moved", "blur", "blend", "paint", "patch", "fill", "noise", "contrast", "move", "strip")
SECOND = 0.3  # share of pairs with a second, slight change
# Share of slices that carry painted lesions before they are changed. In the method, too, one image has a lesion and the
# other, its reconstruction, has lost it.
LESIONED = 0.4
# Pairs and the teacher's maps cost more than a step of a small student. Where steps are not captured, only one batch in
# REUSE is new; the others are drawn from the MEMORY newest ones.
REUSE, MEMORY = 4, 200


def stack_slices(dataset: Iterable[Mapping[str, Tensor]], device: torch.device | str) -> Tensor:
    """All images of a data set as one (N, 1, H, W) tensor on the device."""
    return torch.stack([torch.as_tensor(item["image"]) for item in dataset]).to(device, torch.float32)


def with_stripped(slices: Tensor, brain_mask: Tensor, percentile: float = 98.0) -> Tensor:
    """Slices, then the same without skull: (N, 1, H, W) -> (2N, 1, H, W).

    The slices without skull are divided by their percentile again.
    """
    stripped = slices * brain_mask.to(slices)
    scale = torch.quantile(stripped.flatten(1), percentile / 100, dim=1).clamp(min=1e-3).view(-1, 1, 1, 1)
    return torch.cat([slices, (stripped / scale).clamp(0, 1)])


@torch.no_grad()
def initialize(student: SpatialLPIPS, teacher: SpatialLPIPS, slices: Tensor) -> SpatialLPIPS:
    """Make a student trainable. It gets He's initialisation; each tap's mean distance is set to the teacher's.

    Args:
        student: with any weights.
        teacher: on the same device, with as many taps.
        slices: (N, 1, H, W), two or more; neighbours in the batch are the pairs.
    """
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def tap_means(model: SpatialLPIPS) -> list[Tensor]:
        return [tap.mean() for tap in model.tap_maps(model.features(slices[1:]), model.features(slices[:-1]))]

    for head, own, target in zip(student.heads, tap_means(student), tap_means(teacher), strict=True):
        for parameter in head.parameters():
            parameter.mul_(target / own)
    return student.requires_grad_(True)


class SliceBatches:
    """Batches of randomly drawn slices that already lie on the device; one epoch is `steps` batches."""

    def __init__(self, slices: Tensor, batch_size: int, steps: int) -> None:
        self.slices, self.batch_size, self.steps = slices, batch_size, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.steps):
            index = torch.randint(len(self.slices), (self.batch_size,), device=self.slices.device)
            yield {"image": self.slices[index]}


class PairMaker:
    """Training pairs: slices, augmented, and changed versions of them.

    The batch is split into equal parts, one for each kind of change. Some pairs get a second, slight change. In every
    other pair, both images are equalised, as in eq. (3).

    Args:
        slices: (N, 1, H, W) training slices, for blends and patches.
        components: principal components of the same slices.
        brain_mask: (H, W), the template's brain.
        kinds: some of `KINDS`.
        second: probability of the second change.
        lesioned: share of slices with a painted lesion.
    """

    def __init__(
        self,
        slices: Tensor,
        components: PrincipalComponents,
        brain_mask: Tensor,
        kinds: Sequence[str] = KINDS,
        second: float = SECOND,
        lesioned: float = LESIONED,
    ) -> None:
        self.slices, self.components, self.second, self.lesioned = slices, components, second, lesioned
        self.brain_mask = brain_mask.to(slices)
        self.kinds = kinds

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) slices -> two batches of the same shape in [0, 1]."""
        images = degrade.flip(images)
        # Half of them stay where they were: components reconstruct registered slices best, as the autoencoder does.
        images = torch.where(degrade.coin(images, 0.5), degrade.warp(images, 10, 0.1, 0.1), images)
        images = torch.where(degrade.coin(images, 0.3), degrade.contrast(images), images)
        images = torch.where(degrade.coin(images, self.lesioned), degrade.paint(images), images)
        parts = images.tensor_split(len(self.kinds))
        changed = torch.cat([self._change(kind, part) for kind, part in zip(self.kinds, parts, strict=True)])
        for slight in (degrade.noise, degrade.contrast, lambda x: degrade.warp(x, 2, 0.01, 0.02, 0.003)):
            changed = torch.where(degrade.coin(images, self.second / 3), slight(changed), changed)
        both = torch.stack([images, changed])
        both[:, ::2] = equalize_adapthist(both[:, ::2].flatten(0, 1)).view_as(both[:, ::2])
        return both[0], both[1]

    def _change(self, kind: str, images: Tensor) -> Tensor:
        """One kind of change of a part of the batch."""
        if kind == "pca":
            return self._project(images)
        if kind == "pca_moved":
            return self._project(degrade.warp(images, 2, 0.01, 0.02, 0.003))
        if kind == "blend":
            return torch.lerp(images, self._others(images), degrade.uniform(images, 0.05, 1.0))
        if kind == "patch":
            return degrade.patch(images, self._others(images))
        if kind == "fill":
            smooth = torch.where(degrade.coin(images, 0.5), self._project(images), degrade.blur(images, 2.0, 10.0))
            return degrade.patch(images, smooth)
        if kind == "move":
            return degrade.warp(images, 4, 0.03, 0.05, 0.01)
        if kind == "strip":
            return images * (1 - degrade.uniform(images, 0.3, 1.0) * (1 - self.brain_mask))
        return {"blur": degrade.blur, "paint": degrade.paint, "noise": degrade.noise, "contrast": degrade.contrast}[
            kind
        ](images)

    def _project(self, images: Tensor) -> Tensor:
        return self.components.reconstruct(images, degrade.log_uniform(images, 4, len(self.components)))

    def _others(self, images: Tensor) -> Tensor:
        """Other subjects' slices, augmented likewise; sometimes the images themselves, moved."""
        index = torch.randint(len(self.slices), (len(images),), device=images.device)
        others = degrade.flip(degrade.warp(self.slices[index], 10, 0.1, 0.1))
        return torch.where(degrade.coin(images, 0.3), degrade.warp(images, 30, 0.2, 0.2), others)


class DistillationLoss:
    """Error of the student's maps. Large and small distances count alike.

    The first term is the squared error relative to the teacher's squared map, averaged over the batch; for a linear fit
    this is 1 - r^2. The second term is the mean absolute difference of the logarithms.

    Args:
        logarithm: weight of the second term.
        floor: distance below which differences no longer matter.
    """

    def __init__(self, logarithm: float = 0.1, floor: float = 0.002) -> None:
        self.logarithm, self.floor = logarithm, floor

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Two maps (B, 1, H, W) -> scalar."""
        error = (student - teacher).square().mean(dim=(1, 2, 3))
        relative = error / (teacher.square().mean(dim=(1, 2, 3)) + self.floor**2)
        ratio = ((student + self.floor) / (teacher + self.floor)).log().abs()
        return relative.mean() + self.logarithm * ratio.mean()


class DistillationStep:
    """One optimiser step of the student on one batch of slices.

    Args:
        student: trainable.
        teacher: frozen.
        pairs: slices -> two batches of images.
        optimizer: of the student.
        loss: between their maps.
        captured: the step is replayed as a CUDA graph. A graph cannot choose among batches, so every batch is new.
    """

    def __init__(
        self,
        student: SpatialLPIPS,
        teacher: SpatialLPIPS,
        pairs: PairMaker,
        optimizer: Optimizer,
        loss: DistillationLoss,
        captured: bool = False,
    ) -> None:
        self.student, self.teacher, self.pairs = student, teacher, pairs
        self.optimizer, self.loss = optimizer, loss
        self.reuse, self.steps = 1 if captured else REUSE, 0
        self.memory: deque[Lesson] = deque(maxlen=MEMORY)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 1, H, W) in [0, 1] -> detached scalar `loss`."""
        a, b, target = self._lesson(images)
        loss = self.loss(self.student(a, b), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def _lesson(self, images: Tensor) -> Lesson:
        """A new batch of pairs with the teacher's maps, or one from the memory."""
        self.steps += 1
        if self.steps % self.reuse == 0 or not self.memory:
            a, b = self.pairs(images)
            lesson = a, b, self.teacher(a, b)
            if self.reuse > 1:
                self.memory.append(lesson)
            return lesson
        return self.memory[int(torch.randint(len(self.memory), ()))]
