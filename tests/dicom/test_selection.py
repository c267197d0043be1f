"""Which series of a study is the T1w head: the shipped rule set on headers as scanners write them; ways round it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, SecondaryCaptureImageStorage

from scripts.common.errors import PhanesInputError
from scripts.dicom.selection import SeriesSelection, choose_series, judge, load_rules, matches
from scripts.dicom.series import Series, find_series
from scripts.pipeline.cases import find_cases
from tests.conftest import BUNDLE
from tests.dicom.synthetic import header, save, slices

RULES = load_rules(BUNDLE / "configs" / "dicom_series.json")


def series(**changes: Any) -> Series:
    """A series that only its header stands for."""
    one = Series((Path("x.dcm"),), uid=str(changes.get("SeriesInstanceUID", "1")), study_uid="1")
    one.__dict__["header"] = header(**changes)
    return one


def without(*names: str) -> Series:
    one = series(SeriesDescription="brain")
    for name in names:
        delattr(one.header, name)
    return one


SPIN_ECHO = {"ScanningSequence": "SE", "SequenceVariant": "SK", "MRAcquisitionType": "2D", "SequenceName": "*se2d1"}
YES = {
    "Siemens MPRAGE": {"SeriesDescription": "SAG MPRAGE 220 FOV", "SequenceName": "*tfl3d1_16ns"},
    "GE BRAVO": {"SeriesDescription": "Sag 3D T1 BRAVO", "SequenceVariant": ["SS", "SK"], "ScanningSequence": "GR"},
    "GE FSPGR": {"SeriesDescription": "Ax 3D FSPGR"},
    "Philips TFE": {"SeriesDescription": "sT1W_3D_TFE", "ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]},
    "before contrast": {"SeriesDescription": "AX T1 PRE CONTRAST", **SPIN_ECHO, "RepetitionTime": 500, "EchoTime": 10},
    "without contrast": {"SeriesDescription": "T1 SE w/o contrast", **SPIN_ECHO, "RepetitionTime": 500, "EchoTime": 10},
    "T1 FLAIR": {"SeriesDescription": "Ax T1 FLAIR", "ScanningSequence": ["SE", "IR"], "EchoTime": 25},
    "spin echo without a name": {"SeriesDescription": "axial", **SPIN_ECHO, "RepetitionTime": 480, "EchoTime": 12},
    "gradient echo without a name": {"SeriesDescription": "3D sag", "ScanningSequence": "GR", "SequenceVariant": "SP",
                                     "RepetitionTime": 8, "EchoTime": 3, "FlipAngle": 12},
    "inversion-prepared without a name": {"SeriesDescription": "", "SequenceName": ""},
    "enhanced": {"SeriesDescription": "brain", "SOPClassUID": EnhancedMRImageStorage, "AcquisitionContrast": "T1"},
    "no agent said in words": {"ContrastBolusAgent": "NONE"},
    "head and neck coil": {"BodyPartExamined": "HEADNECK"},
}  # fmt: skip
NO = {
    "CT": ({"Modality": "CT"}, "not an MR image"),
    "screenshot": ({"SOPClassUID": SecondaryCaptureImageStorage}, "screenshot"),
    "ours": ({"Manufacturer": "PHANES"}, "result of PHANES"),
    "localizer": ({"SeriesDescription": "3-plane loc"}, "localizer"),
    "localizer type": ({"SeriesDescription": "t1", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    "survey": ({"SeriesDescription": "Survey SHC"}, "localizer"),
    "reformat": ({"ImageType": ["DERIVED", "SECONDARY", "MPR", "CSA MPR"]}, "reformat"),
    "phase": ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase"),
    "agent": ({"ContrastBolusAgent": "Dotarem 10 ml"}, "after contrast"),
    "after contrast": ({"SeriesDescription": "AX T1 POST"}, "after contrast"),
    "+C": ({"SeriesDescription": "Ax T1 +C fs"}, "after contrast"),
    "Kontrastmittel": ({"SeriesDescription": "t1_se_tra_KM"}, "after contrast"),
    "T2": ({"SeriesDescription": "t2_tse_tra", "EchoTime": 100}, "another contrast"),
    "T2 without a name": ({"SeriesDescription": "axial", **SPIN_ECHO, "EchoTime": 98}, "echo time"),
    "FLAIR": ({"SeriesDescription": "AX FLAIR"}, "FLAIR"),
    "dark fluid": ({"SeriesDescription": "tra_dark-fluid"}, "FLAIR"),
    "PD": ({"SeriesDescription": "PD TSE"}, "another contrast"),
    "SWI": ({"SeriesDescription": "SWI_Images"}, "another contrast"),
    "diffusion": ({"SeriesDescription": "ep2d", "ScanningSequence": "EP"}, "diffusion"),
    "TOF": ({"SeriesDescription": "TOF_3D_multi-slab"}, "another contrast"),
    "angiogram": ({"SeriesDescription": "3d fl", "AngioFlag": "Y"}, "angiogram"),
    "T1 map": ({"SeriesDescription": "T1_map"}, "another contrast"),
    "spine": ({"SeriesDescription": "t1_tse_sag", "BodyPartExamined": "CSPINE"}, "part of the body"),
    "knee": ({"SeriesDescription": "t1 knee sag"}, "part of the body"),
    "enhanced T2": ({"SeriesDescription": "", "AcquisitionContrast": "T2"}, "another contrast"),
}  # fmt: skip


@pytest.mark.parametrize("name", YES)
def test_t1w_heads_are_taken(name: str) -> None:
    verdict, reason = judge(series(**YES[name]), RULES)
    assert verdict, reason


@pytest.mark.parametrize("name", NO)
def test_everything_else_is_left_out_for_its_reason(name: str) -> None:
    changes, expected = NO[name]
    verdict, reason = judge(series(**changes), RULES)
    assert verdict is False
    assert expected in reason


def test_functional_groups_are_searched_too() -> None:
    ds = Dataset()
    group, timing = Dataset(), Dataset()
    timing.RepetitionTime = 2000.0
    group.MRTimingAndRelatedParametersSequence = [timing]
    ds.SharedFunctionalGroupsSequence = [group]
    assert matches({"RepetitionTime": [1999, None]}, ds)
    assert not matches({"RepetitionTime": [2001, None]}, ds)
    assert matches({"EchoTime": "^$"}, ds)
    assert not matches({"EchoTime": [None, 5]}, ds)


UNCLEAR = ("ScanningSequence", "SequenceVariant", "SequenceName")


def test_an_unclear_series_is_analysed_when_it_is_the_only_one_of_its_study() -> None:
    unclear, t2 = without(*UNCLEAR), series(SeriesDescription="t2")
    alone = choose_series([unclear, t2], RULES)
    assert [d.chosen for d in alone] == [True, False]
    assert "does not say that this series is T1w" in alone[0].warning
    beside = choose_series([unclear, series()], RULES)
    assert [(d.chosen, d.warning) for d in beside] == [(False, ""), (True, "")]


def test_the_best_series_of_a_study_is_the_preferred_one() -> None:
    spin_echo = series(SeriesDescription="t1_se", **SPIN_ECHO, SliceThickness=5)
    derived = series(ImageType=["DERIVED", "PRIMARY"], SliceThickness=1)
    original = series(SliceThickness=1)
    rules = {**RULES, "choose": "best"}
    assert [d.chosen for d in choose_series([spin_echo, derived, original], rules)] == [False, False, True]
    assert [d.chosen for d in choose_series([spin_echo, derived, original], RULES)] == [True, True, True]


def test_uid_and_rule_go_round_the_rule_set() -> None:
    found = [series(SeriesInstanceUID="1.1"), series(SeriesInstanceUID="1.2", SeriesDescription="AX T2")]
    assert [d.chosen for d in SeriesSelection(RULES, uid="1.2").decide(found)] == [False, True]
    assert [d.chosen for d in SeriesSelection(RULES, rule={"SeriesDescription": "t2"}).decide(found)] == [False, True]
    with pytest.raises(PhanesInputError, match=r"series_uid '1.3' is not among the 2 DICOM series"):
        SeriesSelection(RULES, uid=["1.1", "1.3"]).decide(found)
    with pytest.raises(PhanesInputError, match="exclude each other"):
        SeriesSelection(RULES, uid="1.1", rule={"SeriesDescription": "t2"})


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"refuse": [{"SeriesDescrption": "t2"}]}, "names 'SeriesDescrption', which is no DICOM keyword"),
        ({"accept": [{"SeriesDescription": "("}]}, "bad pattern"),
        ({"accept": [{"EchoTime": 3}]}, "has an unknown value: give a pattern or a range"),
        ({"choose": "some"}, "'choose' is all or best"),
        ("nowhere.json", "cannot be read"),
    ],
)
def test_a_rule_that_could_never_match_is_refused(rules: Any, sentence: str) -> None:
    with pytest.raises(PhanesInputError, match=sentence):
        SeriesSelection(rules)


def one_series(folder: Path, prefix: str = "", **changes: Any) -> None:
    changes.setdefault("SeriesInstanceUID", f"1.2.{changes.get('SeriesNumber', 1)}")
    save(slices(np.ones((3, 16, 16)), **changes), folder, lambda i: f"{prefix}{i}.dcm")


def test_a_tree_with_many_studies(tmp_path: Path) -> None:
    one_series(tmp_path / "a" / "t1", SeriesNumber=1, StudyInstanceUID="1.2.3.1")
    one_series(tmp_path / "a" / "t2", SeriesNumber=2, StudyInstanceUID="1.2.3.1", SeriesDescription="t2_tse")
    for number, name in ((11, "localizer"), (12, "T1 MPRAGE"), (13, "FLAIR")):  # one flat folder, as from a PACS
        one_series(
            tmp_path / "b", f"{number}_", SeriesNumber=number, StudyInstanceUID="1.2.3.2", SeriesDescription=name
        )
    for part in (1, 2):  # one series in two folders
        folder = tmp_path / "c" / f"part{part}"
        one_series(folder, SeriesNumber=21, StudyInstanceUID="1.2.3.3", origin=(0, 0, 3 * part))
    (tmp_path / "a" / "t1" / "notes.txt").write_text("no DICOM")
    selection = SeriesSelection(RULES)
    cases = find_cases(tmp_path, selection)
    assert [case["case"] for case in cases] == ["t1", "b_series12", "c_series21"]
    assert [len(case["files"]) for case in cases] == [3, 3, 6]
    assert len(selection.decisions) == 6
    assert find_cases(tmp_path, SeriesSelection(RULES, uid="1.2.13"))[0]["case"] == "b_series13"


def test_copies_in_one_folder_are_left_out_and_in_another_folder_are_another_case(tmp_path: Path) -> None:
    for folder, prefix in (("a", ""), ("a", "copy"), ("b", "")):
        one_series(tmp_path / folder, prefix)
    cases = find_cases(tmp_path)
    assert [case["case"] for case in cases] == ["a", "b"]
    assert cases[0]["note"] == "3 repeated DICOM files were left out"
    assert len(cases[0]["files"]) == 3
    assert "note" not in cases[1]


def test_unreadable_files_beside_a_series_are_said(tmp_path: Path) -> None:
    one_series(tmp_path / "a")
    (tmp_path / "a" / "bad.dcm").write_bytes(b"no DICOM")
    (case,) = find_cases(tmp_path)
    assert case["note"] == "1 DICOM files beside this series cannot be read ('bad.dcm')"


def test_no_t1w_series_is_one_sentence_with_the_reasons(tmp_path: Path) -> None:
    one_series(tmp_path / "a", SeriesDescription="AX T2")
    with pytest.raises(PhanesInputError, match=r"'AX T2' is left out: another contrast than T1, by its name"):
        find_cases(tmp_path, SeriesSelection(RULES))
    (case,) = find_cases(tmp_path / "a" / "0.dcm", SeriesSelection(RULES))  # a file that was named is analysed
    assert case["note"].startswith("by its DICOM header: another contrast than T1")


def test_the_rule_set_is_documented() -> None:
    text = json.loads((BUNDLE / "configs" / "dicom_series.json").read_text())
    assert all("reason" in rule for kind in ("refuse", "accept") for rule in text[kind])
    assert find_series([]) == []
