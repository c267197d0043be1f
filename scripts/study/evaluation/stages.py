"""What each network and each step contributes, on whole heads: `python -m scripts stages`.

The fixed model of `heads_painting` paints strokes into prepared healthy heads, on the grid of levels. So the healthy
original is known. The error of the drawn head is measured in lesions, in the rest of the brain, and in holes. Networks
and steps are taken out of the method, one at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ...method.head import HeadPhanes
from ...method.networks.linear import BRIGHTNESS
from ...pipeline.transforms import NormalizeHeadd
from ...release.export import bundle_network
from ...space.levels import GRID, LEVELS_MM, brain_of_levels, level_affine
from ...space.resampling import contrast_of_brain, median_of_brain
from ...training.prepared import prepared_files, read_prepared
from ..removals import LINEAR as LINEAR_NETWORK
from ..removals import REMOVALS, RESTORATION, outputs_without, row_label
from .heads_painting import FIXED, STROKE_SIZES_ML, LesionShape, Painting, Recipe, paint, read_shapes, recipes
from .metrics import average_precision, rank
from .tables import NOTHING, to_markdown

METHOD, LINEAR = row_label(()), row_label((RESTORATION,))  # the rows that the others are compared with
MEAN = "mean of the training heads"
ERRORS = ("in lesions", "elsewhere", "in clean holes")
MADE_UP = 4  # shapes of each range of size


class PaintedHead(NamedTuple):
    """A head with a known lesion.

    Attributes:
        clean: (1, 2, H, W, D) the healthy head, as `HeadPhanes` takes it.
        painted: the same with a lesion.
        lesion: (1, 1, H, W, D) boolean.
        recipe: of the lesion; None where it was made otherwise.
        levels: (H, W, D) the painted head in units of its brain's median, contrast as it was; likewise.
    """

    clean: Tensor
    painted: Tensor
    lesion: Tensor
    recipe: Recipe | None = None
    levels: NDArray[np.float32] | None = None


def stages(
    prepared_dir: str = "data",
    bundle_root: str = "bundle",
    weights_file: str = "",
    shapes_dir: str = "../shared/data/stroke_masks_3d",
    seed: int = 0,
    limit: int = 0,
) -> None:
    """Print what each network and each step carries, measured on strokes painted into prepared healthy heads.

    Args:
        prepared_dir: what `prepare` wrote; the heads in its folder val are taken.
        bundle_root: the bundle's folder.
        weights_file: other weights than the bundle's own.
        shapes_dir: folder of stroke masks in MNI space, of which those of even number are taken; "" makes shapes up.
        seed: of the lesions.
        limit: of heads; 0 takes all.
    """
    files = prepared_files(Path(prepared_dir) / "val")[: limit or None]
    method = cast(HeadPhanes, bundle_network(bundle_root, weights_file or None))
    shapes = read_shapes(shapes_dir, part=0) if shapes_dir else made_up_shapes(seed)
    rows = measured(method, painted_heads(files, shapes, seed))
    print(f"{len(files)} heads, strokes of seed {seed}; errors in % of the brain's median brightness\n\n{table(rows)}")


def made_up_shapes(seed: int) -> list[LesionShape]:
    """Ellipsoids anywhere in the brain, `MADE_UP` in the middle of each range of stroke sizes."""
    rng, affine, brain = np.random.default_rng(seed), level_affine(), brain_of_levels()
    places, voxel_ml = np.argwhere(brain) @ affine[:3, :3].T, float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    shapes = []
    for low, high in STROKE_SIZES_ML:
        for number in range(MADE_UP):
            away = np.linalg.norm((places - rng.choice(places)) * rng.uniform(0.6, 1.4, 3), axis=1)
            nearest = np.argsort(away)[: round((low * high) ** 0.5 / voxel_ml)]
            mask = np.zeros(GRID, dtype=bool)
            mask.flat[np.flatnonzero(brain)[nearest]] = True
            shapes.append(LesionShape(f"made up {number}", mask, affine, len(nearest) * voxel_ml))
    return shapes


def painted_heads(
    files: Sequence[Path], shapes: Sequence[LesionShape], seed: int, painting: Painting = FIXED
) -> list[PaintedHead]:
    """Prepared heads with a stroke each; both images are scaled as the pipeline scales the painted one.

    Raises:
        PhanesInputError: no prepared head, or a range of size without any shape.
    """
    heights, brain = torch.tensor(LEVELS_MM).expand(GRID), brain_of_levels()

    def volume(levels: NDArray, like: NDArray) -> Tensor:
        meta = {"brain_median": median_of_brain(like, brain), "brain_contrast": contrast_of_brain(like, brain)}
        image = NormalizeHeadd("image")({"image": MetaTensor(torch.from_numpy(levels)[None], meta=meta)})["image"]
        return torch.stack([image.as_tensor()[0], heights])[None]

    heads = []
    for number, recipe in enumerate(recipes(shapes, len(files), seed, STROKE_SIZES_ML, painting.depth)):
        clean = read_prepared(files[number])
        rng = np.random.default_rng([seed, number])
        painted, lesion = paint(clean, level_affine(), np.eye(4), recipe, rng, painting)
        truth = torch.from_numpy(lesion)[None, None]
        levels = painted / np.float32(median_of_brain(painted, brain))
        heads.append(PaintedHead(volume(clean, painted), volume(painted, painted), truth, recipe, levels))
    return heads


@torch.inference_mode()
def measured(method: HeadPhanes, heads: Sequence[PaintedHead]) -> dict[str, dict[str, float]]:
    """By row of the table: the errors of the drawn heads (`ERRORS`), and "AUPRC"; all times 100.

    The hole in a clean head is the lesion of the head before it, grown as masks are. All voxels are pooled.

    Args:
        method: with `BothNetworks`.
        heads: of one size.
    """
    own = method.network
    drawing = {METHOD: own, row_label((LINEAR_NETWORK,)): own.restoration, LINEAR: own.linear}
    errors: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    maps: dict[str, list[Tensor]] = defaultdict(list)
    truth = []
    for number, head in enumerate(tqdm(heads, desc="Painted heads")):
        healthy, brain = head.clean[:, :1], method.inside(head.clean) > 0
        growth = method.mask.growth
        hole = brain & (F.max_pool3d(heads[number - 1].lesion.float(), 2 * growth + 1, 1, growth) > 0)
        holed = torch.cat([torch.where(hole, 0.0, healthy), head.clean[:, 1:]], dim=1)
        truth.append(head.lesion[brain])
        for parts in ((), *REMOVALS.values()):
            name = row_label(parts)
            outputs = outputs_without(method, head.painted, parts)
            maps[name].append(outputs[:, :1][brain])
            if name in drawing:
                method.network = drawing[name]
                filled, coarse = method.fill(holed, hole.float()).mean(dim=1, keepdim=True), outputs[:, 3:]
                method.network = own
                regions = (coarse, head.lesion & brain), (coarse, ~head.lesion & brain), (filled, hole)
                for where, (image, region) in zip(ERRORS, regions, strict=True):
                    errors[name][where].append((image - healthy).abs()[region])
        # With the whole head hidden, the linear network can only draw its mean.
        method.network = own.linear
        errors[MEAN][ERRORS[2]].append((method.fill(holed, torch.ones_like(healthy)) - healthy).abs()[hole])
        method.network = own
    lesion = torch.cat(truth)
    rows = {
        name: {where: 100 * BRIGHTNESS * float(torch.cat(parts).double().mean()) for where, parts in places.items()}
        for name, places in errors.items()
    }
    for name, values in maps.items():
        rows.setdefault(name, {})["AUPRC"] = 100 * average_precision(rank(torch.cat(values), lesion))
    return rows


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown table: errors, also relative to the linear network's; AUPRC, and the points lost against the method."""
    headings = ["", *(text for where in ERRORS for text in (f"error {where}", "/ linear")), "AUPRC", "points lost"]
    lines = []
    for name, row in rows.items():
        line = [name]
        for where in ERRORS:
            line += [f"{row[where]:.2f}", f"{row[where] / rows[LINEAR][where]:.2f}"] if where in row else [NOTHING] * 2
        score = row.get("AUPRC")
        line += [NOTHING] * 2 if score is None else [f"{score:.1f}", f"{rows[METHOD]['AUPRC'] - score:.1f}"]
        lines.append(line)
    return to_markdown(headings, lines)
