"""Goals beside results: what was aimed at, what the paper reports, what was measured, and whether that reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...common.errors import PhanesInputError
from .summary import Cell
from .tables import LOWER_IS_BETTER, NOTHING

KINDS = ("value", "relative", "first", "drop")
COMPARED = ("proposed", "baseline")  # roles of the systems that "first" is among
HEADINGS = ("Goal", "Paper", "Target", "Result", "Reached")
NOT_RUN = "not run"


@dataclass(frozen=True)
class Goal:
    """One goal, as a config states it.

    Attributes:
        name: in the table.
        set: name of the lesion set; of several, the worst counts.
        measure: as in `summary.Cell`.
        system: key of the system.
        kind: `value` (times 100), `relative` (change against the system `to`, in %), `first` (of all compared systems)
            or `drop` (points by which the score lies below the one on the set `below`).
        at_least: lowest number that reaches it.
        at_most: highest number that reaches it.
        to: for `relative`.
        below: for `drop`.
        paper: what the paper reports, as text.
        seeds: of lesions that the goal is stated for; fewer are said beside the result.

    Raises:
        PhanesInputError: a kind without what it needs.
    """

    name: str
    set: str | Sequence[str]
    measure: str
    system: str
    kind: str = "value"
    at_least: float | None = None
    at_most: float | None = None
    to: str | None = None
    below: str | None = None
    paper: str = NOTHING
    seeds: int = 0

    def __post_init__(self) -> None:
        problem = None
        if self.kind not in KINDS:
            problem = f"kind is {self.kind!r}: choose among {', '.join(KINDS)}"
        elif (self.at_least is None) == (self.at_most is None) and self.kind != "first":
            problem = "give one of at_least and at_most"
        elif (self.kind == "relative") != (self.to is not None):
            problem = "to, the system it is relative to, belongs to the kind relative"
        elif (self.kind == "drop") != (self.below is not None):
            problem = "below, the set that the drop is from, belongs to the kind drop"
        elif not self.sets:
            problem = "set is empty"
        if problem:
            raise PhanesInputError(f"goal '{self.name}': {problem}.")

    @property
    def sets(self) -> list[str]:
        """The sets it is about."""
        return [self.set] if isinstance(self.set, str) else list(self.set)

    @property
    def target(self) -> str:
        """What is to be reached, as text."""
        if self.kind == "first":
            return "first"
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        unit = {"value": "", "relative": " %", "drop": " points"}[self.kind]
        return f"{sign} {bound:+g}{unit}" if self.kind == "relative" else f"{sign} {bound:g}{unit}"

    def holds(self, number: float) -> bool:
        """Whether a number reaches it."""
        return number >= self.at_least if self.at_least is not None else number <= (self.at_most or 0.0)


@dataclass(frozen=True)
class Verdict:
    """What became of a goal.

    Attributes:
        goal: the goal.
        reached: None where something it needs was not run, and what was run does not decide it.
        number: result in the target's unit; the rank for `first`; None without a result.
        result: as text.
        missing: what was not run.
        seeds: of lesions behind the result.
    """

    goal: Goal
    reached: bool | None
    number: float | None = None
    result: str = NOTHING
    missing: list[str] = field(default_factory=list)
    seeds: int = 0

    @property
    def verdict(self) -> str:
        """`yes`, `no` or `not run`, with what qualifies it."""
        if self.reached is None:
            others = f" and {len(self.missing) - 1} more" if len(self.missing) > 1 else ""
            return f"{NOT_RUN}: {self.missing[0]}{others}"
        few = self.goal.seeds and 0 < self.seeds < self.goal.seeds
        return ("yes" if self.reached else "no") + (f" ({self.seeds} of {self.goal.seeds} seeds)" if few else "")

    def record(self) -> dict[str, Any]:
        """Plain values, for the record."""
        goal = {key: value for key, value in vars(self.goal).items() if value is not None}
        return {
            **goal, "target": self.goal.target, "result": self.number, "text": self.result, "reached": self.reached,
            "not_run": self.missing, "seeds_run": self.seeds,
        }  # fmt: skip


class Goals:
    """The goals of an evaluation.

    Args:
        goals: `Goal`s as dictionaries.
        seeds: of lesions that they are stated for; 0 when there are none.

    Raises:
        PhanesInputError: an unknown or contradictory entry.
    """

    def __init__(self, goals: Sequence[Mapping[str, Any]], seeds: int = 0) -> None:
        self.goals = []
        for entry in goals:
            try:
                self.goals.append(Goal(**{"seeds": seeds, **entry}))
            except TypeError as error:
                raise PhanesInputError(f"goal '{entry.get('name', entry)}': {str(error).split(') ')[-1]}.") from error

    def verdicts(self, cells: Sequence[Cell], roles: Mapping[str, str], labels: Mapping[str, str]) -> list[Verdict]:
        """Hold every goal against the numbers of the tables.

        Args:
            cells: of the evaluation.
            roles: of all its systems by key, whether they were run or not.
            labels: names of the systems that were run.
        """
        found = {(cell.set, cell.system, cell.measure): cell for cell in cells if not math.isnan(cell.value)}
        return [self._verdict(goal, found, roles, labels) for goal in self.goals]

    def _verdict(
        self,
        goal: Goal,
        found: Mapping[tuple[str, str, str], Cell],
        roles: Mapping[str, str],
        labels: Mapping[str, str],
    ) -> Verdict:
        if goal.kind == "first":
            return _rank(goal, found, roles, labels)
        numbers: dict[str, float] = {}
        missing: list[str] = []
        seeds: list[int] = []
        for name in goal.sets:
            cell = found.get((name, goal.system, goal.measure))
            other_set, other_system = goal.below or name, goal.to or goal.system
            other = found.get((other_set, other_system, goal.measure))
            missing += [f"{goal.system} on {name}"] if cell is None else []
            missing += [f"{other_system} on {other_set}"] if other is None else []
            if cell is not None and other is not None:
                numbers[name] = _number(goal, cell.value, other.value)
                seeds.append(cell.seeds)
        missing = list(dict.fromkeys(missing))
        if not numbers:
            return Verdict(goal, None, missing=missing)
        worst = (min if goal.at_least is not None else max)(numbers, key=lambda name: numbers[name])
        number = numbers[worst]
        where = f" ({worst})" if len(goal.sets) > 1 else ""
        text = {"value": f"{number:.2f}", "relative": f"{number:+.1f} %", "drop": f"{number:.2f} points"}[goal.kind]
        # What was run can show that a goal is missed, never that it is reached, while something is missing.
        reached = None if missing and goal.holds(number) else goal.holds(number)
        return Verdict(goal, reached, number, text + where, missing, min(seeds))


def _number(goal: Goal, value: float, other: float) -> float:
    """The result in the target's unit."""
    if goal.kind == "relative":
        return 100 * (value / other - 1) if other else float("nan")
    return 100 * (other - value if goal.kind == "drop" else value)


