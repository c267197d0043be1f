"""How far the scores hang on the painting model, and on a lesion's size, contrast and level.

`python -m scripts sensitivity` paints the same lesions into the same prepared healthy heads, each time with one thing
changed in the model. The heads of the fixed model are also sorted by what was painted there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from ...release.export import bundle_network
from ...space.levels import LEVELS_MM, STEP_MM, brain_of_levels
from ...training.prepared import prepared_files
from .heads_baselines import baseline_rows
from .heads_painting import FIXED, STROKE_SIZES_ML, Painting, read_shapes
from .heads_registrations import Registrations
from .heads_scoring import LesionScores, ScoredHead, scored_head
from .heads_systems import LevelSystem, ZScoreHeads
from .stages import PaintedHead, made_up_shapes, painted_heads
from .statistics import resample_weights, spread
from .store import write_text
from .summary import METRICS
from .tables import number, to_markdown

VARIANTS = {
    "the fixed model": FIXED,
    "dark: d 0.1 to 0.35": Painting(depth=(0.1, 0.35)),
    "faint: d 0.7 to 0.85": Painting(depth=(0.7, 0.85)),
    "very faint: d 0.85 to 0.95": Painting(depth=(0.85, 0.95)),
    "sharp edge": Painting(edge=0.0),
    "edge twice as soft": Painting(edge=1.4),
    "no texture": Painting(texture=0.0),
    "texture three times as strong": Painting(texture=0.375),
    "ellipsoids": Painting(ellipsoids=True),
}
CONTRASTS = (0.35, 0.47, 0.58, 0.7)  # d, from strong to weak
HEIGHTS = (-80.0, 0.0, 30.0, 90.0)  # MNI z of the lesion's centre, mm
RESAMPLES = 1000

System = Callable[[PaintedHead], NDArray]


class Stratum(NamedTuple):
    """Some of the heads: kind and lower end, which sort the rows, and name."""

    kind: int
    low: float
    name: str


def sensitivity(
    prepared_dir: str = "data",
    bundle_root: str = "bundle",
    shapes_dir: str = "../shared/data/stroke_masks_3d",
    limit: int = 0,
    seeds: int = 3,
    baselines_dir: str = "",
    out: str = "sensitivity.md",
) -> None:
    """Write how far the scores hang on the painting model, and on a lesion's size, contrast and level.

    Args:
        prepared_dir: what `prepare` wrote; strokes are painted into the heads in its folder val.
        bundle_root: the bundle's folder.
        shapes_dir: folder of stroke masks in MNI space, of which those of even number are taken; "" makes shapes up.
        limit: of heads; 0 takes all.
        seeds: of the heads that are sorted; the comparison of models has the first alone.
        baselines_dir: what `train_baselines --heads` wrote, for rows of these.
        out: the page to write.
    """
    files = prepared_files(Path(prepared_dir) / "val")[: limit or None]
    shapes = read_shapes(shapes_dir, part=0) if shapes_dir else made_up_shapes(0)
    methods = {"PHANES": "both", "PHANES, linear": "linear"}
    systems = {name: _of_network(bundle_network(bundle_root, method=method)) for name, method in methods.items()}
    unused = Registrations(Path(out).parent)  # prepared heads lie in place
    trained = baseline_rows(baselines_dir or None, unused, Path(bundle_root) / "configs/baselines")
    for row in (ZScoreHeads(Path(prepared_dir) / "train", unused), *trained.values()):
        if isinstance(row, LevelSystem):
            systems[row.label] = _of_levels(row)
    heads = painted_heads(files, shapes, 0)
    found = scored(systems, heads, "the fixed model")
    table = [["the fixed model", *map(_pooled, found.values())]]
    for name, painting in list(VARIANTS.items())[1:]:
        changed = scored(systems, painted_heads(files, shapes, 0, painting), name)
        table.append([name, *map(_pooled, changed.values())])
    for seed in range(1, seeds):
        more = painted_heads(files, shapes, seed)
        heads += more
        for system, of in scored(systems, more, f"seed {seed}").items():
            found[system] += of
    text = (
        "# How far the scores hang on the painting\n\n"
        f"Strokes painted into {len(files)} prepared `val` heads, one a head; AUPRC / best Dice, times 100, pooled over"
        f" the voxels of the brain, ± standard deviation over {RESAMPLES} bootstrap resamples of the heads. The lesions"
        " are the same in all rows. Made by `python -m scripts sensitivity`.\n\n"
        f"{to_markdown(['Painting', *systems], table)}\n"
        f"The fixed model, {seeds} seeds, by what was painted: AUPRC / best Dice of a head, mean ± standard error.\n\n"
        f"{to_markdown(['Lesions (heads)', *systems], by_stratum(heads, found))}"
    )
    write_text(Path(out), text)
    print(text)


def scored(systems: Mapping[str, System], heads: Sequence[PaintedHead], title: str) -> dict[str, list[ScoredHead]]:
    """Each system's maps of the heads, ready to be scored."""
    brain, voxel_mm3 = brain_of_levels(), STEP_MM**3
    return {
        name: [
            scored_head(system(head), brain, head.lesion[0, 0].numpy(), voxel_mm3)
            for head in tqdm(heads, desc=f"{title}, {name}")
        ]
        for name, system in systems.items()
    }


