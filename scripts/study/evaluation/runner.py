"""The evaluation: every system on every set of slices, resumable, then tables, figures and a record of it all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ...common.errors import PhanesInputError
from ...common.files import sha256_of_file
from ...common.fingerprint import fingerprint
from ..baselines.phanes import WholeMethod
from ..baselines.protocol import AnomalySystem
from .benchmarks import Benchmark, LesionSet
from .false_positives import CLEAN, CleanSlices, LabelThreshold, clean_table
from .figures import examples_figure, precision_recall_figure
from .report import Report, chosen_keys, mean_seconds
from .scoring import OWN, Maps, Result, Scorer, example_indices
from .shifts import ShiftChart
from .store import code_of_systems, file_stem, to_plain
from .summary import Cell, summarise
from .systems import Entry
from .tables import Line, show, tables, to_markdown

PACKAGES = ("torch", "monai", "numpy", "scipy", "scikit-learn", "scikit-image", "lpips", "torchvision")

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """Where the maps of one row come from: a system that is run, or a function that reads them."""

    key: str
    about: dict[str, Any]
    system: AnomalySystem | None = None
    read: Callable[[LesionSet], Tensor] | None = None


class Evaluation(Report):
    """Runs systems over a benchmark and writes a `Report`, with figures.

        figure_<set>.png, precision_recall_<set>.png, and what `charts` draw

    Args:
        title: of the report.
        benchmark: the sets of slices.
        systems: rows of the table by key, in its order.
        scorer: what is measured.
        output_dir: made when it is not there.
        chosen: keys of the systems to run, a list or one string with commas; None for all.
        spread: what the standard deviations are over, "seeds" or "bootstrap".
        paper: published numbers, times 100, by set, system key and measure (as in `tables.SECTIONS`).
        paper_label: heading of their columns.
        figures: draw them.
        clean: measures false positives of the systems that have an operating point; None for not.
        label: gives the other systems their label threshold; None leaves out the Dice of their labels.
        charts: further pictures of the tables' numbers.
    """

    def __init__(
        self,
        title: str,
        benchmark: Benchmark,
        systems: Mapping[str, Entry],
        scorer: Scorer,
        output_dir: str | Path,
        chosen: Sequence[str] | str | None = None,
        spread: str = "seeds",
        paper: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
        paper_label: str = "paper",
        figures: bool = True,
        clean: CleanSlices | None = None,
        label: LabelThreshold | None = None,
        charts: Sequence[ShiftChart] = (),
    ) -> None:
        super().__init__(title, output_dir, PACKAGES)
        self.benchmark = benchmark
        self.systems = dict(systems)
        self.scorer = scorer
        self.chosen = chosen
        self.spread = spread
        self.paper = paper or {}
        self.paper_label = paper_label
        self.figures = figures
        self.clean = clean
        self.label = label
        self.charts = list(charts)
        self._clean_rows: dict[str, list[dict[str, Any]]] = {}

    def _evaluate(self) -> tuple[list[Cell], dict[str, str], int]:
        chosen = chosen_keys("systems", self.chosen, self.systems)
        tasks = self.benchmark.tasks()
        sets = {task: self.benchmark.load(*task) for task in tasks[:1]}  # fails at once when there is no data
        results: dict[tuple[str, int | None, str], Result] = {}
        built: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        self._clean_rows = {}
        total = len(tasks) * len(chosen) * len(sets[tasks[0]].images)
        with tqdm(total=total, unit="slice", dynamic_ncols=True) as bar:
            for key in chosen:
                bar.set_description(key)
                try:
                    source = self._source(key)
                    built[key] = source.about
                    threshold = self._threshold(source)
                    for name, seed in tasks:
                        bar.set_description(f"{key}, {name}" + ("" if seed is None else f", seed {seed}"))
                        results[name, seed, key] = self._result(source, self.benchmark.load(name, seed), threshold, bar)
                    self._measure_clean(source, threshold)
                except PhanesInputError as error:
                    failed[key] = str(error)
                    results = {index: result for index, result in results.items() if index[2] != key}
                    bar.write(f"{key} left out: {error}")
        return self._report(results, built, failed) if results else [], failed, len(chosen)

    def _result(self, source: Source, lesions: LesionSet, threshold: float | None, bar: tqdm) -> Result:
        """The stored result, or a fresh one."""
        maps = torch.empty(0) if source.read is None else source.read(lesions)
        stamp = fingerprint(source.about["fingerprint"], maps, lesions.checksum, self.scorer.settings(), threshold)
        path = self.store.path(lesions.name, lesions.seed, source.key)
        stored = self.store.load(path, stamp)
        if stored is not None:
            bar.update(len(lesions.images))
            return stored
        if source.system is not None:
            found = self.scorer.analyse(source.system, lesions, bar.update)
        else:
            found = Maps({OWN: maps}, None, float("nan"))
            bar.update(len(lesions.images))
        result = self.scorer.score(found, lesions, threshold)
        result.record.update(system=source.key, data=lesions.checksum)
        return self.store.save(path, stamp, Result(to_plain(result.record), result.arrays))

    def _threshold(self, source: Source) -> float | None:
        """The system's label threshold: from its calibration, else from the common rule; stored or fresh."""
        entry = self.systems[source.key]
        try:
            if entry.operating_point is not None:
                return entry.operating_point.threshold()
            if self.label is None or source.system is None or entry.role in ("oracle", "sanity"):
                return None
            stamp = fingerprint(source.about["fingerprint"], self.label.stamp())
            path = self.store.path("label threshold", None, source.key)
            stored = self.store.load(path, stamp)
            if stored is None:
                stored = self.store.save(path, stamp, Result({"threshold": self.label.of(source.system)}, {}))
            return stored.record["threshold"]
        except PhanesInputError as error:  # candidates are compared before they are calibrated
            logger.warning("No Dice of the label of %s: %s", source.key, error)
            return None

    def _measure_clean(self, source: Source, threshold: float | None) -> None:
        """False positives on healthy slices, stored or fresh, of a system with an operating point."""
        entry = self.systems[source.key]
        if self.clean is None or entry.operating_point is None or threshold is None:
            return
        if not isinstance(source.system, WholeMethod):
            return
        stamp = fingerprint(source.about["fingerprint"], self.clean.stamp(threshold))
        path = self.store.path(CLEAN, None, source.key)
        stored = self.store.load(path, stamp)
        if stored is None:
            rows = self.clean.measure(source.system, threshold)
            stored = self.store.save(path, stamp, Result({"rows": to_plain(rows)}, {}))
        self._clean_rows[source.key] = stored.record["rows"]

    def _source(self, key: str) -> Source:
        """The system or folder behind a row, and what the record says of it."""
        entry = self.systems[key]
        about: dict[str, Any]
        if entry.maps_dir is not None:
            folder = entry.maps_dir
            about = {
                "name": entry.label or key,
                "class": "maps of another tool",
                "role": entry.role,
                "fingerprint": None,
            }
            return Source(key, about, read=lambda lesions: self.benchmark.read_maps(folder, lesions.name, lesions.seed))
        system = entry.build(self.scorer.device)
        about = {
            "name": entry.label or system.name,
            "class": f"{type(system).__module__}.{type(system).__qualname__}",
            "role": entry.role,
            "parameters": sum(parameter.numel() for parameter in system.parameters()),
            "weights": None if entry.weights is None else entry.weights.name,
            "weights_sha256": None if entry.weights is None else sha256_of_file(entry.weights),
            "fingerprint": fingerprint(code_of_systems(), system),
        }
        return Source(key, about, system=system)

    def _report(
        self, results: dict[tuple[str, int | None, str], Result], built: dict[str, Any], failed: dict[str, str]
    ) -> list[Cell]:
        """Write tables, figures and the record; print the tables."""
        roles = {key: about["role"] for key, about in built.items()}
        cells = summarise(results, roles, self.spread)
        everything = {key: Line(about["name"], about["role"]) for key, about in built.items()}
        text: list[str] = []
        for name in dict.fromkeys(name for name, _ in self.benchmark.tasks()):
            group = {key: result for key, result in results.items() if key[0] == name}
            if not group:
                continue
            lines = {
                key: Line(about["name"], about["role"], mean_seconds(group, key, "seconds_per_slice"))
                for key, about in built.items()
                if any(system == key for _, _, system in group)
            }
            caption = self._caption(group)
            text.append(f"## {name}\n\n{caption}\n")
            print(f"\n{caption}")
            for title, headings, rows in tables(cells, name, lines, self.paper.get(name), self.paper_label):
                show(title or name, headings, rows)
                text += [*([f"{title}:\n"] if title else []), to_markdown(headings, rows)]
            if self.figures:
                self._draw(name, group, lines, cells)
        if self._clean_rows:
            text += self._section("Clean slices at the label threshold", *clean_table(self._clean_rows, everything))
        if self.figures:
            for chart in self.charts:
                chart.draw(self.output_dir, cells, everything)
        self.write(text, cells, everything, self.spread, self._record(results, built), failed, self.paper)
        return cells

    def _section(self, title: str, headings: list[str], rows: list[list[str]]) -> list[str]:
        """A table after the sets', printed and as Markdown."""
        show(title, headings, rows)
        return [f"## {title}\n", to_markdown(headings, rows)]

    def _caption(self, group: Mapping[tuple[str, int | None, str], Result]) -> str:
        """What a reader must know beside the numbers."""
        first = next(iter(group.values())).record
        seeds = sorted({seed for _, seed, _ in group if seed is not None})
        prevalences = {seed: result.record["maps"][OWN]["prevalence"] for (_, seed, _), result in group.items()}
        prevalence = sum(prevalences.values()) / len(prevalences)
        drawn = f", {len(seeds)} seed{'s' if len(seeds) > 1 else ''} of lesions" if seeds else ""
        over = "seeds" if self.spread == "seeds" else f"{self.scorer.resamples} bootstrap resamples of the subjects"
        return (
            f"{first['slices']} slices of {first['subjects']} subject{'s' * (first['subjects'] > 1)}{drawn}, "
            f"{100 * prevalence:.2f} % lesion pixels; "
            f"all times 100; ± standard deviation over {over}; ⌈Dice⌉: best achievable; "
            f"p: paired bootstrap against the best baseline's AUPRC, corrected for the number of rows (Holm)."
        )

    def _draw(
        self,
        name: str,
        group: Mapping[tuple[str, int | None, str], Result],
        lines: Mapping[str, Line],
        cells: list[Cell],
    ) -> None:
        """The set's figures, from the first seed that every system has."""
        seed = next(seed for set_name, seed in self.benchmark.tasks() if set_name == name)
        shown = {system: result for (_, its_seed, system), result in group.items() if its_seed == seed}
        lesions = self.benchmark.load(name, seed)
        kept = example_indices(len(lesions.images), self.scorer.examples)
        examples_figure(
            self.output_dir / f"figure_{file_stem(name)}.png",
            lesions.images[kept, 0].numpy(),
            lesions.masks[kept, 0].numpy(),
            {
                lines[system].label: (result.arrays.get("example.reconstruction"), result.arrays["example.map"])
                for system, result in shown.items()
                if lines[system].role != "sanity"
            },
            [lesions.cases[index] for index in kept],
        )
        scores = {cell.system: cell.value for cell in cells if cell.set == name and cell.measure == f"{OWN}.auprc"}
        curves = {
            system: (
                result.arrays["recall"],
                result.arrays["precision"],
                f"{lines[system].label} ({100 * scores[system]:.1f})",
            )
            for system, result in shown.items()
            if lines[system].role != "sanity"
        }
        prevalence = next(iter(shown.values())).record["maps"][OWN]["prevalence"]
        precision_recall_figure(self.output_dir / f"precision_recall_{file_stem(name)}.png", curves, prevalence)

    def _record(self, results: dict[tuple[str, int | None, str], Result], built: dict[str, Any]) -> dict[str, Any]:
        return {
            "device": str(self.scorer.device),
            "threads": torch.get_num_threads(),
            "hours": sum((r.record["seconds_per_slice"] or 0.0) * r.record["slices"] for r in results.values()) / 3600,
            "spread": self.spread,
            "bootstrap": {"resamples": self.scorer.resamples, "seed": self.scorer.bootstrap_seed},
            "lpips_drop_zeros": self.scorer.lpips_drop_zeros,
            "systems": built,
            "results": [result.record for result in results.values()],
            "clean_slices": self._clean_rows,
        }
