"""Names that hospitals give their series, in many languages: which are T1w heads before contrast agent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from scripts.dicom.selection import judge, load_rules
from tests.conftest import BUNDLE
from tests.dicom.test_selection import series

RULES = load_rules(BUNDLE / "configs" / "dicom_series.json")
TABLE = (Path(__file__).parent / "series_names.txt").read_text(encoding="utf-8")
NAMES = {
    part.splitlines()[0]: part.splitlines()[1:] for part in TABLE.strip("# \n").replace("\n\n# ", "\0").split("\0")
}


@pytest.mark.parametrize("name", NAMES["T1w without contrast agent"] + NAMES["T1w of the head"])
def test_heads_without_contrast_agent_are_taken(name: str) -> None:
    verdict, reason = judge(series(SeriesDescription=name, BodyPartExamined=""), RULES)
    assert verdict, reason
    assert ("without contrast agent" in reason) == (name in NAMES["T1w without contrast agent"])


@pytest.mark.parametrize("name", NAMES["T1w after contrast agent"])
def test_heads_after_contrast_agent_are_left_out(name: str) -> None:
    verdict, reason = judge(series(SeriesDescription=name, BodyPartExamined="BRAIN"), RULES)
    assert (verdict, reason) == (False, "after contrast agent, by its name")


@pytest.mark.parametrize("name", NAMES["no T1w image of the head"])
def test_other_contrasts_and_parts_of_the_body_are_left_out(name: str) -> None:
    verdict, reason = judge(series(SeriesDescription=name, BodyPartExamined=""), RULES)
    assert verdict is False
    assert "contrast agent" not in reason


AGENTS = {
    "": True, "NO CONTRAST": True, "None given": True, "N/A": True, "kein KM": True, "without": True, "0": True,
    "-": True, "none": True, "ohne": True, "sans": True, "not applicable": True, "NO": True, "YES": False,
    "Gadovist 7 ml": False, "GADOLINIUM": False, "NovaGad": False, "Dotarem": False, "10 ml": False,
}  # fmt: skip


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_in_words(agent: str) -> None:
    assert judge(series(SeriesDescription="t1_mprage", ContrastBolusAgent=agent), RULES)[0] is AGENTS[agent]


def test_an_agent_by_its_code_or_volume() -> None:
    code = Dataset()
    code.CodeMeaning = "Gadobutrol"
    agent = {"SeriesDescription": "t1_mprage", "ContrastBolusAgentSequence": [code]}
    assert judge(series(**agent), RULES)[0] is False
    assert judge(series(**agent, ContrastBolusAgentAdministered="NO"), RULES)[0]
    assert judge(series(SeriesDescription="t1_mprage", ContrastBolusVolume=7.5), RULES)[0] is False
    assert judge(series(SeriesDescription="t1_mprage", ContrastBolusVolume=0), RULES)[0]


@pytest.mark.parametrize(
    "name", ["BRAIN W/WO CONTRAST/7", "MRA BRAIN STROKE DWI", "Brain/Orbits/Pituitary", "C-SPINE +C"]
)
def test_the_protocol_of_ge_is_the_exams_and_of_others_the_series(name: str) -> None:
    names = {"SeriesDescription": "Sag T1 FSPGR", "ProtocolName": name}
    for maker in ("GE MEDICAL SYSTEMS", "GE Healthcare"):
        assert judge(series(Manufacturer=maker, **names), RULES)[0]
    assert judge(series(SeriesDescription="AX", ProtocolName="t1_se_tra_KM", Manufacturer="SIEMENS"), RULES)[0] is False


def test_a_name_of_any_length_is_judged_at_once() -> None:
    """No pattern tries all ways to part a long name into words."""
    begun = time.perf_counter()
    for name in ("dixon" + "a" * 3000, "w/o " + "the " * 800, "t1 " + "-_ " * 1000, "no" * 2000, "pre" + " gd c" * 600):
        judge(series(SeriesDescription=name), RULES)
    assert time.perf_counter() - begun < 20
