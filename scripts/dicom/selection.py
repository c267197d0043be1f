"""Choose the T1-weighted head series of a study by rules on header attributes. The rules lie in a config file.

A rule is a dictionary. Its keys are DICOM keywords, several joined by commas. It matches when all its keys do. The
values of the attributes are joined by backslashes, without accents and capitals. A key asks one of

- a regular expression to be found in them; `^$` is an absent attribute;
- a range `[low, high]` of numbers, null for an open end;
- `{"words": [...], "cut": [...], "without": [...]}`, names of lists of words. All of `cut` are taken out. Then one of
  `words` must be there, and none of `without`.

Lists of words stand in the rule set's `words`, separated by spaces. In an entry `_` is any separator or none, `<name>`
a word of another list, and the rest a regular expression. A word does not begin or end inside of another one, except in
scripts without spaces. Enhanced objects are searched in their functional groups, too. `reason` says what a match means.
Keys that begin with an underscore are comments.
"""

from __future__ import annotations

import json
import re
import unicodedata
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
KINDS = ("refuse", "accept", "unclear", "prefer")
NOTHING = "nothing in its header says T1w"
AGENT = "contrast agent"  # in the reason of a rule that says whether there was one
GAP = " 0 "  # between values, and for words that were taken out: no phrase reaches over it


@dataclass(frozen=True)
class Decision:
    """What the rules say of a series: analyse it or not, and why. `warning` goes with the results."""

    series: Series
    chosen: bool
    reason: str
    warning: str = ""


class SeriesSelection:
    """The user's choice of series, as the config gives it.

    It keeps the last `decisions` and what was `passed_over`, for the list of series.

    Args:
        rules: JSON file of the rule set, or the rule set; None takes every series.
        uid: Series Instance UID, or several, to analyse whatever the rules say.
        rule: one rule to take instead of the rule set.

    Raises:
        PhanesInputError: a rule set or rule cannot be read, or `uid` and `rule` are given together.
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
        self.passed_over: list[tuple[Path, str]] = []

    def decide(self, found: Sequence[Series], named: bool = False) -> list[Decision]:
        """`choose_series`, but a single file that the user named is always analysed; the rules only warn."""
        self.decisions = choose_series(found, self.rules, self.uids, self.rule)
        if named:
            self.decisions = [
                d if d.chosen else Decision(d.series, True, "named", f"by its DICOM header: {d.reason}")
                for d in self.decisions
            ]
        return self.decisions


def load_rules(rules: str | Path | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The checked rule set as a dictionary, from a JSON file or as it is.

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
        raise PhanesInputError("series_rules is not understood: give a dictionary whose 'choose' is all or best.")
    rules = dict(rules)
    for kind in KINDS:
        rules[kind] = [_with_words(rule, rules.get("words", {})) for rule in rules.get(kind, [])]
        for rule in rules[kind]:
            check_rule(rule)
    return rules


def _pattern(name: str, words: Mapping[str, Any], inside: tuple[str, ...] = ()) -> str:
    """A list of words as a regular expression. `inside` are the lists around it, so that none holds itself."""
    if name not in words or name in inside:
        raise PhanesInputError(
            f"series_rules names a list of words '{name}', which is missing or holds itself: mend it."
        )
    listed = words[name] if isinstance(words[name], str) else " ".join(words[name])
    entries = [
        re.sub("<([a-z]+)>", lambda m: f"(?:{_pattern(m[1], words, (*inside, name))})", entry.replace("_", r"[\W_]*"))
        for entry in plain(listed).split()
    ]
    return "|".join(entries)


def _with_words(rule: Rule, words: Mapping[str, Any]) -> Rule:
    """The rule with its lists of words as regular expressions."""
    if not isinstance(rule, Mapping):
        return rule
    compiled = dict(rule)
    for key, wanted in rule.items():
        if isinstance(wanted, Mapping):
            compiled[key] = {
                what: names
                if isinstance(names, re.Pattern)
                else _compiled(_apart("|".join(_pattern(name, words) for name in names)))
                for what, names in wanted.items()
            }
    return compiled


def _apart(pattern: str) -> str:
    """The pattern, but not inside of a word. Chinese, Japanese and Korean do not separate words."""
    letter = r"[^\W\d_\u1100-\uffff]"
    return f"(?:(?<!{letter})|(?!{letter}))(?:{pattern})(?:(?<!{letter})|(?!{letter}))"


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)  # of words: in small letters, as `plain` leaves them
    except re.error as error:
        raise PhanesInputError(f"The series rules hold a bad pattern '{pattern[:60]}' ({error}): mend it.") from error


def plain(text: str) -> str:
    """Text in small letters, without accents."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(c for c in parts if not unicodedata.combining(c)).casefold()


