"""Images with expert masks (Table 2), as in ATLAS v2.0, as plain pairs or from a CSV; and other tools' maps of them."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor
from tqdm import tqdm

from ...common.errors import PhanesInputError
from ...pipeline.cases import case_stem
from ...pipeline.inference import sentence_of
from ...space.resampling import into_mni_of, onto_levels
from .benchmarks import LesionSet

logger = logging.getLogger(__name__)

# Endings of an image and of its mask: ATLAS v2.0, then plain pairs. The first fitting pair counts.
PAIRS = (
    ("_T1w.nii.gz", "_label-L_desc-T1lesion_mask.nii.gz"),
    (".nii.gz", "_mask.nii.gz"),
    (".nii", "_mask.nii"),
    (".png", "_mask.png"),
)


class Pair(NamedTuple):
    """An image, its mask, the case's name and its subject's."""

    image: Path
    mask: Path
    case: str
    subject: str


def find_pairs(source: str | Path, endings: Sequence[Sequence[str]] = PAIRS) -> list[Pair]:
    """Images that have a lesion mask.

    Args:
        source: a folder or a CSV. A folder is searched at any depth for pairs of files that differ in their endings
            only. A CSV has the columns `image`, `mask` and, if wanted, `case` and `subject`; its paths start at its
            own folder.
        endings: pairs (of the image, of the mask), tried in order.

    Returns:
        The pairs, sorted by path; those of a CSV in its order. Without a column, the subject is the name's BIDS entity
        `sub-...`, else the case itself.

    Raises:
        PhanesInputError: nothing there, a file named in the CSV is missing, or two cases have one name.
    """
    root = Path(source).expanduser()
    if root.suffix.lower() == ".csv":
        pairs = _pairs_of_csv(root)
    elif root.is_dir():
        pairs = _pairs_of_folder(root, endings)
    else:
        raise PhanesInputError(
            f"'{source}' is neither a folder nor a CSV: give the images and their masks with dataset_dir."
        )
    if not pairs:
        wanted = " or ".join(f"*{image} with *{mask}" for image, mask in endings)
        raise PhanesInputError(
            f"No image with a lesion mask in '{source}': it should hold {wanted}, or be a CSV of pairs."
        )
    names = [pair.case for pair in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PhanesInputError(
            f"Two cases in '{source}' are called '{twice[0]}': name them apart in a CSV (column case)."
        )
    return pairs


class LesionBenchmark:
    """Slices of images with expert masks, on the network's grid. Slices with a lesion are kept, as in the paper.

    The image goes through the bundle's own preprocessing. The mask follows the image's geometry, so that both are cut
    alike. After bilinear resizing a mask pixel above `lesion_cut` is lesion. A slice that was cut to its brain's
    outline is analysed within the outline only. Lesions outside of it count as missed.

    Args:
        source: see `find_pairs`.
        preprocessing: the bundle's list of transforms, from loading to resizing, on the key `image`.
        name: of the set, in the tables; None takes the source's own name.
        endings: see `find_pairs`.
        lesion_cut: 0 as published (any touched pixel is lesion); 0.5 keeps the lesion's area.
        min_pixels: slices with a smaller lesion are left out. Published: more than one pixel.
    """

    def __init__(
        self,
        source: str | Path,
        preprocessing: Sequence[Callable],
        name: str | None = None,
        endings: Sequence[Sequence[str]] = PAIRS,
        lesion_cut: float = 0.0,
        min_pixels: int = 2,
    ) -> None:
        self.source = source
        self.name = name or Path(source).stem
        self.endings = endings
        self.lesion_cut = lesion_cut
        self.min_pixels = min_pixels
        first = [type(step).__name__ for step in preprocessing].index("AlignHeadd")
        self.loading = Compose(preprocessing[:first])
        self.preprocessing = Compose(preprocessing[first:])

    def tasks(self) -> list[tuple[str, int | None]]:
        """The one set: real lesions have no seed."""
        return [(self.name, None)]

    def load(self, name: str, seed: int | None) -> LesionSet:
        """The set of all slices with a lesion.

        Raises:
            PhanesInputError: no pair is found, one cannot be read or does not fit, or no slice shows a lesion.
        """
        return self._set

    def read_maps(self, folder: str | Path, name: str, seed: int | None) -> Tensor:
        """Another tool's maps of the same slices, (N, 1, H, W), higher means more abnormal.

        A case's file is `<case>.npy`, `<case>.nii.gz` or `<case>_anomaly.nii.gz`. The last may lie in a folder
        `<case>/`, as this bundle's inference writes it. NIfTI maps lie on the image's own grid. An array is (H, W),
        rows from anterior to posterior, on the network's grid or on that of a one-slice image.

        Raises:
            PhanesInputError: a case has no map, or one that does not fit.
        """
        found: dict[str, Tensor] = {}
        for pair in tqdm(self._pairs, desc=f"maps of {Path(folder).name}", unit="case"):
            slices = self._read_map(Path(folder), pair)
            found |= {name: slices[..., k] for k, name in enumerate(self._slice_names(pair.case, slices.shape[-1]))}
        return torch.stack([found[case] for case in self._set.cases])

    @cached_property
    def _pairs(self) -> list[Pair]:
        return find_pairs(self.source, self.endings)

    @cached_property
    def _set(self) -> LesionSet:
        images, masks, regions, cases, subjects = [], [], [], [], []
        left_out = 0
        for pair in tqdm(self._pairs, desc=f"reading {self.name}", unit="case"):
            image, mask, region = self._read(pair)
            for k, name in enumerate(self._slice_names(pair.case, image.shape[-1])):
                lesion = mask[..., k] > self.lesion_cut
                if lesion.sum() < self.min_pixels:
                    left_out += 1
                    continue
                images.append(image[..., k])
                masks.append(lesion)
                regions.append(region[..., k])
                cases.append(name)
                subjects.append(pair.subject)
        if not images:
            raise PhanesInputError(
                f"No slice of '{self.source}' at the analysed level shows a lesion: choose other slices."
            )
        if left_out:
            logger.info("%s: %d slices without a lesion left out", self.name, left_out)
        region = torch.stack(regions)
        return LesionSet(
            self.name,
            None,
            torch.stack(images),
            torch.stack(masks),
            cases,
            subjects,
            region=None if region.all() else region,
        )

    @staticmethod
    def _slice_names(case: str, slices: int) -> list[str]:
        return [case] if slices == 1 else [f"{case}_{k}" for k in range(slices)]

    def _read(self, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """Image in [0, 1], interpolated mask and analysed region, (1, H, W, D) each on the network's grid."""
        image = self._load(pair.image)
        mask = self._load(pair.mask)
        _check_same_grid(image, mask, pair.image, pair.mask)
        prepared = _run(self.preprocessing, {"image": image})
        lesion = _onto_levels((mask.as_tensor() > 0).float(), image, prepared["image"])
        return _plain(prepared["image"])[:1], lesion, prepared["analysed"].as_tensor()

    def _read_map(self, folder: Path, pair: Pair) -> Tensor:
        """A case's map, (1, H, W, D) on the network's grid."""
        names = [f"{pair.case}.npy", f"{pair.case}.nii.gz", f"{pair.case}_anomaly.nii.gz"]
        file = next((folder / n for n in [*names, f"{pair.case}/{names[2]}"] if (folder / n).is_file()), None)
        if file is None:
            raise PhanesInputError(
                f"No map of '{pair.case}' in '{folder}': it should be there as {' or '.join(names)}."
            )
        image = self._load(pair.image)
        if file.suffix == ".npy":
            array = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))[None, ..., None]
            if array.shape[1:] == (*self._set.images.shape[2:], 1):
                return array
            if array.shape != image.shape:
                raise PhanesInputError(
                    f"'{file}' has the shape {tuple(array.shape[1:-1])}: give {tuple(image.shape[1:3])}."
                )
            return _onto_levels(array, image, self._placed(image))
        anomaly = self._load(file)
        _check_same_grid(image, anomaly, pair.image, file)
        return _onto_levels(anomaly.as_tensor(), image, self._placed(image))

    def _load(self, path: Path) -> MetaTensor:
        return _run(self.loading, {"image": str(path)})["image"]

    def _placed(self, image: MetaTensor) -> MetaTensor:
        return _run(self.preprocessing, {"image": image})["image"]


