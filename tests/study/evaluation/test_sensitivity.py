"""The sensitivity table: one thing changed at a time, and heads sorted by what was painted there."""

from __future__ import annotations

import numpy as np
import pytest
from monai.bundle import ConfigParser

from scripts.space import alignment
from scripts.study.evaluation import sensitivity
from scripts.study.evaluation.heads import HeadEvaluation
from scripts.study.evaluation.heads_data import HealthyHeads
from scripts.study.evaluation.heads_painting import FIXED, Painting
from scripts.study.evaluation.heads_registrations import Registrations
from scripts.study.evaluation.heads_systems import ConstantHeads, PerfectHeads
from tests.conftest import BUNDLE

from ...synthetic_heads import found_at_once, write_heads, write_shapes


def test_each_variant_changes_one_thing_alone():
    assert next(iter(sensitivity.VARIANTS.values())) == FIXED
    for painting in list(sensitivity.VARIANTS.values())[1:]:
        assert sum(value != vars(FIXED)[name] for name, value in vars(painting).items()) == 1


def test_the_table_has_a_row_a_variant_and_a_row_a_stratum(tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "register", found_at_once)
    variants = {"reported": FIXED, "faint": Painting(depth=(0.8, 0.9))}
    monkeypatch.setattr(sensitivity, "VARIANTS", variants)
    heads, shapes = write_heads(tmp_path / "heads", 4), write_shapes(tmp_path / "shapes")
    registrations = Registrations(tmp_path / "registrations")
    sets = sensitivity.painted_variants(heads, shapes, registrations, tmp_path / "painted", None, 3, 2)
    assert [len(one.seeds) for one in sets] == [2, 1]
    systems = {"constant": ConstantHeads(), "perfect": PerfectHeads()}
    calibration = HealthyHeads("calibration", heads, registrations)
    sensitivity.report(HeadEvaluation("Painting", sets, calibration, systems, tmp_path, resamples=20))
    rows = {}
    for line in (tmp_path / "sensitivity.md").read_text().splitlines():
        if line.startswith("|"):
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[name] = cells
    assert rows["reported (3)"][1].startswith("100.00")
    assert float(rows["faint (3)"][0].split()[0]) < 5
    sizes = [name for name in rows if " ml (" in name]
    assert len(sizes) == 3
    for kind in ("d ", "z "):
        counts = [int(name.split("(")[1][:-1]) for name in rows if name.startswith(kind)]
        assert sum(counts) == 6
    assert all("100.00" in rows[name][1] for name in sizes)


def test_a_depth_outside_the_ranges_falls_into_the_nearest(made_case):
    case, registrations = made_case
    names = [name for _, _, name in sensitivity._strata(case, registrations)]
    assert names[1] == "d 0.58 to 0.7"


@pytest.fixture
def made_case(tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "register", found_at_once)
    heads, shapes = write_heads(tmp_path / "heads", 1), write_shapes(tmp_path / "shapes")
    registrations = Registrations(tmp_path / "registrations")
    monkeypatch.setattr(sensitivity, "VARIANTS", {"faint": Painting(depth=(0.9, 0.9))})
    (faint,) = sensitivity.painted_variants(heads, shapes, registrations, tmp_path / "painted", None, 1, 1)
    case = next(faint.cases(0))
    assert np.asarray(case.truth).any()
    return case, registrations


def test_the_config_is_an_overlay_of_the_evaluation():
    parser = ConfigParser()
    files = ("inference.json", "evaluate_heads.json", "sensitivity.json")
    parser.read_config([str(BUNDLE / "configs" / name) for name in files])
    parser.update({"bundle_root": str(BUNDLE), "device": "cpu"})
    sets = parser.get_parsed_content("set_defs")
    assert [one.name for one in sets] == list(sensitivity.VARIANTS)
    assert {one.heads for one in sets} == {6}
    assert parser.get_parsed_content("set_names") is None
    assert parser.get("evaluate") == ["@sensitivity"]
