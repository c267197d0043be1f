"""Slices with lesions to evaluate on: synthetic lesions in healthy slices (Table 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...common.errors import PhanesInputError
from ...common.fingerprint import fingerprint
from ...pipeline.cases import slice_files


@dataclass(frozen=True)
class LesionSet:
    """Slices with known lesions.

    Attributes:
        name: of the set, as the tables call it.
        seed: that drew its lesions; None for real ones.
        images: (N, 1, H, W) in [0, 1], anterior up.
        masks: (N, 1, H, W) boolean, True in the lesion.
        cases: N names, one a slice.
        subjects: N names; slices of one subject are resampled together.
        clean: (N, 1, H, W) the slices without lesions, where they are known.
        region: (N, 1, H, W) boolean, False where nothing was analysed; there every system's map counts as 0. None when
            all was analysed.
    """

    name: str
    seed: int | None
    images: Tensor
    masks: Tensor
    cases: list[str]
    subjects: list[str]
    clean: Tensor | None = None
    region: Tensor | None = None

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of all pixels, masks and names."""
        return fingerprint(self.images, self.masks, self.cases, self.subjects, self.clean, self.region)


class Benchmark(Protocol):
    """Sets of slices, made one at a time."""

    def tasks(self) -> list[tuple[str, int | None]]:
        """The (name, seed) of every set."""
        ...

    def load(self, name: str, seed: int | None) -> LesionSet:
        """One set; the same at every call."""
        ...

    def read_maps(self, folder: str | Path, name: str, seed: int | None) -> Tensor:
        """Another tool's maps of that set, (N, 1, H, W)."""
        ...


class SyntheticBenchmark:
    """Every kind of synthetic lesion, drawn anew for every seed, in the same healthy slices.

    Args:
        dataset_dir: folder with the sub-folders `train`, `val`, `test` of PNG slices.
        preprocessing: the bundle's own, `{"image": path} -> {"image": (1, H, W, 1) in [0, 1], ...}`.
        lesions: `EllipseLesions`, `StrokeLesions`.
        seeds: of the lesions.
        split: "test" for reported numbers, "val" to choose between models.
        keep: sets kept in memory (60 slices are 5 MB), so that the next system need not have them painted again.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        preprocessing: Callable[[dict[str, Any]], Mapping[str, Any]],
        lesions: Sequence[Any],
        seeds: Sequence[int] = range(10),
        split: str = "test",
        keep: int = 40,
    ) -> None:
        self.dataset_dir = dataset_dir
        self.preprocessing = preprocessing
        self.lesions = {lesion.name: lesion for lesion in lesions}
        self.seeds = [int(seed) for seed in seeds]
        self.split = split
        self._painted = lru_cache(maxsize=keep)(self._paint)

    def tasks(self) -> list[tuple[str, int | None]]:
        """The (name, seed) of every set."""
        return [(name, seed) for name in self.lesions for seed in self.seeds]

    def load(self, name: str, seed: int | None) -> LesionSet:
        """Paint the lesions of one kind and seed.

        Raises:
            PhanesInputError: there are no slices, or one cannot be read.
        """
        if seed is None:
            raise ValueError("synthetic lesions need a seed")
        return self._painted(name, seed)

    def _paint(self, name: str, seed: int) -> LesionSet:
        clean, subjects = self.healthy
        images, masks = self.lesions[name](clean, subjects, seed)
        return LesionSet(name, seed, images, masks, subjects, subjects, clean)

    def read_maps(self, folder: str | Path, name: str, seed: int | None) -> Tensor:
        """Refuse: other tools never saw these lesions.

        Raises:
            PhanesInputError: always.
        """
        raise PhanesInputError(
            f"Maps of other tools ('{folder}') can only be compared on real lesions: use evaluate_lesions.json."
        )

    @cached_property
    def healthy(self) -> tuple[Tensor, list[str]]:
        """The healthy slices, (N, 1, H, W) in [0, 1], and their subjects."""
        files = slice_files(self.dataset_dir, self.split)
        slices = [as_slice(self.preprocessing({"image": file["image"]})["image"]) for file in files]
        return torch.stack(slices), [file["subject"] for file in files]


def as_slice(image: Tensor) -> Tensor:
    """The first channel of (C, H, W, 1) or (C, H, W), as a plain float32 tensor (1, H, W)."""
    plain = torch.as_tensor(image).as_subclass(torch.Tensor)[:1]
    return plain.reshape(plain.shape[:3]).to(torch.float32)
