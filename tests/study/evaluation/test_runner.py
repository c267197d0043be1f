"""The evaluation as a whole: rows come from runs, it resumes, one failing system does not take the others along."""

from __future__ import annotations

import csv
import json
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn

from scripts.common.errors import PhanesInputError
from scripts.study.baselines.maps import ResidualMap
from scripts.study.baselines.protocol import AnomalySystem, ReconstructionSystem
from scripts.study.evaluation.benchmarks import LesionSet
from scripts.study.evaluation.false_positives import LabelThreshold
from scripts.study.evaluation.runner import Evaluation
from scripts.study.evaluation.scoring import Maps, Result, Scorer, example_indices, size_ranges
from scripts.study.evaluation.store import ResultStore
from scripts.study.evaluation.systems import ConstantMap, Entry, PerfectMap

SIZE = 32


class Squares:
    """A benchmark by hand: bright squares on a dark ground with faint noise."""

    def __init__(self, seeds: tuple[int, ...] = (0, 1)) -> None:
        self.seeds = seeds
        self.loads = 0

    def tasks(self) -> list[tuple[str, int | None]]:
        return [("squares", seed) for seed in self.seeds]

    def load(self, name: str, seed: int | None) -> LesionSet:
        self.loads += 1
        rng = torch.Generator().manual_seed(int(seed or 0))
        clean = 0.2 + 0.1 * torch.rand(10, 1, SIZE, SIZE, generator=rng)
        masks = torch.zeros(clean.shape, dtype=torch.bool)
        for index in range(10):
            masks[index, 0, 8 : 10 + index, 8:20] = True
        images = torch.where(masks, clean + 0.06, clean)
        names = [f"case{i}" for i in range(10)]
        return LesionSet(name, seed, images, masks, names, names, clean)

    def read_maps(self, folder: str | Path, name: str, seed: int | None) -> Tensor:
        return torch.from_numpy(np.load(Path(folder) / "maps.npy"))