def check_rule(rule: Rule) -> None:
    """Raise `PhanesInputError` for a rule that no header can be compared with."""
    if not isinstance(rule, Mapping):
        raise PhanesInputError(f"The series rule {rule!r} is no dictionary: give DICOM keywords and patterns.")
    for keywords, wanted in _conditions(rule):
        unknown = [name for name in keywords if tag_for_keyword(name) is None]
        if unknown:
            raise PhanesInputError(
                f"The series rule {dict(rule)} names '{unknown[0]}', which is no DICOM keyword: correct it."
            )
        if isinstance(wanted, str):
            _compiled(wanted)
        elif isinstance(wanted, Mapping):
            if not set(wanted) <= {"words", "cut", "without"}:
                raise PhanesInputError(
                    f"The series rule {dict(rule)} may hold words, cut and without only: take the rest out."
                )
        elif not (isinstance(wanted, Sequence) and len(wanted) == 2):
            raise PhanesInputError(
                f"The series rule {dict(rule)} has an unknown value: give a pattern or a range [low, high]."
            )


def _conditions(rule: Rule) -> Iterator[tuple[list[str], Any]]:
    for key, wanted in rule.items():
        if key != "reason" and not key.startswith("_"):
            yield [name.strip() for name in key.split(",")], wanted


def matches(rule: Rule, header: Dataset) -> bool:
    """True when the header meets every condition of the rule."""
    return all(_meets(header, keywords, wanted) for keywords, wanted in _conditions(rule))


def _meets(header: Dataset, keywords: Sequence[str], wanted: Any) -> bool:
    values = [value for name in keywords for value in _values(header, name)]
    if isinstance(wanted, str):
        return bool(re.search(wanted, plain("\\".join(map(str, values))), flags=re.IGNORECASE))
    if isinstance(wanted, Mapping):
        text = plain(GAP.join(map(str, values)))
        left = wanted["cut"].sub(GAP, text) if "cut" in wanted else text
        return bool("words" not in wanted or wanted["words"].search(left)) and not (
            "without" in wanted and wanted["without"].search(text)
        )
    try:
        number = float(values[0])
    except (IndexError, TypeError, ValueError):
        return False
    low, high = wanted
    return (low is None or number >= low) and (high is None or number <= high)


def _values(header: Dataset, keyword: str) -> list[Any]:
    # On GE scanners the protocol's name is that of the exam ("BRAIN W/WO CONTRAST"), not of the series.
    if keyword == "ProtocolName" and str(header.get("Manufacturer", "")).upper().startswith(("GE ", "GEMS")):
        return []
    return header_values(header, keyword)


