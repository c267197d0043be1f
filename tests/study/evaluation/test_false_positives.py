"""False positives on clean slices: counted by hand, skull on and off, within the same evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scripts.common.errors import PhanesInputError
from scripts.common.files import sha256_of_file
from scripts.study.baselines.phanes import WholeMethod
from scripts.study.evaluation.false_positives import CleanSlices, OperatingPoint
from scripts.study.evaluation.shifts import Shift
from scripts.study.evaluation.systems import ConstantMap, Entry
from scripts.training.calibration import false_positives
from tests.study.evaluation.test_runner import SIZE, Squares, evaluation


class FourChannels(nn.Module):
    """Map: the image itself; mask: where it is above 0.5."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image, image, (image > 0.5).to(image), image], dim=1)


class WithNetwork(WholeMethod):
    """A method that marks the image itself."""

    def __init__(self) -> None:
        super().__init__(FourChannels(), "flat")
        self.network.mask = nn.Identity()


class Healthy:
    """Three slices of two subjects: 4, 2 and no pixels of 0.6 in a brain of 40."""

    def __init__(self) -> None:
        images = torch.zeros(3, 1, SIZE, SIZE)
        images[0, 0, 0, :4] = images[1, 0, 0, :2] = 0.6
        images[:, 0, -1, -1] = 0.6  # outside the brain
        self.healthy = (images, ["a", "a", "b"])


def clean(**options) -> CleanSlices:
    brain = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    brain[:4, :10] = True
    off = Shift("off", lambda image: torch.zeros_like(image))
    return CleanSlices(Healthy(), brain, [off], resamples=200, batch_size=2, pixel_mm=2.0, **options)


def test_marked_pixels_are_counted_over_the_brain_and_averaged_over_subjects():
    as_it_is, off = clean().measure(WithNetwork(), 0.55)
    assert as_it_is["set"] == "clean slices"
    assert as_it_is["rate"] == pytest.approx(((4 + 2) / 2 / 40 + 0) / 2)
    assert as_it_is["interval_95"] == pytest.approx((0, 3 / 40))  # two subjects: both a, both b, or one of each
    assert as_it_is["marked_mm2"] == pytest.approx((5 + 3 + 1) / 3 * 4)
    assert as_it_is["mask_mm2"] == pytest.approx((5 + 3 + 1) / 3 * 4)
    assert as_it_is["mask_share"] == pytest.approx(9 / 3 / SIZE**2)
    assert (as_it_is["slices"], as_it_is["subjects"]) == (3, 2)
    assert off["set"] == "clean slices, off"
    assert off["rate"] == off["mask_share"] == 0


def test_the_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    maps = torch.from_numpy((rng.random((300, 1, 8, 8)) < rng.uniform(0, 0.4, (300, 1, 1, 1))).astype(np.float32))
    region = torch.ones(8, 8, dtype=torch.bool)
    found = false_positives(maps, 0.5, region, 1.0, 1.0, 4000, 0)
    shares = maps.mean(dim=(1, 2, 3)).numpy()
    half = 1.96 * shares.std() / np.sqrt(300)
    assert found.interval == pytest.approx((shares.mean() - half, shares.mean() + half), abs=2e-3)
    together = false_positives(maps, 0.5, region, 1.0, 1.0, 4000, 0, [str(n // 10) for n in range(300)])
    assert together.rate == pytest.approx(found.rate)
    means = shares.reshape(30, 10).mean(axis=1)
    assert np.ptp(together.interval) == pytest.approx(2 * 1.96 * means.std() / np.sqrt(30), rel=0.15)


def test_an_operating_point_belongs_to_its_weights(tmp_path: Path):
    weights, record = tmp_path / "model.pt", tmp_path / "calibration.json"
    weights.write_bytes(b"weights")
    record.write_text(json.dumps({"label_threshold": 0.03, "weights_sha256": sha256_of_file(weights)}))
    assert OperatingPoint(record, weights).threshold() == 0.03
    assert OperatingPoint(record, weights, 0.5).threshold() == 0.5
    weights.write_bytes(b"others")
    with pytest.raises(PhanesInputError, match="made for other weights"):
        OperatingPoint(record, weights).threshold()
    with pytest.raises(ValueError, match="needs a whole method"):
        Entry(ConstantMap(), operating_point=OperatingPoint(record, weights))


def entry(tmp_path: Path, weights: bytes = b"weights") -> Entry:
    file, record = tmp_path / "model.pt", tmp_path / "calibration.json"
    file.write_bytes(weights)
    record.write_text(json.dumps({"label_threshold": 0.55, "weights_sha256": sha256_of_file(file)}))
    return Entry(WithNetwork(), part="network", role="proposed", operating_point=OperatingPoint(record, file))


def test_an_evaluation_has_false_positives_in_its_outputs_and_measures_them_once(tmp_path):
    systems = {"ours": entry(tmp_path), "constant": Entry(ConstantMap(), role="sanity")}
    evaluation(tmp_path / "out", systems, Squares((0,)), clean=clean()).run()
    row = "| flat | clean slices | 3.75 | 0.00 to 7.50 | 12 | 12 | 0.29 |"
    assert row in (tmp_path / "out" / "table.md").read_text()
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["clean_slices"]["ours"][0]["rate"] == pytest.approx(0.0375)

    again = clean()
    again.measure = lambda *_: pytest.fail("was measured already")  # type: ignore[method-assign]
    evaluation(tmp_path / "out", {"ours": entry(tmp_path)}, Squares((0,)), clean=again).run()
    assert row in (tmp_path / "out" / "table.md").read_text()


def test_without_a_calibration_of_these_weights_there_is_no_row(tmp_path):
    system = entry(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"candidate")
    evaluation(tmp_path / "out", {"ours": system}, Squares((0,)), clean=clean()).run()
    assert "Clean slices" not in (tmp_path / "out" / "table.md").read_text()
