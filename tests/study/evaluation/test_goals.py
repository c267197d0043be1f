"""Goals: computed by hand; what was not run is never reached."""

from __future__ import annotations

import json

import pytest

from scripts.common.errors import PhanesInputError
from scripts.study.baselines.train_all import baseline_configs
from scripts.study.evaluation.goals import Goals, Verdict, goals_table
from scripts.study.evaluation.summary import Cell
from tests.conftest import BUNDLE

ROLES = {"ours": "proposed", "ra": "baseline", "z": "baseline", "given": "oracle", "stage": "ablation"}


def cells(**values: float) -> list[Cell]:
    """`system__set=AUPRC` -> cells of one seed."""
    return [
        Cell(name.split("__")[1], name.split("__")[0], "own.auprc", value, float("nan"), seeds=1)
        for name, value in values.items()
    ]


def verdict(goal: dict, found: list[Cell], seeds: int = 0) -> Verdict:
    entry = {"name": "g", "set": "a", "measure": "own.auprc", "system": "ours", **goal}
    return Goals([entry], seeds).verdicts(found, ROLES, {"z": "z-score"})[0]


@pytest.mark.parametrize(("bound", "reached"), [(80, True), (80.01, False)])
def test_a_value_is_times_100_and_its_bound_included(bound, reached):
    found = verdict({"at_least": bound}, cells(ours__a=0.8))
    assert (found.reached, found.result, found.verdict) == (reached, "80.00", "yes" if reached else "no")


def test_a_relative_goal_is_a_change_in_percent_of_the_other_system():
    found = verdict({"kind": "relative", "to": "ra", "at_least": 10}, cells(ours__a=0.66, ra__a=0.6))
    assert found.number == pytest.approx(10)
    assert found.reached
    lower = verdict({"kind": "relative", "to": "ra", "at_most": -80}, cells(ours__a=0.13, ra__a=0.6))
    assert lower.number == pytest.approx(100 * 0.13 / 0.6 - 100)
    assert lower.reached is False
    assert lower.goal.target == "<= -80 %"


def test_a_drop_is_in_points_and_the_worst_of_several_sets_counts():
    found = cells(ours__base=0.7, ours__a=0.66, ours__b=0.58)
    drop = verdict({"kind": "drop", "below": "base", "set": ["a", "b"], "at_most": 10}, found)
    assert drop.number == pytest.approx(12)
    assert drop.result == "12.00 points (b)"
    assert drop.reached is False
    assert verdict({"kind": "drop", "below": "base", "set": ["a"], "at_most": 10}, found).reached


def test_first_is_among_all_systems_that_are_not_shown_the_truth():
    first = verdict({"kind": "first"}, cells(ours__a=0.5, ra__a=0.3, z__a=0.4, given__a=1.0, stage__a=0.6))
    assert first.reached
    assert first.result == "1 of 3: 50.00, z-score 40.00"
    second = verdict({"kind": "first"}, cells(ours__a=0.35, ra__a=0.3, z__a=0.4))
    assert (second.number, second.reached) == (2, False)


def test_for_distances_the_lowest_is_first():
    found = [Cell("a", key, "lpips.healthy", value, 0.0) for key, value in (("ours", 0.1), ("ra", 0.3), ("z", 0.2))]
    assert verdict({"kind": "first", "measure": "lpips.healthy"}, found).reached


@pytest.mark.parametrize(
    ("goal", "found", "text"),
    [
        ({"at_least": 0}, {}, "not run: ours on a"),
        ({"at_least": 0}, {"ours__a": float("nan")}, "not run: ours on a"),
        ({"kind": "relative", "to": "ra", "at_least": -99}, {"ours__a": 0.9}, "not run: ra on a"),
        ({"kind": "first"}, {"ours__a": 0.9, "z__a": 0.1}, "not run: ra on a"),
        ({"kind": "first"}, {"ours__a": 0.9}, "not run: ra on a and 1 more"),
        ({"kind": "drop", "below": "b", "at_most": 99}, {"ours__a": 0.9}, "not run: ours on b"),
        (
            {"kind": "drop", "below": "b", "set": ["a", "c"], "at_most": 9},
            {"ours__a": 0.9, "ours__b": 0.9},
            "not run: ours on c",
        ),
    ],
)
def test_what_was_not_run_is_never_reached(goal, found, text):
    ended = verdict(goal, cells(**found))
    assert ended.reached is None
    assert ended.verdict == text
    assert ended.record()["reached"] is None


def test_what_was_run_can_show_that_a_goal_is_missed():
    assert verdict({"kind": "first"}, cells(ours__a=0.1, z__a=0.9)).reached is False
    missed = {"kind": "drop", "below": "b", "set": ["a", "c"], "at_most": 9}
    assert verdict(missed, cells(ours__a=0.1, ours__b=0.9)).reached is False


def test_fewer_seeds_than_the_goal_is_stated_for_are_said():
    assert verdict({"at_least": 1}, cells(ours__a=0.5), seeds=10).verdict == "yes (1 of 10 seeds)"
    assert verdict({"at_least": 1, "seeds": 0}, cells(ours__a=0.5), seeds=10).verdict == "yes"


@pytest.mark.parametrize(
    ("goal", "sentence"),
    [
        ({"kind": "best"}, "choose among value, relative, first, drop"),
        ({}, "one of at_least and at_most"),
        ({"at_least": 1, "at_most": 2}, "one of at_least and at_most"),
        ({"kind": "relative", "at_least": 1}, "belongs to the kind relative"),
        ({"kind": "drop", "at_most": 1}, "belongs to the kind drop"),
        ({"set": [], "at_most": 1}, "set is empty"),
        ({"at_lest": 1}, "at_lest"),
    ],
)
def test_contradictory_goals_are_refused(goal, sentence):
    with pytest.raises(PhanesInputError, match=sentence):
        verdict(goal, [])


def test_the_table_puts_paper_target_and_result_side_by_side():
    table = goals_table([verdict({"at_least": 80, "paper": "77.93"}, cells(ours__a=0.81))])
    assert table == (["Goal", "Paper", "Target", "Result", "Reached"], [["g", "77.93", ">= 80", "81.00", "yes"]])


def test_the_goals_in_the_configs_are_whole_and_about_systems_and_measures_there_are():
    for name in ("evaluate_synthetic", "evaluate_lesions", "evaluate_shifts"):
        config = json.loads((BUNDLE / "configs" / f"{name}.json").read_text())
        synthetic = json.loads((BUNDLE / "configs" / "evaluate_synthetic.json").read_text())
        systems = synthetic["system_defs"] | baseline_configs(BUNDLE / "configs" / "baselines")
        goals = Goals(config["goals"]).goals
        assert goals
        for goal in goals:
            assert {goal.system, goal.to or goal.system} <= systems.keys()
            assert goal.measure in {
                "own.auprc", "own.best_dice", "lpips.healthy", "lpips.anomaly", "false_positives.rate",
                "false_positives.low",
            }  # fmt: skip
