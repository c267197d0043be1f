"""`evaluate_heads.json`: every system on every set of whole heads, resumable; then tables and a record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...common.errors import PhanesInputError
from ...common.fingerprint import fingerprint
from .heads_data import HeadSet
from .heads_registrations import HeadNotAnalysed
from .heads_scoring import (
    LesionScores,
    OperatingPoint,
    ScoredHead,
    froc,
    healthy_scores,
    operating_point,
    scored_head,
)
from .heads_systems import HeadMaps, HeadSystem
from .heads_tables import healthy_cells, healthy_table, lesion_tables
from .report import Report, chosen_keys, mean_seconds
from .scoring import Result
from .statistics import resample_weights
from .store import code_of_systems, to_plain
from .summary import METRICS, Cell, summarise
from .tables import Line, show, to_markdown

VERSION = 2  # of the scores; raise it when they change, so that stored results are not used again
PACKAGES = ("torch", "monai", "numpy", "scipy", "SimpleITK", "nibabel")

logger = logging.getLogger(__name__)


class HeadEvaluation(Report):
    """Runs systems over sets of whole heads and writes a `Report`.

    Args:
        title: of the report.
        sets: in the report's order.
        calibration: healthy heads that fix each system's operating point. For reported numbers, none may be in `sets`.
        systems: rows of the tables by key, in their order.
        output_dir: made when it is not there.
        chosen: keys of the systems to run, a list or one string with commas; None for all.
        chosen_sets: names of the sets, likewise.
        resamples: of the bootstrap over heads.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        title: str,
        sets: Sequence[HeadSet],
        calibration: HeadSet,
        systems: Mapping[str, HeadSystem],
        output_dir: str | Path,
        chosen: Sequence[str] | str | None = None,
        chosen_sets: Sequence[str] | str | None = None,
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(title, output_dir, PACKAGES)
        self.sets = {one.name: one for one in sets}
        self.calibration = calibration
        self.systems = dict(systems)
        self.chosen = chosen
        self.chosen_sets = chosen_sets
        self.resamples = resamples
        self.seed = seed

    def _evaluate(self) -> tuple[list[Cell], dict[str, str], int]:
        keys = chosen_keys("systems", self.chosen, self.systems)
        names = chosen_keys("sets", self.chosen_sets, self.sets)
        checksums = {(name, seed): self.sets[name].checksum(seed) for name in names for seed in self.sets[name].seeds}
        results: dict[tuple[str, int | None, str], Result] = {}
        failed: dict[str, str] = {}
        with tqdm(total=len(keys) * len(checksums), unit="set", dynamic_ncols=True) as bar:
            for key in keys:
                try:
                    system = self.systems[key]
                    stamp = fingerprint(
                        VERSION, code_of_systems(), system.fingerprint(), self.calibration.checksum(None)
                    )
                    point = self._operating_point(key, system, stamp, bar)
                    for (name, seed), checksum in checksums.items():
                        bar.set_description(f"{key}, {name}" + ("" if seed is None else f", seed {seed}"))
                        own = fingerprint(stamp, checksum, self.resamples, self.seed)
                        results[name, seed, key] = self._result(system, key, name, seed, own, point)
                        bar.update()
                except PhanesInputError as error:
                    failed[key] = str(error)
                    results = {index: result for index, result in results.items() if index[2] != key}
                    bar.write(f"{key} left out: {error}")
        there = [key for key in keys if key not in failed]
        return self._report(results, there, failed) if results else [], failed, len(keys)

    def _operating_point(self, key: str, system: HeadSystem, stamp: str, bar: tqdm) -> OperatingPoint:
        """The system's operating point, stored or found on the healthy heads of `calibration`."""
        bar.set_description(f"{key}, operating point")
        path = self.store.path("operating_point", None, key)
        stored = self.store.load(path, stamp)
        if stored is None:
            done = analysed(system, self.calibration, None)
            there = [head for head, name in zip(done.heads, done.names, strict=True) if name not in done.refused]
            if not there:
                raise PhanesInputError(
                    f"{system.label} analyses none of the healthy heads that fix its threshold: the log says why."
                )
            point = operating_point(there)
            stored = self.store.save(path, stamp, Result(to_plain(vars(point)), {}))
        return OperatingPoint(*(stored.record[name] for name in ("threshold", "smallest_mm3", "at_false_voxels")))

    def _result(
        self, system: HeadSystem, key: str, name: str, seed: int | None, stamp: str, point: OperatingPoint
    ) -> Result:
        path = self.store.path(name, seed, key)
        stored = self.store.load(path, stamp)
        if stored is not None:
            return stored
        done = analysed(system, self.sets[name], seed)
        heads, names = done.heads, done.names
        record: dict[str, Any] = {
            "set": name,
            "seed": seed,
            "system": key,
            "heads": len(heads),
            "refused": done.refused,
            "seconds": done.seconds / len(heads),
        }
        arrays: dict[str, NDArray] = {}
        if self.sets[name].healthy:
            each = healthy_scores(heads, point)
            record["maps"] = {}
        else:
            scores = LesionScores(heads, point)
            each = scores.each
            arrays |= scores.resampled(resample_weights(len(heads), self.resamples, self.seed))
            record |= _as_summary(scores.of_all(), froc(heads), heads)
        record["each"] = [
            {"name": case, "age": age} | {measure: float(values[index]) for measure, values in each.items()}
            for index, (case, age) in enumerate(zip(names, done.ages, strict=True))
        ]
        return self.store.save(path, stamp, Result(to_plain(record), arrays))

    def _report(
        self, results: dict[tuple[str, int | None, str], Result], keys: Sequence[str], failed: Mapping[str, str]
    ) -> list[Cell]:
        """Write tables and the record; print the tables."""
        roles = {key: self.systems[key].role for key in keys}
        with_lesions = {
            index: result if result.record["heads"] > 1 else Result(result.record, {})  # one head has no spread
            for index, result in results.items()
            if not self.sets[index[0]].healthy
        }
        cells = summarise(with_lesions, roles, "bootstrap")
        text: list[str] = []
        for name in dict.fromkeys(name for name, _, _ in results):
            group = {index: result for index, result in results.items() if index[0] == name}
            lines = {
                key: Line(self.systems[key].label, roles[key], mean_seconds(group, key, "seconds")) for key in keys
            }
            if self.sets[name].healthy:
                each = {key: result.record["each"] for (_, _, key), result in group.items()}
                cells += healthy_cells(name, each)
                shown = [("", *healthy_table(each, lines, self.resamples, self.seed))]
                caption = f"{next(iter(group.values())).record['heads']} healthy heads; intervals over heads."
            else:
                shown = lesion_tables(cells, name, lines)
                caption = self._caption(group)
            for key, refused in _refused(group).items():
                caption += f" {self.systems[key].label} refuses {', '.join(refused)}: nothing found there."
            text.append(f"## {name}\n\n{caption}\n")
            for title, headings, rows in shown:
                show(title or name, headings, rows)
                text += [*([f"{title}:\n"] if title else []), to_markdown(headings, rows)]
        everything = {key: Line(self.systems[key].label, roles[key]) for key in keys}
        record = {
            "resamples": self.resamples,
            "systems": {key: {"label": line.label, "role": line.role} for key, line in everything.items()},
            "results": [result.record for result in results.values()],
        }
        self.write(text, cells, everything, "bootstrap", record, failed)
        return cells

    def _caption(self, group: Mapping[tuple[str, int | None, str], Result]) -> str:
        first = next(iter(group.values())).record
        seeds = len({seed for _, seed, _ in group if seed is not None})
        shares = [result.record["prevalence"] for result in group.values()]
        return (
            f"{first['heads']} heads{f', lesions painted {seeds} times' if seeds else ''}, "
            f"{100 * sum(shares) / len(shares):.2f} % lesion; times 100; pooled over the voxels of all heads unless "
            f"a column says a head; ± standard deviation over {self.resamples} bootstrap resamples of the heads; "
            "⌈Dice⌉: best achievable; p: paired bootstrap against the best baseline's AUPRC, corrected by Holm."
        )


