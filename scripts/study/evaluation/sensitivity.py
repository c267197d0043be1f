"""How far the scores hang on the painting model, and on a lesion's size, contrast and level.

The same lesions are painted into the same heads, each time with one thing changed in the model. The model of the
reported numbers comes first. Its heads are also sorted by what was painted there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine

from .heads import HeadEvaluation
from .heads_data import HeadCase, PaintedHeads, load
from .heads_painting import FIXED, Painting
from .heads_registrations import Registrations
from .store import write_text
from .summary import Cell
from .tables import NOTHING, number, to_markdown

VARIANTS = {
    "the model of the reported numbers": FIXED,
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
Stratum = tuple[int, float, str]  # kind and lower end, for their order; name
LEVELS = (-80.0, 0.0, 30.0, 90.0)  # MNI z of the lesion's centre, mm


def painted_variants(
    folder: str | Path,
    shapes: str | Path,
    registrations: Registrations,
    output_dir: str | Path,
    part: int | None,
    heads: int,
    seeds: int,
) -> list[PaintedHeads]:
    """A set for each of `VARIANTS`; see `PaintedHeads`.

    Args:
        folder: of healthy heads.
        shapes: of lesion masks.
        registrations: shared by all.
        output_dir: for the painted heads.
        part: of the masks; None for all.
        heads: in each set.
        seeds: of the first set, whose heads are also sorted. The others have one.
    """
    return [
        PaintedHeads(name, folder, shapes, registrations, output_dir, part, "stroke", n, painting, heads)
        for (name, painting), n in zip(VARIANTS.items(), [seeds, *[1] * (len(VARIANTS) - 1)], strict=True)
    ]


def report(evaluation: HeadEvaluation) -> None:
    """Run the evaluation of `painted_variants` and write `sensitivity.md` beside its tables."""
    cells = evaluation.run()
    record = json.loads((evaluation.output_dir / "record.json").read_text(encoding="utf-8"))
    labels = {key: system["label"] for key, system in record["systems"].items()}
    first = next(iter(evaluation.sets.values()))
    assert isinstance(first, PaintedHeads)  # noqa: S101 - the config's sets are painted_variants
    heads = {(seed, case.name): case for seed in first.seeds for case in first.cases(seed)}
    strata = {case: list(_strata(found, first.registrations)) for case, found in heads.items()}
    count = {result["set"]: result["heads"] for result in record["results"] if result["seed"] == 0}
    text = [
        f"# {evaluation.title}\n",
        "AUPRC / best Dice, times 100, pooled over the voxels of the heads, one lesion a head. ± standard deviation "
        f"over {evaluation.resamples} bootstrap resamples of the heads. Seeds: {len(first.seeds)} in the first row, "
        "one in the others. Made by the command in [evaluation.md](../evaluation.md).\n",
        to_markdown(["Painting (heads)", *labels.values()], _variant_rows(cells, list(labels), count)),
        "The first row's heads by what was painted there: AUPRC / best Dice of a head, mean ± its standard error.\n",
        to_markdown(
            ["Lesions (heads)", *labels.values()], _stratum_rows(record["results"], first.name, strata, labels)
        ),
    ]
    write_text(evaluation.output_dir / "sensitivity.md", "\n".join(text))


def _variant_rows(cells: Sequence[Cell], systems: Sequence[str], count: Mapping[str, int]) -> list[list[str]]:
    found = {(cell.set, cell.system, cell.measure): cell for cell in cells}
    rows = []
    for name, heads in count.items():
        row = [f"{name} ({heads})"]
        for system in systems:
            pair = [found.get((name, system, f"own.{metric}")) for metric in ("auprc", "best_dice")]
            row.append(" / ".join(NOTHING if cell is None else number(cell.value, cell.std) for cell in pair))
        rows.append(row)
    return rows


def _strata(case: HeadCase, registrations: Registrations) -> Iterator[Stratum]:
    """What a head's lesion belongs to: range of size, of contrast and of level."""
    yield 0, float(case.size.split("-")[0]), case.size
    affine = np.asarray(load(case.image).affine)
    into_mni = np.linalg.inv(registrations(case.image)) @ affine
    height = float(apply_affine(into_mni, np.argwhere(np.asarray(case.truth)).mean(axis=0))[2])
    for kind, (name, value, ends) in enumerate((("d", case.depth, CONTRASTS), ("z", height, LEVELS)), start=1):
        low = int(np.clip(np.searchsorted(ends, value, side="right") - 1, 0, len(ends) - 2))
        yield kind, ends[low], f"{name} {ends[low]:g} to {ends[low + 1]:g}{' mm' if name == 'z' else ''}"


def _stratum_rows(
    results: Sequence[Mapping[str, Any]],
    name: str,
    strata: Mapping[tuple[int | None, str], Sequence[Stratum]],
    systems: Mapping[str, str],
) -> list[list[str]]:
    scores: dict[Stratum, dict[str, list[tuple[float, float]]]] = {}
    for result in results:
        for head in result["each"] if result["set"] == name else ():
            for stratum in strata[result["seed"], head["name"]]:
                of = scores.setdefault(stratum, {key: [] for key in systems})
                of[result["system"]].append((head["auprc"], head["best_dice"]))
    rows = []
    for stratum in sorted(scores):
        counts = max(len(values) for values in scores[stratum].values())
        row = [f"{stratum[2]} ({counts})"]
        for values in scores[stratum].values():
            pairs = np.array(values)
            error = pairs.std(axis=0, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.full(2, np.nan)
            row.append(" / ".join(number(float(m), float(e)) for m, e in zip(pairs.mean(axis=0), error, strict=True)))
        rows.append(row)
    return rows