def judge(series: Series, rules: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether the rules take the series for a T1w head, and why. None: nothing speaks for or against it.

    Files that cannot be read are chosen: the run then says what is wrong with them.
    """
    if not series.header:
        return True, "cannot be read"
    for rule in rules.get("refuse", []):
        if matches(rule, series.header):
            return False, str(rule.get("reason", "refused by a rule"))
    accepted = (rule for rule in rules.get("accept", []) if matches(rule, series.header))
    reason = str(next(accepted, {"reason": ""}).get("reason", "accepted by a rule"))
    for rule in rules.get("unclear", []):
        if reason and matches(rule, series.header):
            return None, str(rule.get("reason", "unclear by a rule"))
    return (True, reason) if reason else (None, NOTHING)


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
        uids: Series Instance UIDs to analyse, whatever the rules say. Others are left out.
        only: one rule to take instead of the rule set.

    Returns:
        A decision for each series, in the same order. If a study has no accepted series, the only one that nothing
        speaks against is analysed, with a warning. With `choose: best` one series a study is analysed: the first by the
        `prefer` rules, then by the number of slices.

    Raises:
        PhanesInputError: a wanted UID is not there.
    """
    if uids:
        missing = [uid for uid in uids if uid not in {series.uid for series in found}]
        if missing:
            raise PhanesInputError(
                f"series_uid '{missing[0]}' is not among the {len(found)} DICOM series found: check the UID."
            )
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
    verdicts = {series: judge(series, rules) for series in members}
    warnings: dict[Series, str] = {}
    for series, first, reason in _perhaps_after_agent(verdicts):
        verdicts[series] = (None, reason)
        if first:
            warnings[first] = f"{_named(series)} was left out: {reason}"
    accepted = [series for series, (verdict, _) in verdicts.items() if verdict]
    unclear = [series for series, (verdict, reason) in verdicts.items() if verdict is None and reason != NOTHING]
    unknown = [series for series, verdict in verdicts.items() if verdict == (None, NOTHING)]
    if not accepted and unclear:
        first = next((one for one in unclear if not any(_later(one, other) for other in unclear)), unclear[0])
        others = [_named(one) for one in unclear if one is not first]
        beside = f", taken as the first in time, not {', '.join(others)}" if others else ""
        accepted = [first]
        warnings = {first: f"perhaps not a T1w image without contrast agent: {verdicts[first][1]}{beside}"}
    elif not accepted and len(unknown) == 1:
        accepted, warnings = unknown, {unknown[0]: "the DICOM header does not say that this series is T1w"}
    best = accepted
    if rules.get("choose", "all") == "best" and accepted:
        order = rules.get("prefer", [])
        best = [max(accepted, key=lambda s: ([matches(rule, s.header) for rule in order], s.frames))]
    decisions = []
    for series, (verdict, reason) in verdicts.items():
        if series in accepted and series not in best:
            reason = "another series of the study is preferred"
        elif verdict is False and AGENT in reason and best:
            reason += f"; {_named(best[0])} was taken"
        decisions.append(Decision(series, series in best, reason, warnings.get(series, "") if series in best else ""))
    return decisions


def _perhaps_after_agent(
    verdicts: Mapping[Series, tuple[bool | None, str]],
) -> list[tuple[Series, Series | None, str]]:
    """Accepted series that do not mention contrast agent, but were acquired after one that does, or after their like.

    Returns:
        The series, the accepted one of the same name that was acquired before it (or None), and the reason.
    """
    after = [series for series, (verdict, reason) in verdicts.items() if verdict is False and AGENT in reason]
    silent = [series for series, (verdict, reason) in verdicts.items() if verdict and AGENT not in reason]
    found: list[tuple[Series, Series | None, str]] = []
    for series in silent:
        alike = [other for other in silent if _alike(series, other) and _later(series, other)]
        earlier = [other for other in after if _later(series, other)]
        if alike:
            first = next(one for one in alike if not any(_later(one, other) for other in alike))
            found.append((series, first, f"perhaps after contrast agent: {_named(first)} of the same name is earlier"))
        elif earlier:
            found.append((series, None, f"perhaps after contrast agent, as {_named(earlier[0])} before it"))
    return found


def _named(series: Series) -> str:
    number = "" if series.number is None else f" (series {series.number})"
    return f"'{series.description or series.folder.name}'{number}"


def _later(one: Series, other: Series) -> bool:
    if one.began and other.began:
        return one.began > other.began
    return one.number is not None and other.number is not None and one.number > other.number


def _alike(one: Series, other: Series) -> bool:
    """Same name, and slices across the same axis."""
    return plain(one.description) == plain(other.description) and one.axis == other.axis