def strata(head: PaintedHead) -> Iterator[Stratum]:
    """What a head's lesion belongs to: a range of size, of contrast and of height."""
    assert head.recipe is not None  # noqa: S101 - painted_heads gives one
    low, high = STROKE_SIZES_ML[head.recipe.size]
    yield Stratum(0, low, f"{low:g} to {high:g} ml")
    height = float(np.asarray(LEVELS_MM)[head.lesion[0, 0].nonzero()[:, 2].numpy()].mean())
    for kind, (name, value, ends) in enumerate((("d", head.recipe.darkness, CONTRASTS), ("z", height, HEIGHTS)), 1):
        index = int(np.clip(np.searchsorted(ends, value, side="right") - 1, 0, len(ends) - 2))
        yield Stratum(kind, ends[index], f"{name} {ends[index]:g} to {ends[index + 1]:g}{' mm' * (name == 'z')}")


def by_stratum(heads: Sequence[PaintedHead], found: Mapping[str, Sequence[ScoredHead]]) -> list[list[str]]:
    """Rows: name and number of heads, then each system's mean of the heads and its standard error."""
    members: dict[Stratum, list[int]] = defaultdict(list)
    for index, head in enumerate(heads):
        for stratum in strata(head):
            members[stratum].append(index)
    each = [LesionScores(of, None).each for of in found.values()]
    rows = []
    for stratum, of in sorted(members.items()):
        row = [f"{stratum.name} ({len(of)})"]
        for scores in each:
            values = [scores[metric][of] for metric in METRICS]
            errors = [v.std(ddof=1) / len(of) ** 0.5 if len(of) > 1 else float("nan") for v in values]
            row.append(" / ".join(number(v.mean(), error) for v, error in zip(values, errors, strict=True)))
        rows.append(row)
    return rows


def _pooled(heads: Sequence[ScoredHead]) -> str:
    scores = LesionScores(heads, None)
    all_heads, samples = scores.of_all(), scores.resampled(resample_weights(len(heads), RESAMPLES, 0))
    return " / ".join(number(all_heads[name], spread(samples[name]).std) for name in (f"own.{m}" for m in METRICS))


def _of_network(network: nn.Module) -> System:
    @torch.inference_mode()
    def maps(head: PaintedHead) -> NDArray:
        return network(head.painted)[0, 0].numpy()

    return maps


def _of_levels(row: LevelSystem) -> System:
    return lambda head: row.levels_map(np.asarray(head.levels))
