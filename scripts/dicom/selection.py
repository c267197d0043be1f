"""Choosing the T1-weighted head series of a study by rules on header attributes; the rules live in a config file.

A rule is a dictionary whose keys are DICOM keywords, several joined by commas, and whose values are a regular
expression (searched without regard to capitals in the attributes' values, joined by backslashes as DICOM does;
`^$` is an absent attribute) or a range `[low, high]` of numbers, null for an open end. It matches when all its keys
do. In enhanced objects an attribute is looked for in the functional groups too. `reason` says what a match means;
keys that begin with an underscore are comments.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from ..common.errors import PhanesInputError
from .headers import header_values
from .series import Series

Rule = Mapping[str, Any]
CHOICES = ("all", "best")


@dataclass(frozen=True)
class Decision:
    """What the rules say of a series: analyse it or not, and why; `warning` goes with the results."""

    series: Series
    chosen: bool
    reason: str
    warning: str = ""


class SeriesSelection:
    """The user's choice of series, as the config gives it; it keeps the last `decisions`, for the list of series.

    Args:
        rules: JSON file of the rule set, or the rule set; None takes every series.
        uid: Series Instance UID, or several, to analyse whatever the rules say.
        rule: one rule to take instead of the rule set.

    Raises:
        PhanesInputError: a rule set or rule that cannot be read, or `uid` and `rule` together.
    """

    def __init__(
        self,
        rules: str | Path | Mapping[str, Any] | None = None,
        uid: str | Sequence[str] | None = None,
        rule: Rule | None = None,
    ) -> None:
        if uid and rule:
            raise PhanesInputError("series_uid and series_rule exclude each other: give one of them.")
        if rule is not None:
            check_rule(rule)
        self.rules = load_rules(rules)
        self.uids = [uid] if isinstance(uid, str) else list(uid or [])
        self.rule = rule
        self.decisions: list[Decision] = []

    def decide(self, found: Sequence[Series], named: bool = False) -> list[Decision]:
        """`choose_series`; a single file that the user named is analysed, and what the rules say of it is a warning."""
        self.decisions = choose_series(found, self.rules, self.uids, self.rule)
        if named:
            self.decisions = [
                d if d.chosen else Decision(d.series, True, "named", f"by its DICOM header: {d.reason}")
                for d in self.decisions
            ]
        return self.decisions


def load_rules(rules: str | Path | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The rule set as a dictionary, from a JSON file or as it is; checked.

    Raises:
        PhanesInputError: the file is missing or no JSON, or a rule names no DICOM attribute or no valid pattern.
    """
    if rules is None:
        return None
    if not isinstance(rules, Mapping):
        try:
            rules = json.loads(Path(rules).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PhanesInputError(f"series_rules '{rules}' cannot be read ({error}): give a JSON file.") from error
    if not isinstance(rules, Mapping) or rules.get("choose", "all") not in CHOICES:
        raise PhanesInputError("series_rules must be a dictionary, its 'choose' one of all, best.")
    for kind in ("refuse", "accept", "prefer"):
        for rule in rules.get(kind, []):
            check_rule(rule)
    return dict(rules)


def check_rule(rule: Rule) -> None:
    """Raise `PhanesInputError` for a rule that no header could ever be held against."""
    if not isinstance(rule, Mapping):
        raise PhanesInputError(f"The series rule {rule!r} is no dictionary: give DICOM keywords and patterns.")
    for keywords, wanted in _conditions(rule):
        unknown = [name for name in keywords if tag_for_keyword(name) is None]
        if unknown:
            raise PhanesInputError(f"The series rule {dict(rule)} names '{unknown[0]}', which is no DICOM keyword.")
        if isinstance(wanted, str):
            try:
                re.compile(wanted)
            except re.error as error:
                raise PhanesInputError(f"The series rule {dict(rule)} holds a bad pattern ({error}).") from error
        elif not (isinstance(wanted, Sequence) and len(wanted) == 2):
            raise PhanesInputError(f"The series rule {dict(rule)} needs a pattern or a range [low, high].")


def _conditions(rule: Rule) -> Iterator[tuple[list[str], Any]]:
    for key, wanted in rule.items():
        if key != "reason" and not key.startswith("_"):
            yield [name.strip() for name in key.split(",")], wanted


def matches(rule: Rule, header: Dataset) -> bool:
    """True when the header meets every condition of the rule."""
    for keywords, wanted in _conditions(rule):
        values = [value for name in keywords for value in header_values(header, name)]
        if isinstance(wanted, str):
            if not re.search(wanted, "\\".join(str(value) for value in values), flags=re.IGNORECASE):
                return False
        else:
            try:
                number = float(values[0])
            except (IndexError, TypeError, ValueError):
                return False
            low, high = wanted
            if (low is not None and number < low) or (high is not None and number > high):
                return False
    return True


def judge(series: Series, rules: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether the rules take the series for a T1w head (None: nothing speaks for or against it), and why.

    Files that cannot be read are chosen, so that the run says what is wrong with them.
    """
    if not series.header:
        return True, "cannot be read"
    for rule in rules.get("refuse", []):
        if matches(rule, series.header):
            return False, str(rule.get("reason", "refused by a rule"))
    for rule in rules.get("accept", []):
        if matches(rule, series.header):
            return True, str(rule.get("reason", "accepted by a rule"))
    return None, "nothing in its header says T1w"


def choose_series(
    found: Sequence[Series],
    rules: Mapping[str, Any] | None = None,
    uids: Sequence[str] = (),
    only: Rule | None = None,
) -> list[Decision]:
    """Decide for each series whether it is analysed.

    Args:
        found: all series at hand.
        rules: the rule set; None accepts everything.
        uids: Series Instance UIDs to analyse whatever the rules say; all others are left out then.
        only: one rule to take instead of the rule set.

    Returns:
        A decision for each series, in the same order. A study in which no series is accepted yields its series that
        nothing speaks against, when that is the only one, with a warning. With `choose: best` one series a study is
        analysed, the first by the `prefer` rules and then by the number of slices.

    Raises:
        PhanesInputError: a wanted UID is not there.
    """
    if uids:
        missing = [uid for uid in uids if uid not in {series.uid for series in found}]
        if missing:
            raise PhanesInputError(f"series_uid '{missing[0]}' is not among the {len(found)} DICOM series found.")
        return [Decision(s, s.uid in uids, "chosen by UID" if s.uid in uids else "another UID") for s in found]
    if only is not None:
        hits = [matches(only, series.header) for series in found]
        return [
            Decision(s, hit, f"series_rule is {'' if hit else 'not '}met") for s, hit in zip(found, hits, strict=True)
        ]
    if rules is None:
        return [Decision(series, True, "no rules") for series in found]
    studies: dict[str, list[Series]] = defaultdict(list)
    for series in found:
        studies[series.study_uid or str(series.folder)].append(series)
    decided = {id(d.series): d for members in studies.values() for d in _decide_study(members, rules)}
    return [decided[id(series)] for series in found]


def _decide_study(members: list[Series], rules: Mapping[str, Any]) -> list[Decision]:
    verdicts = [(series, *judge(series, rules)) for series in members]
    accepted = [series for series, verdict, _ in verdicts if verdict]
    unclear = [series for series, verdict, _ in verdicts if verdict is None]
    warning = ""
    if not accepted and len(unclear) == 1:
        accepted, warning = unclear, "the DICOM header does not say that this series is T1w"
    best = accepted
    if rules.get("choose", "all") == "best" and accepted:
        order = rules.get("prefer", [])
        best = [max(accepted, key=lambda s: ([matches(rule, s.header) for rule in order], s.frames))]
    return [
        Decision(
            series,
            series in best,
            "another series of the study is preferred" if series in accepted and series not in best else reason,
            warning if series in best else "",
        )
        for series, _, reason in verdicts
    ]