def _rank(
    goal: Goal,
    found: Mapping[tuple[str, str, str], Cell],
    roles: Mapping[str, str],
    labels: Mapping[str, str],
) -> Verdict:
    """Place among the compared systems, the worst of several sets; ties are shared, and a shared first is first."""
    rivals = [key for key, role in roles.items() if role in COMPARED and key != goal.system]
    sign = -1.0 if goal.measure in LOWER_IS_BETTER else 1.0
    missing: list[str] = []
    places: list[tuple[int, str]] = []
    seeds: list[int] = []
    for name in goal.sets:
        scores = {key: found.get((name, key, goal.measure)) for key in [goal.system, *rivals]}
        missing += [f"{key} on {name}" for key, cell in scores.items() if cell is None]
        ours = scores.pop(goal.system)
        theirs = {key: cell.value for key, cell in scores.items() if cell is not None}
        if ours is None or not theirs:
            continue
        place = 1 + sum(sign * value > sign * ours.value for value in theirs.values())
        best = max(theirs, key=lambda key: sign * theirs[key])
        places.append((
            place,
            f"{place} of {len(theirs) + 1}: {100 * ours.value:.2f}, {labels.get(best, best)} {100 * theirs[best]:.2f}"
            + (f" ({name})" if len(goal.sets) > 1 else ""),
        ))  # fmt: skip
        seeds.append(ours.seeds)
    if not places:
        return Verdict(goal, None, missing=missing)
    place, text = max(places, key=lambda found: found[0])
    reached = False if place > 1 else (None if missing else True)
    return Verdict(goal, reached, place, text, missing, min(seeds))


def goals_table(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table."""
    return list(HEADINGS), [[v.goal.name, v.goal.paper, v.goal.target, v.result, v.verdict] for v in verdicts]
