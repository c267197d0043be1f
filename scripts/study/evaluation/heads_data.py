"""The sets of whole heads that are evaluated on: painted lesions, real lesions, healthy heads; and their registrations.

Every head lies on disk as a raw image, and a system reads it as it reads a user's. Painted heads are written once, so
that other tools can run on the very same files.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ...common.errors import PhanesInputError
from ...common.files import sha256_of_file
from ...common.fingerprint import fingerprint
from ...training.prepared import write_nifti
from .heads_painting import ANY_SIZE_ML, STROKE_SIZES_ML, LesionShape, brain_in_head, paint, read_shapes, recipes
from .heads_registrations import Registrations

logger = logging.getLogger(__name__)

SIZES = {"stroke": STROKE_SIZES_ML, "any": ANY_SIZE_ML}


@dataclass(frozen=True)
class HeadCase:
    """One head.

    Attributes:
        name: unique in its set.
        group: the set's name; for painted heads followed by the seed, `strokes-0`.
        image: the raw head.
        brain: (X, Y, Z) boolean, the template's brain in its voxels.
        truth: (X, Y, Z) boolean; None for a healthy head.
        voxel_mm3: volume of a voxel.
        size: range of size that was painted, "2-15 ml"; empty otherwise.
        age: years; NaN where unknown.
    """

    name: str
    group: str
    image: Path
    brain: NDArray[np.bool_] = field(repr=False)
    truth: NDArray[np.bool_] | None = field(repr=False)
    voxel_mm3: float
    size: str = ""
    age: float = float("nan")


class HeadSet(Protocol):
    """A set of heads.

    Attributes:
        name: in the tables.
        seeds: of the painted lesions; `[None]` for heads as they are.
        healthy: True when it has no lesions.
    """

    name: str
    seeds: Sequence[int | None]
    healthy: bool

    def cases(self, seed: int | None) -> Iterator[HeadCase]:
        """The heads, one after the other."""
        ...

    def checksum(self, seed: int | None) -> str:
        """Of all that the cases depend on."""
        ...


class HealthyHeads:
    """Healthy heads as they are.

    Args:
        name: of the set.
        folder: of `*.nii.gz`.
        registrations: shared by all sets.
        ages: CSV with the columns subject and age_years; None without.
    """

    healthy = True
    seeds: Sequence[int | None] = (None,)

    def __init__(
        self, name: str, folder: str | Path, registrations: Registrations, ages: str | Path | None = None
    ) -> None:
        self.name = name
        self.folder = Path(folder).expanduser()
        self.registrations = registrations
        self.ages_file = None if ages is None else Path(ages).expanduser()

    def cases(self, seed: int | None = None) -> Iterator[HeadCase]:
        """Sorted by name."""
        ages = {} if self.ages_file is None else _ages(self.ages_file)
        for file in heads_in(self.folder):
            name = stem(file)
            yield _case(name, self.name, file, self.registrations(file), None, age=ages.get(name, float("nan")))

    def checksum(self, seed: int | None = None) -> str:
        """Names, contents and ages of the heads."""
        ages = None if self.ages_file is None else sha256_of_file(self.ages_file)
        return fingerprint([(file.name, sha256_of_file(file)) for file in heads_in(self.folder)], ages)


class PaintedHeads:
    """Healthy heads with a painted lesion each, see `heads_painting`; the seeds share the heads.

    Args:
        name: of the set.
        folder: of healthy heads, `*.nii.gz`.
        shapes: folder of lesion masks in MNI space.
        part: see `read_shapes`.
        sizes: "stroke" for the three ranges of size in turn, "any" for one.
        seeds: how many, from 0.
        registrations: shared by all sets.
        output_dir: the painted heads go to `<output_dir>/<name>-<seed>/`, their truth to `<output_dir>/truth/`.
    """

    healthy = False

    def __init__(
        self,
        name: str,
        folder: str | Path,
        shapes: str | Path,
        registrations: Registrations,
        output_dir: str | Path,
        part: int | None = None,
        sizes: str = "stroke",
        seeds: int = 5,
    ) -> None:
        if sizes not in SIZES:
            raise PhanesInputError(f"sizes is '{sizes}': give {' or '.join(SIZES)}.")
        self.name = name
        self.folder = Path(folder).expanduser()
        self.shapes = Path(shapes).expanduser()
        self.part = part
        self.sizes = SIZES[sizes]
        self.seeds: Sequence[int | None] = list(range(seeds))
        self.registrations = registrations
        self.output_dir = Path(output_dir)
        self._read: list[LesionShape] = []

    def cases(self, seed: int | None) -> Iterator[HeadCase]:
        """Painted when first asked for; a head too coarse for its lesion is left out, with a warning."""
        files = heads_in(self.folder)
        self._read = self._read or read_shapes(self.shapes, self.part)
        for index, (file, recipe) in enumerate(
            zip(files, recipes(self._read, len(files), int(seed or 0), self.sizes), strict=True)
        ):
            registration = self.registrations(file)
            painted = self.output_dir / f"{self.name}-{seed}" / file.name
            truth = self.output_dir / "truth" / f"{self.name}-{seed}" / file.name
            if not (painted.exists() and truth.exists()):
                source = load(file)
                head = np.asarray(source.dataobj, dtype=np.float32)
                rng = np.random.default_rng([int(seed or 0), index])
                image, where = paint(head, np.asarray(source.affine), registration, recipe, rng)
                if not where.any():
                    logger.warning("'%s' vanishes in the voxels of '%s': left out.", recipe.shape.name, file)
                    continue
                _write(truth, where.astype(np.uint8), source)
                _write(painted, _as_stored(image, source), source)
            lesion = np.asarray(load(truth).dataobj) > 0
            size = "{:g}-{:g} ml".format(*self.sizes[recipe.size])
            yield _case(stem(file), f"{self.name}-{seed}", painted, registration, lesion, size)

    def checksum(self, seed: int | None) -> str:
        """Heads, shapes and settings."""
        files = [*heads_in(self.folder), *sorted(self.shapes.glob("*.nii.gz"))]
        return fingerprint([(file.name, sha256_of_file(file)) for file in files], [self.part, self.sizes, seed])


class LesionHeads:
    """Heads with real lesions and their expert masks.

    Args:
        name: of the set.
        folder: of images and masks.
        image_ending: of an image's file name; the part before it is the case's name.
        mask_ending: of its mask's file name.
        registrations: shared by all sets.
        split_file: CSV with the columns patient and split; None takes all cases.
        split: which of these.
    """

    healthy = False
    seeds: Sequence[int | None] = (None,)

    def __init__(
        self,
        name: str,
        folder: str | Path,
        image_ending: str,
        mask_ending: str,
        registrations: Registrations,
        split_file: str | Path | None = None,
        split: str = "val",
    ) -> None:
        self.name = name
        self.folder = Path(folder).expanduser()
        self.endings = image_ending, mask_ending
        self.registrations = registrations
        self.split_file = None if split_file is None else Path(split_file).expanduser()
        self.split = split

    def files(self) -> dict[str, tuple[Path, Path]]:
        """Image and mask by case.

        Raises:
            PhanesInputError: none there, none of that split, or an image without its mask.
        """
        found = {}
        chosen = None if self.split_file is None else _patients(self.split_file, self.split)
        for image in sorted(self.folder.glob(f"*{self.endings[0]}")):
            name = image.name.removesuffix(self.endings[0])
            mask = image.with_name(name + self.endings[1])
            if chosen is not None and name not in chosen:
                continue
            if not mask.exists():
                raise PhanesInputError(
                    f"'{image}' has no mask '{mask.name}' beside it: add it, or move the image away."
                )
            found[name] = image, mask
        if not found:
            raise PhanesInputError(
                f"No heads (*{self.endings[0]}) for '{self.name}' in '{self.folder}': correct the path."
            )
        return found

    def cases(self, seed: int | None = None) -> Iterator[HeadCase]:
        """Sorted by name.

        Raises:
            PhanesInputError: a mask on another grid than its image.
        """
        for name, (image, mask) in self.files().items():
            truth = np.asarray(load(mask).dataobj) > 0
            if truth.shape != load(image).shape:
                raise PhanesInputError(f"'{mask}' is not on the grid of '{image.name}': resample it.")
            yield _case(name, self.name, image, self.registrations(image), truth)

    def checksum(self, seed: int | None = None) -> str:
        """Names and contents."""
        return fingerprint([[sha256_of_file(file) for file in pair] for pair in self.files().values()])


def load(path: Path) -> nib.Nifti1Image:
    """A 3-D NIfTI image.

    Raises:
        PhanesInputError: it is none.
    """
    try:
        image: Any = nib.load(path)
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise PhanesInputError(f"'{path}' cannot be read as NIfTI ({error}): replace it.") from error
    if len(image.shape) != 3:
        raise PhanesInputError(f"'{path}' has {len(image.shape)} dimensions: give a 3-D volume.")
    return image


def heads_in(folder: Path) -> list[Path]:
    """The heads of a folder, sorted.

    Raises:
        PhanesInputError: none there.
    """
    files = sorted(folder.glob("*.nii.gz"))
    if not files:
        raise PhanesInputError(f"No heads (*.nii.gz) in '{folder}': correct the path.")
    return files


def stem(file: Path) -> str:
    """`IXI012.nii.gz` -> `IXI012`."""
    return file.name.removesuffix(".nii.gz")


def _case(
    name: str,
    group: str,
    image: Path,
    registration: NDArray,
    truth: NDArray[np.bool_] | None,
    size: str = "",
    age: float = float("nan"),
) -> HeadCase:
    head = load(image)
    affine = np.asarray(head.affine)
    brain = brain_in_head(registration, affine, head.shape)
    if not brain.any():
        raise PhanesInputError(f"'{image}' is not registered: the template's brain lies outside of it.")
    return HeadCase(name, group, image, brain, truth, float(abs(np.linalg.det(affine[:3, :3]))), size, age)


def _as_stored(values: NDArray, source: Any) -> NDArray:
    """Convert to the source's own number type, as a scanner would have written it."""
    kind = source.get_data_dtype()
    if not np.issubdtype(kind, np.integer) or source.dataobj.slope != 1 or source.dataobj.inter != 0:
        return values.astype(np.float32)
    limits = np.iinfo(kind)
    return np.clip(np.round(values), limits.min, limits.max).astype(kind)


def _write(path: Path, values: NDArray, like: nib.Nifti1Image) -> None:
    header = like.header.copy()
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    write_nifti(path, nib.Nifti1Image(values, like.affine, header))


def _ages(file: Path) -> dict[str, float]:
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["subject"]: float(row["age_years"] or "nan") for row in csv.DictReader(lines)}


def _patients(file: Path, split: str) -> set[str]:
    with file.open(newline="", encoding="utf-8") as lines:
        chosen = {row["patient"] for row in csv.DictReader(lines) if row["split"] == split}
    if not chosen:
        raise PhanesInputError(f"'{file}' has no patient of split '{split}': choose another.")
    return chosen
