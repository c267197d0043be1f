"""Findings: numbered by peak, at their place and size, on the side where they lie."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine

from scripts.pipeline.findings import COLUMNS, find, regions, sides_known, write_findings
from scripts.pipeline.thresholds import Thresholds

AFFINE = np.array([[-2.0, 0, 0, 60], [0, 2, 0, -70], [0, 0, 3, -40], [0, 0, 0, 1.0]])  # x runs to the left
INTO_MNI = np.array([[0.0, 2, 0, 5], [-2, 0, 0, 40], [0, 0, 3, -38], [0, 0, 0, 1.0]])


def map_with(*lesions: tuple[tuple[slice, slice, slice], float]) -> np.ndarray:
    anomaly = np.zeros((40, 40, 20), dtype=np.float32)
    for place, value in lesions:
        anomaly[place] = value
    return anomaly


LIMITS = Thresholds(0.1)
WEAK = (slice(5, 9), slice(5, 9), slice(5, 8)), 0.4
STRONG = (slice(30, 33), slice(20, 23), slice(10, 12)), 0.9
SPECK = (slice(20, 21), slice(30, 31), slice(2, 3)), 2.0


def test_regions_are_numbered_by_falling_peak_and_specks_left_out() -> None:
    labels, peaks, sizes = regions(map_with(WEAK, STRONG, SPECK), 0.1, 2)
    assert peaks == pytest.approx([0.9, 0.4])
    assert sizes == [18, 48]
    assert (labels[STRONG[0]] == 1).all()
    assert (labels[WEAK[0]] == 2).all()
    assert not labels[SPECK[0]].any()
    assert regions(map_with(WEAK), 0.5, 1)[1] == []


def test_corners_touch() -> None:
    anomaly = map_with(((slice(0, 2),) * 3, 1.0), ((slice(2, 4),) * 3, 1.0))
    assert regions(anomaly, 0.5, 1)[2] == [16]


def test_a_region_ends_where_the_map_falls_below_its_share_of_the_peak() -> None:
    """A strong core in a weak halo; a weak region of its own stays."""
    core, halo = (slice(12, 15),) * 3, (slice(10, 18),) * 3
    anomaly = map_with((halo, 0.15), (core, 1.0), ((slice(30, 34),) * 2 + (slice(2, 6),), 0.15))
    assert regions(anomaly, 0.1, 1)[2] == [512, 64]
    assert regions(anomaly, 0.1, 1, 0.2)[2] == [27, 64]
    record = {"heads": {"label_threshold": 0.1, "peak_share": 0.2}}
    assert Thresholds.of(record, "heads").peak_share == 0.2
    assert Thresholds.of(record, "heads", 0.3).peak_share == 0.0  # a threshold of one's own is taken as it is


def test_place_size_and_strength() -> None:
    healthy = ((), ((0.5, 100.0),), ((0.9, 40.0), (0.2, 900.0)), ((1.2, 500.0),))
    limits = Thresholds(0.1, healthy_peaks=(0.0, 0.5, 0.9, 1.2), healthy_findings=healthy)
    label, found = find(map_with(WEAK, STRONG), limits, 2.0, AFFINE, INTO_MNI)
    first = found[0]
    assert (first.number, first.volume_mm3, first.peak) == (1, 18 * 12.0, pytest.approx(0.9))
    centre = (31, 21, 10.5)
    assert (first.x_mm, first.y_mm, first.z_mm) == pytest.approx(tuple(apply_affine(AFFINE, centre)))
    assert (first.mni_x_mm, first.mni_y_mm, first.mni_z_mm) == pytest.approx(tuple(apply_affine(INTO_MNI, centre)))
    assert first.healthy_as_strong == pytest.approx(0.25, abs=0.26)  # 0.9 in single precision is no tie
    assert found[1].healthy_as_strong == 0.75
    assert [one.healthy_as_strong_and_large for one in found] == [0.5, 0.5]  # of at least 36, of at least 96
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1, 2}


@pytest.mark.parametrize(("x", "side"), [(-30.0, "left"), (30.0, "right"), (2.0, "midline")])
def test_sides_are_the_patients(x: float, side: str) -> None:
    into_mni = np.diag([1.0, 1.0, 1.0, 1.0])
    into_mni[0, 3] = x - 31
    assert find(map_with(STRONG), LIMITS, 1, AFFINE, into_mni)[1][0].side == side
    assert find(map_with(STRONG), LIMITS, 1, AFFINE, into_mni, sides_known=False)[1][0].side == "unknown"


def test_what_the_input_does_not_know_stays_unknown(tmp_path: Path) -> None:
    found = find(
        map_with(STRONG), LIMITS, 1, AFFINE, INTO_MNI, spacing_known=False, sides_known=False, height_known=False
    )[1]
    thin = find(map_with(STRONG), LIMITS, 1, AFFINE, INTO_MNI, thickness_known=False)[1][0]
    assert thin.volume_mm3 is None
    assert thin.x_mm is not None
    write_findings(found, tmp_path / "findings.csv")
    with (tmp_path / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {name for name, value in rows[0].items() if not value} == {
        "volume_mm3", "x_mm", "y_mm", "z_mm", "structures", "healthy_as_strong", "healthy_as_strong_and_large",
    }  # fmt: skip
    assert rows[0]["side"] == "unknown"
    assert not sides_known({"spacing_known": False})
    assert not sides_known({"sform_code": 0, "qform_code": 0})
    assert sides_known({"sform_code": 0, "qform_code": 1})
    assert sides_known({"format": "DICOM"})


def test_the_weakest_share_the_last_number() -> None:
    places = [(slice(x, x + 1), slice(y, y + 1), slice(0, 1)) for x in range(0, 40, 6) for y in range(0, 40, 6)][:23]
    label, found = find(map_with(*[(p, 1.0 + i) for i, p in enumerate(places)]), Thresholds(0.5), 1, AFFINE, INTO_MNI)
    assert [finding.number for finding in found] == list(range(1, 24))
    assert label[places[-1]] == 1
    assert [int(label[p].item()) for p in places[:4]] == [20, 20, 20, 20]
    assert (label == 20).sum() == 4


def test_no_finding_is_an_empty_label_and_a_header(tmp_path: Path) -> None:
    label, found = find(map_with(), LIMITS, 1, AFFINE, INTO_MNI)
    assert not label.any()
    write_findings(found, tmp_path / "findings.csv")
    assert (tmp_path / "findings.csv").read_text().strip() == ",".join(COLUMNS)


def test_structures_stand_in_the_table_with_their_share(tmp_path: Path) -> None:
    into_mni = np.diag([1.0, 1.0, 1.0, 1.0])
    into_mni[:3, 3] = np.array([-12.0, -18.0, 8.0]) - [31, 21, 10.5]  # the centre in the left thalamus
    found = find(map_with(STRONG), LIMITS, 1, AFFINE, into_mni)[1]
    write_findings(found, tmp_path / "findings.csv")
    with (tmp_path / "findings.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["structures"] == "left thalamus 100 %"
    assert str(find(map_with(STRONG), LIMITS, 1, AFFINE, into_mni, sides_known=False)[1][0].structures[0]) == (
        "thalamus 100 %"
    )