class Flat(ReconstructionSystem):
    """Reconstructs every slice as one grey level and counts the slices it saw."""

    name = "flat"

    def __init__(self, grey: float = 0.25) -> None:
        super().__init__(ResidualMap())
        self.grey = grey
        self.seen = 0

    def reconstruct(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        self.seen += len(images)
        return torch.full_like(images, self.grey)


class Broken(AnomalySystem):
    """Gives NaN, as a network without weights does."""

    name = "broken"

    def anomaly_map(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        return images * float("nan")


class Distance(nn.Module):
    """Stands in for LPIPS."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs()


def evaluation(tmp_path: Path, systems: dict[str, Entry], benchmark: Squares | None = None, **options) -> Evaluation:
    scorer = Scorer({"residual": ResidualMap()}, Distance(), resamples=50, batch_size=4, examples=2, size_bins=[3, 71])
    options = {"figures": False, **options}
    return Evaluation("Squares", benchmark or Squares(), systems, scorer, tmp_path, **options)


def sanity() -> dict[str, Entry]:
    return {"constant": Entry(ConstantMap(), role="sanity"), "perfect": Entry(PerfectMap(), role="sanity")}


def test_sanity_rows_hold(tmp_path):
    cells = {(c.system, c.measure): c for c in evaluation(tmp_path, sanity()).run()}
    prevalence = np.mean([Squares().load("squares", seed).masks.float().mean() for seed in (0, 1)])
    assert cells["constant", "own.auprc"].value == pytest.approx(prevalence, abs=1e-6)
    assert cells["constant", "own.best_dice"].value == pytest.approx(2 * prevalence / (1 + prevalence), abs=1e-6)
    assert cells["perfect", "own.auprc"].value == 1.0
    assert cells["perfect", "own.best_dice"].value == 1.0


def test_everything_promised_is_written(tmp_path):
    systems = {"flat": Entry(Flat(), role="proposed"), "other": Entry(Flat(0.3), label="other grey"), **sanity()}
    evaluation(tmp_path, systems, paper={"squares": {"flat": {"own.auprc": 12.34}}}, figures=True).run()
    text = (tmp_path / "table.md").read_text()
    assert "| flat | **" in text
    assert "12.34" in text
    assert "AUPRC, paper" in text
    assert "One map for all reconstructions" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    flat = next(r for r in rows if (r["system"], r["map"], r["metric"]) == ("flat", "own", "auprc"))
    assert float(flat["paper"]) == pytest.approx(0.1234)
    assert int(flat["seeds"]) == 2
    assert 0 < float(flat["p_value"]) <= 1
    record = json.loads((tmp_path / "record.json").read_text())
    assert {"versions", "systems", "results", "bootstrap"} <= record.keys()
    assert record["systems"]["flat"]["fingerprint"] != record["systems"]["other"]["fingerprint"]
    assert {result["seed"] for result in record["results"]} == {0, 1}
    assert all(len(result["data"]) == 64 for result in record["results"])
    for figure in ("figure_squares.png", "precision_recall_squares.png"):
        assert (tmp_path / figure).stat().st_size > 5000
    assert not list(tmp_path.rglob("*.part"))


def test_lpips_is_measured_against_the_clean_slice(tmp_path):
    cells = {c.measure: c for c in evaluation(tmp_path, {"flat": Entry(Flat())}, Squares((0,))).run()}
    lesions = Squares().load("squares", 0)
    distance = (lesions.clean - 0.25).abs()
    inside = [d[m].mean().item() for d, m in zip(distance, lesions.masks, strict=True)]
    outside = [d[~m].mean().item() for d, m in zip(distance, lesions.masks, strict=True)]
    assert cells["lpips.anomaly"].value == pytest.approx(np.mean(inside), rel=1e-5)
    assert cells["lpips.healthy"].value == pytest.approx(np.mean(outside), rel=1e-5)


def test_means_over_subjects_and_the_labels_dice_are_those_by_hand(tmp_path):
    lesions = Squares().load("squares", 0)
    lesions.subjects[1] = lesions.subjects[0]  # two slices of one subject are pooled
    maps = lesions.images.clone()
    scored = Scorer(resamples=200).score(Maps({"own": maps}, None, 0.0), lesions, threshold=0.3)
    groups = [[0, 1], *([n] for n in range(2, 10))]
    expected = [average_precision_score(lesions.masks[g].flatten(), maps[g].flatten()) for g in groups]
    assert scored.record["maps"]["mean"]["auprc"] == pytest.approx(np.mean(expected), abs=1e-9)
    label = (maps > 0.3).flatten().numpy()
    dice = f1_score(lesions.masks.flatten().numpy(), label)
    assert scored.record["more"]["label.dice"] == pytest.approx(dice, abs=1e-9)
    for measure, value in (("mean.auprc", np.mean(expected)), ("label.dice", dice)):
        assert len(scored.arrays[measure]) == 200
        assert scored.arrays[measure].mean() == pytest.approx(value, abs=0.02)


def test_every_system_gets_its_label_threshold_by_one_rule(tmp_path):
    brain = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    brain[4:20, 4:20] = True
    lesions = Squares().load("squares", 7)
    label = LabelThreshold(SimpleNamespace(healthy=(lesions.clean, lesions.subjects)), brain)
    threshold = label.of(Flat())
    marked = ((lesions.clean - 0.25).abs() > threshold)[:, 0, brain].float().mean()
    assert marked.item() == pytest.approx(0.01, abs=0.001)
    systems = {"flat": Entry(Flat(), role="proposed"), **sanity()}
    cells = {(c.system, c.measure) for c in evaluation(tmp_path, systems, Squares((0,)), label=label).run()}
    assert {(system, "label.dice") for system in ("flat", "perfect", "constant")} & cells == {("flat", "label.dice")}
    assert "Dice of the label" in (tmp_path / "table.md").read_text()


def test_a_finished_evaluation_is_not_run_again(tmp_path):
    first = evaluation(tmp_path, {"flat": Entry(Flat())}).run()
    again = Flat()
    assert str(evaluation(tmp_path, {"flat": Entry(again)}).run()) == str(first)
    assert again.seen == 0


def test_a_stopped_evaluation_resumes_where_it_was(tmp_path):
    class Stops(Flat):
        def reconstruct(self, images, masks=None):
            if self.seen >= 10:
                raise KeyboardInterrupt
            return super().reconstruct(images, masks)

    Stops.__qualname__ = Flat.__qualname__
    stopping = Stops()
    with pytest.raises(KeyboardInterrupt):
        evaluation(tmp_path, {"flat": Entry(stopping)}).run()
    resumed = Flat()
    evaluation(tmp_path, {"flat": Entry(resumed)}).run()
    assert resumed.seen == 10  # the second seed only


@pytest.mark.parametrize("change", ["weights", "data", "settings"])
def test_what_changed_is_evaluated_again(tmp_path, change):
    evaluation(tmp_path, {"flat": Entry(Flat())}, Squares((0,))).run()
    system, benchmark = Flat(0.26 if change == "weights" else 0.25), Squares((0,))
    if change == "data":
        original = benchmark.load
        benchmark.load = lambda name, seed: original(name, 5)
    again = evaluation(tmp_path, {"flat": Entry(system)}, benchmark)
    if change == "settings":
        again.scorer.lpips_drop_zeros = True
    again.run()
    assert system.seen == 10


def test_a_result_cut_off_while_written_is_evaluated_again(tmp_path):
    evaluation(tmp_path, {"flat": Entry(Flat())}, Squares((0,))).run()
    stored = next(tmp_path.rglob("flat.npz"))
    stored.write_bytes(stored.read_bytes()[:100])
    system = Flat()
    evaluation(tmp_path, {"flat": Entry(system)}, Squares((0,))).run()
    assert system.seen == 10


def test_several_processes_may_store_one_result_at_once(tmp_path):
    store = ResultStore(tmp_path)
    result = Result({"n": 1}, {"values": np.arange(200_000.0)})
    path = store.path("squares", 0, "flat")
    writers = [multiprocessing.Process(target=_store_often, args=(store, path, result)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert np.array_equal(store.load(path, "key").arrays["values"], result.arrays["values"])
    assert sorted(p.name for p in path.parent.iterdir()) == ["flat.json", "flat.npz"]


def _store_often(store, path, result):
    for _ in range(20):
        store.save(path, "key", result)


def test_a_system_that_cannot_run_has_no_row_and_the_others_have_theirs(tmp_path):
    systems = {"flat": Entry(Flat()), "broken": Entry(Broken()), "untrained": Entry(Flat(), weights=tmp_path / "no.pt")}
    with pytest.raises(PhanesInputError, match=r"2 of 3 systems could not run\..*NaN.*No weights"):
        evaluation(tmp_path, systems).run()
    text = (tmp_path / "table.md").read_text()
    assert "| flat |" in text
    assert "| broken |" not in text
    assert "Left out: untrained (No weights" in text


def test_systems_are_chosen_by_key_and_misspelt_ones_refused(tmp_path):
    systems = {"flat": Entry(Flat()), **sanity()}
    cells = evaluation(tmp_path, systems, chosen="flat, perfect").run()
    assert {cell.system for cell in cells} == {"flat", "perfect"}
    with pytest.raises(PhanesInputError, match="choose among flat, constant, perfect"):
        evaluation(tmp_path, systems, chosen=["flta"]).run()


def test_maps_of_other_tools_are_rows_too(tmp_path):
    lesions = Squares().load("squares", 0)
    np.save(tmp_path / "maps.npy", lesions.masks.numpy().astype(np.float32))
    cells = evaluation(tmp_path / "out", {"tool": Entry(maps_dir=tmp_path)}, Squares((0,))).run()
    assert {c.measure: c.value for c in cells}["own.auprc"] == 1.0


def test_p_values_compare_with_the_best_baseline_only(tmp_path):
    systems = {"good": Entry(Flat(), role="proposed"), "bad": Entry(Flat(0.45)), "best": Entry(Flat(0.2)), **sanity()}
    cells = {(c.system, c.measure): c for c in evaluation(tmp_path, systems).run()}
    assert cells["best", "own.auprc"].value > cells["bad", "own.auprc"].value
    assert np.isnan(cells["best", "own.auprc"].p_value)
    # 50 resamples: at least 2 / 51, and twice that for two compared rows (good and bad)
    assert cells["bad", "own.auprc"].p_value == pytest.approx(2 * 2 / 51)
    assert np.isnan(cells["perfect", "own.auprc"].p_value)


def test_real_lesions_are_spread_by_bootstrap_and_told_apart_by_size(tmp_path):
    cells = {
        c.measure: c for c in evaluation(tmp_path, {"flat": Entry(Flat())}, Squares((None,)), spread="bootstrap").run()
    }
    assert cells["own.auprc"].std > 0
    assert {"size.3-71.auprc", "size.>71.auprc"} <= cells.keys()


def test_sizes_are_read_as_published():
    assert size_ranges([3, 71, 570]) == [("3-71", 3, 71), ("72-570", 72, 570), (">570", 571, float("inf"))]
    assert size_ranges([]) == []


def test_examples_are_chosen_by_number_alone():
    assert example_indices(60, 4) == [0, 20, 39, 59]
    assert example_indices(2, 4) == [0, 1]


def test_an_entry_has_one_source_of_maps_and_a_known_role():
    with pytest.raises(ValueError, match="give one of"):
        Entry()
    with pytest.raises(ValueError, match="give one of"):
        Entry(ConstantMap(), maps_dir="x")
    with pytest.raises(ValueError, match="role"):
        Entry(ConstantMap(), role="winner")
