"""Count how the input checks judge real T1w heads, and images that are no T1w heads.

The latter are simulated from real heads, because no others are at hand. The registration or the check for a
segmentation refuses a case. The guard, or a low similarity to the template, gives a warning.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Orientationd
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from ..common.errors import PhanesInputError
from ..common.metadata import ras_affine
from ..pipeline.guard import GuardLevelsd
from ..pipeline.inference import sentence_of
from ..pipeline.readers import CaseLoadImaged
from ..pipeline.transforms import LevelsOfHeadd, NormalizeHeadd
from ..space.alignment import AlignHeadd
from ..space.resampling import into_mni_of
from ..space.template import BRAIN_CUT, read_template
from .evaluation.tables import show

WRONG_OF = 5  # heads of which wrong images are made
PURE_WHITE = 210  # the template's brightness in white matter

# Brightness of air, fluid, grey matter, white matter and fat: `T1W` in a T1w image, `CURVES` in other images.
T1W = (0.0, 0.3, 0.62, 0.92, 1.3)
CURVES = {
    "T2w": (1.1, 1.0, 0.55, 0.36, 0.4),
    "FLAIR": (0.05, 0.12, 0.75, 0.6, 0.7),
    "proton density": (0.95, 0.95, 0.9, 0.72, 0.8),
    "T1 times": (4.2, 3.6, 1.35, 0.85, 0.5),
    "CT": (1.008, 1.01, 1.038, 1.03, 1.032),
}
Maker = Callable[[NDArray, NDArray, np.random.Generator], NDArray]


def limb(values: NDArray, brain: NDArray, rng: np.random.Generator) -> NDArray:
    """Muscle and two bones in a ring of fat, along the third axis."""
    x, y = (np.linspace(-1, 1, n) for n in values.shape[:2])
    radius, one, two = (np.hypot(x[:, None] - a, y[None] - b) for a, b in ((0, 0), (0.15, 0.2), (-0.25, -0.1)))
    section = np.select([one < 0.15, two < 0.1, radius < 0.55, radius < 0.7], [1.2, 1.1, 0.5, 1.3], 0.0)
    return section[..., None] * np.linspace(1.0, 0.8, values.shape[2]) + rng.normal(0, 0.03, values.shape)


def contrast(name: str) -> Maker:
    """A maker that gives the brain the brightness of another contrast, `CURVES[name]`."""
    return lambda values, brain, rng: (
        np.where(brain, np.interp(values, T1W, CURVES[name]), 0.6 * values) + rng.normal(0, 0.01, values.shape)
    )


WRONG: dict[str, Maker] = {name: contrast(name) for name in CURVES} | {
    "segmentation": lambda values, brain, rng: np.where(brain, np.digitize(values, (0.25, 0.5, 0.78)), 0),
    "map of white matter": lambda values, brain, rng: brain * np.clip((values - 0.65) / 0.2, 0, 1),
    "noise": lambda values, brain, rng: rng.integers(0, 1000, values.shape),
    "other organ": limb,
    "upside down": lambda values, brain, rng: values[..., ::-1, ::-1],
}


def verdict(case: dict[str, Any]) -> tuple[str, str]:
    """The verdict on a case, "refused", "warned" or "passed", and its reason.

    Args:
        case: `image`, a MetaTensor (1, X, Y, Z) as it was read.
    """
    steps: list = [Orientationd("image", axcodes="PRS", labels=None), AlignHeadd("image"), LevelsOfHeadd("image")]
    try:
        data = Compose([*steps, NormalizeHeadd("image"), GuardLevelsd()])(case)
    except (RuntimeError, PhanesInputError) as error:
        return "refused", sentence_of(error)
    said = str(data["image"].meta.get("warnings", ""))
    doubtful = data["guard"] != "ok" or "similarity to the template" in said
    return ("warned" if doubtful else "passed"), said


def wrong_images(path: Path) -> Iterator[tuple[str, MetaTensor]]:
    """Simulate images that are no T1w head from one that is.

    Yields the kind and the image, (1, X, Y, Z), on the head's own voxels in RAS orientation.

    Args:
        path: a whole T1w head.

    Raises:
        RuntimeError: it cannot be read or registered.
    """
    steps = [CaseLoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None)]
    scan = Compose([*steps, AlignHeadd("image")])({"image": str(path)})["image"]
    values, affine = scan[0].numpy(), ras_affine(scan)
    template, own = read_template()
    into = np.linalg.inv(own) @ into_mni_of(scan, affine)
    there = ndimage.affine_transform(template.astype(np.float32), into, output_shape=values.shape, order=1)
    values = T1W[3] * values / np.median(values[there > PURE_WHITE])
    for number, (kind, make) in enumerate(WRONG.items()):
        made = 1000 * make(values, there > BRAIN_CUT, np.random.default_rng(number))
        meta = {"affine": torch.from_numpy(affine), "filename_or_obj": f"{kind} of {path.name}"}
        yield kind, MetaTensor(torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))[None], meta=meta)


def real_heads(data: Path) -> dict[str, list[Path]]:
    """Heads of the validation splits, by where they come from; no test head is among them."""
    with (data / "tumour_heads" / "split.csv").open() as lines:
        patients = [row["patient"] for row in csv.DictReader(lines) if row["split"] == "val"]
    return {
        "T1w, research scanner": sorted((data / "ixi_heads" / "val").glob("*.nii.gz")),
        "T1w, other scanners": sorted((data / "lesions").glob("*t1w*.nii.gz"))
        + sorted((data / "volumes").glob("*t1w*")),
        "T1w with glioma, hospitals": [data / "tumour_heads" / f"{name}_t1w.nii.gz" for name in patients],
    }


def guard_table(data: str = "../shared/data", limit: int = 0) -> None:
    """Count what is refused, warned of and passed: real T1w heads, and images simulated from them that are none.

    Args:
        data: folder with `ixi_heads`, `lesions`, `volumes` and `tumour_heads`.
        limit: of heads of a kind; 0 takes all, and makes wrong images of five of the research scanner.
    """
    groups = real_heads(Path(data)) if (Path(data) / "tumour_heads" / "split.csv").is_file() else {}
    if not groups or not all(groups.values()):
        raise PhanesInputError(f"'{data}' lacks heads: give the folder that holds ixi_heads, lesions and volumes.")
    load = Compose([CaseLoadImaged("image"), EnsureChannelFirstd("image")])
    counts: dict[str, Counter[str]] = {}
    for group, paths in groups.items():
        for path in tqdm(paths[: limit or None], desc=group):
            said, why = verdict(load({"image": str(path)}))
            counts.setdefault(group, Counter())[said] += 1
            if said != "passed":
                tqdm.write(f"{path.name}: {said}: {why}")
    of = groups["T1w, research scanner"][: limit or WRONG_OF]
    for path in tqdm(of, desc="wrong images"):
        for kind, image in wrong_images(path):
            said, why = verdict({"image": image})
            counts.setdefault(f"simulated: {kind}", Counter())[said] += 1
            if said == "passed":
                tqdm.write(f"{kind} of {path.name}: passed")
    real = sum((counts[group] for group in groups), Counter())
    wrong = sum((count for kind, count in counts.items() if kind not in groups), Counter())
    counts |= {"all real heads": real, "all wrong images": wrong}
    rows = [
        [kind, str(c.total()), *(str(c[said]) for said in ("refused", "warned", "passed"))]
        for kind, c in counts.items()
    ]
    show("What registration and guard say", ["image", "number", "refused", "warned of", "passed"], rows)
