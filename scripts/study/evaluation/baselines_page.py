"""The page that compares the trained baselines on whole heads: `python -m scripts baselines_page`.

It holds what each training cost, the scores of an evaluation, and p-values against one row. Every number comes from the
records of the trainings and of the evaluation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import PhanesInputError
from .scoring import Result
from .store import ResultStore, write_text
from .summary import Cell, summarise
from .systems import ROLES
from .tables import NOTHING, SHOWN_THE_TRUTH, Line, p_text, score_table, to_markdown

SCORES = {
    "own.auprc": "AUPRC",
    "mean.auprc": "AUPRC a head",
    "label.mean_dice": "Dice of the label a head",
    "froc.all at 1": "found",
}
COMPARED = {"own.auprc": "AUPRC", "label.mean_dice": "Dice of the label a head"}
HEAD = """# Baselines on whole heads, on equal terms

"""
TRAININGS = """## Trainings

Error: on plain slices of the `val` heads at the first, the middle and the last validation, in each system's own
measure. It can be compared within a row only.

{table}
"""
SCORES_OF = """## Scores

Times 100; ± standard deviation over {resamples} bootstrap resamples of the heads; AUPRC is pooled or the mean of the
heads; found: share of the lesions at one false finding a head; p: paired bootstrap against {reference}, corrected by
Holm.