def _onto_levels(values: Tensor, image: MetaTensor, placed: MetaTensor) -> Tensor:
    """Resample values (1, H, W, D) from the grid of an oriented image onto the levels of the placed image."""
    heights = [float(height) for height in placed.meta["heights"]]
    return torch.from_numpy(onto_levels(values[0].numpy(), into_mni_of(placed, image.affine.numpy()), heights))[None]


def _pairs_of_csv(path: Path) -> list[Pair]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise PhanesInputError(f"'{path}' cannot be read ({error.strerror}): check the path.") from error
    pairs = []
    for number, row in enumerate(rows, start=2):
        if not row.get("image") or not row.get("mask"):
            raise PhanesInputError(f"'{path}', line {number}: give both columns, image and mask.")
        image, mask = path.parent / row["image"], path.parent / row["mask"]
        missing = [str(named) for named in (image, mask) if not named.exists()]
        if missing:
            raise PhanesInputError(f"'{path}', line {number}: '{missing[0]}' does not exist: correct the path.")
        case = row.get("case") or case_stem(image)
        pairs.append(Pair(image, mask, case, row.get("subject") or _subject(case)))
    return pairs


def _pairs_of_folder(root: Path, endings: Sequence[Sequence[str]]) -> list[Pair]:
    files = {path for path in root.rglob("*") if path.is_file()}
    pairs: dict[Path, Pair] = {}
    for of_image, of_mask in endings:
        for image in files:
            mask = image.with_name(image.name[: -len(of_image)] + of_mask)
            if image.name.endswith(of_image) and mask in files and mask != image:
                pairs.setdefault(image, Pair(image, mask, case_stem(image), _subject(case_stem(image))))
    return [pairs[image] for image in sorted(pairs)]


def _subject(case: str) -> str:
    entity = re.match(r"sub-[A-Za-z0-9]+", case)
    return entity.group() if entity else case


def _check_same_grid(image: MetaTensor, other: MetaTensor, image_path: Path, other_path: Path) -> None:
    if image.shape != other.shape or not np.allclose(image.affine, other.affine, atol=0.05):
        raise PhanesInputError(
            f"'{other_path}' ({tuple(other.shape[1:])} voxels) does not lie on the grid of '{image_path}' "
            f"({tuple(image.shape[1:])}): resample it to the image."
        )


def _run(transform: Callable, item: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a transform. The sentence behind MONAI's own error replaces that error."""
    try:
        return transform(dict(item))
    except RuntimeError as error:
        raise PhanesInputError(sentence_of(error)) from error


def _plain(image: MetaTensor) -> Tensor:
    return image.as_tensor().to(torch.float32)