@dataclass
class Analysed:
    """The heads of a set and what a system made of them, head by head.

    Attributes:
        heads: with their maps.
        names: of the cases.
        ages: years.
        refused: cases that the system did not analyse; their maps are empty.
        seconds: for all heads together.
    """

    heads: list[ScoredHead] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


def analysed(system: HeadSystem, heads: HeadSet, seed: int | None) -> Analysed:
    """Run a system over a set.

    Raises:
        PhanesInputError: a map that cannot be scored.
    """
    done = Analysed()
    for case in heads.cases(seed):
        began = time.perf_counter()
        try:
            found = system(case)
        except HeadNotAnalysed as error:
            logger.warning("%s: %s", system.label, error)
            found = HeadMaps(np.zeros(case.brain.shape, dtype=np.float32))
            done.refused.append(case.name)
        done.seconds += time.perf_counter() - began
        try:
            head = scored_head(found.anomaly, case.brain, case.truth, case.voxel_mm3, found.label, case.size)
        except ValueError as error:
            raise PhanesInputError(f"The map of '{case.name}' by {system.label} cannot be scored: {error}.") from error
        done.heads.append(head)
        done.names.append(case.name)
        done.ages.append(case.age)
    return done


def _as_summary(
    scores: Mapping[str, float], curves: Mapping[str, Mapping[str, float]], heads: Sequence[ScoredHead]
) -> dict[str, Any]:
    """Scores in the places where `summary.summarise` reads them."""
    by_size = {}
    for size in dict.fromkeys(head.size for head in heads if head.size):
        own = LesionScores([head for head in heads if head.size == size], None).of_all()
        by_size[size] = {metric: own[f"own.{metric}"] for metric in METRICS}
    found_at = {
        f"froc.{volume} {at}": share
        for volume, curve in curves.items()
        for at, share in curve.items()
        if at != "lesions"
    }
    return {
        "maps": {kind: {metric: scores[f"{kind}.{metric}"] for metric in METRICS} for kind in ("own", "mean")},
        "prevalence": scores["prevalence"],
        "more": {name: value for name, value in scores.items() if name.startswith("label.")} | found_at,
        "froc": {size: dict(curve) for size, curve in curves.items()},
        "by_size": by_size,
    }


def _refused(group: Mapping[tuple[str, int | None, str], Result]) -> dict[str, list[str]]:
    """Cases that were not analysed, by system."""
    found: dict[str, set[str]] = {}
    for (_, _, key), result in group.items():
        found.setdefault(key, set()).update(result.record["refused"])
    return {key: sorted(names) for key, names in found.items() if names}