{sections}
"""


def baselines_page(evaluation: str, runs: str, reference: str, out: str) -> None:
    """Write the page of the trained baselines on whole heads, and its records beside it.

    The sections `Trainings` and `Scores` are made anew. What else stands on the page is kept.

    Args:
        evaluation: `output_dir` of evaluate_heads.json.
        runs: folder of the trainings, RUNS/NAME/record.json.
        reference: key of the row that the others are compared with.
        out: the page, a Markdown file.

    Raises:
        PhanesInputError: a record is missing, or the evaluation has no such row.
    """
    report = _read(Path(evaluation) / "record.json", "run evaluate_heads.json first")
    trainings = {file.parent.name: _read(file, "") for file in sorted(Path(runs).glob("*/record.json"))}
    if not trainings:
        raise PhanesInputError(f"No record of a training in '{runs}': give the output_dir of train_baselines.")
    if reference not in report["systems"]:
        raise PhanesInputError(f"reference is '{reference}': choose among {', '.join(report['systems'])}.")
    store = ResultStore(Path(evaluation) / "results")
    results = {}
    for record in report["results"]:
        path = store.path(record["set"], record["seed"], record["system"])
        with np.load(path.with_name(path.name + ".npz")) as arrays:
            results[record["set"], record["seed"], record["system"]] = Result(record, dict(arrays))
    page = Path(out)
    made = {
        "Trainings": TRAININGS.format(table=to_markdown(*training_table(trainings), bar="|")),
        "Scores": SCORES_OF.format(
            resamples=report["resamples"],
            reference=report["systems"][reference]["label"],
            sections="\n".join(score_sections(results, report["systems"], reference)).strip(),
        ),
    }
    write_text(page, renewed(page.read_text(encoding="utf-8") if page.is_file() else HEAD, made))
    kept = [{key: value for key, value in record.items() if key != "each"} for record in report["results"]]
    both = {"trainings": trainings, "evaluation": {**report, "results": kept}}
    write_text(page.with_suffix(".json"), json.dumps(both, indent=1) + "\n")


def renewed(text: str, sections: Mapping[str, str]) -> str:
    """A page whose sections of the second level are replaced where they have these titles; new ones come last."""
    head, *rest = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    there = {part.splitlines()[0].removeprefix("## "): part for part in rest}
    return "\n".join(part.rstrip("\n") + "\n" for part in (head, *(there | dict(sections)).values()))


def training_table(trainings: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: what each training cost, and how its error fell.

    Args:
        trainings: records of `training.RunRecord` by name.
    """
    rows = []
    for record in trainings.values():
        curve = [error for _, error in record.get("healthy_error_by_step", [])]
        spent = record.get("processor_seconds")
        rows.append([
            record["system"],
            f"{record['trained_parameters']:,}",
            f"{record['steps']:,}" if "steps" in record else NOTHING,
            NOTHING if spent is None else f"{spent / 60:.1f}",
            ", ".join(f"{error:.4g}" for error in (curve[0], curve[len(curve) // 2], curve[-1])) if curve else NOTHING,
            _best_step(record, curve),
        ])  # fmt: skip
    return ["System", "parameters trained", "steps", "processor minutes", "error", "lowest at step"], rows


def _best_step(record: Mapping[str, Any], curve: Sequence[float]) -> str:
    if not curve:
        return NOTHING
    step = record["healthy_error_by_step"][int(np.argmin(curve))][0]
    return f"{step:,}" + (" (the last)" if curve[-1] == min(curve) else "")


def score_sections(
    results: Mapping[tuple[str, int | None, str], Result], systems: Mapping[str, Mapping[str, str]], reference: str
) -> list[str]:
    """A section for each set with lesions, then the false findings in healthy heads.

    Args:
        results: by set, seed and system, as the evaluation stored them.
        systems: `label` and `role` by key, in the tables' order.
        reference: key of the row that the others are compared with.
    """
    shown = {key: Line(of["label"], of["role"]) for key, of in systems.items() if of["role"] not in SHOWN_THE_TRUTH}
    with_lesions = {index: found for index, found in results.items() if "prevalence" in found.record}
    # p-values compare with the best "baseline": here this is the reference alone.
    roles = {key: ROLES[1] if key == reference else ROLES[2] for key in shown}
    cells = summarise({index: found for index, found in with_lesions.items() if index[2] in shown}, roles, "bootstrap")
    sections = []
    for name in dict.fromkeys(index[0] for index in with_lesions):
        found = {(cell.system, cell.measure): cell for cell in cells if cell.set == name}
        headings, rows = score_table(found, {m: h for m, h in SCORES.items() if any(m == k for _, k in found)}, shown)
        there = [key for key in shown if any(key == system for system, _ in found)]
        for measure, heading in COMPARED.items():
            headings.append(f"p, {heading}")
            for row, key in zip(rows, there, strict=True):
                cell = found.get((key, measure))
                row.append(NOTHING if cell is None or math.isnan(cell.p_value) else p_text(cell.p_value))
        heads = next(found.record["heads"] for index, found in with_lesions.items() if index[0] == name)
        sections += [f"### {name}, {heads} heads\n", to_markdown(headings, rows, bar="|")]
        sections += [f"- {sentence}" for sentence in verdicts(found, shown, reference)] + [""]
    healthy = {index: found.record["each"] for index, found in results.items() if "each" in found.record}
    healthy = {index: each for index, each in healthy.items() if index not in with_lesions and index[2] in shown}
    for name in dict.fromkeys(index[0] for index in healthy):
        rows = [
            [
                shown[system].label,
                f"{np.mean([head['false_findings'] for head in each]):.2f}",
            ]
            for (one, _, system), each in healthy.items()
            if one == name
        ]
        heads = len(next(each for index, each in healthy.items() if index[0] == name))
        headings = ["System", "false findings a head"]
        sections += [f"### {name}, {heads} heads without lesion\n", to_markdown(headings, rows, bar="|")]
    return sections


def verdicts(found: Mapping[tuple[str, str], Cell], lines: Mapping[str, Line], reference: str) -> list[str]:
    """For each measure: which rows score higher than the reference at p < 0.05, which do not differ, how many lower."""
    sentences = []
    for measure, heading in COMPARED.items():
        if (reference, measure) not in found:
            continue
        own = found[reference, measure].value
        groups: dict[str, list[str]] = {"higher": [], "not shown to differ": [], "lower": []}
        for key, line in lines.items():
            cell = found.get((key, measure))
            if cell is None or key == reference or math.isnan(cell.p_value):
                continue
            group = "not shown to differ" if cell.p_value >= 0.05 else "lower" if cell.value < own else "higher"
            groups[group].append(line.label)
        many = len(groups["lower"])
        named = [f"{group}: {'; '.join(groups[group])}" for group in ("higher", "not shown to differ") if groups[group]]
        parts = [*named, f"lower: the other {many}" if named else f"lower: all {many}"] if many else named
        sentences.append(f"{heading}, against {lines[reference].label}. " + ". ".join(map(_capital, parts)) + ".")
    return sentences


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _read(path: Path, advice: str) -> dict[str, Any]:
    if not path.is_file():
        raise PhanesInputError(f"No record at '{path}': {advice}.")
    return json.loads(path.read_text(encoding="utf-8"))
