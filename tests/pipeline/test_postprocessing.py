"""Back on the input's grid: the input outside the mask, its units restored, 0 where nothing was analysed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.common.errors import PhanesInputError
from scripts.pipeline.postprocessing import FindingsOfHeadd, NativeImagesd, RestoreUnitsd, SplitMapsd
from scripts.pipeline.thresholds import Thresholds, label_threshold
from scripts.space.levels import SIZE
from tests.heads import oblique

SHAPE, HEIGHTS = (48, 60, 44), [-1.0, 1.0, 3.0, 5.0]
RECORD = {"heads": {"label_threshold": 0.5, "smallest": 400.0}, "slices": {"label_threshold": 0.7, "smallest": 50.0}}


@pytest.fixture
def case() -> dict:
    """A case of four levels after the network: a blob above the threshold, noise elsewhere."""
    rng = np.random.default_rng(0)
    levels = (SIZE, SIZE, len(HEIGHTS))
    analysed = np.zeros(levels, dtype=bool)
    analysed[25:100, 30:95] = True
    output = rng.random((4, *levels)).astype(np.float32) * 0.3
    output[0, 60:68, 60:68] = 0.9
    output[2] = output[2] > 0.2
    affine = oblique(SHAPE, (4.0, 4.0, 4.0), (6.0, -3.0, 10.0))
    image = MetaTensor(torch.from_numpy(rng.random((2, *levels)).astype(np.float32)))
    image.meta.update(
        {"heights": HEIGHTS, "thickness": 2.0, "whole": True, "alignment": "mni", "placing": np.eye(4),
         "intensity_scale": [200.0] * 4, "intensity_power": 1.0, "air": 30.0}
    )  # fmt: skip
    source = MetaTensor(torch.from_numpy(rng.normal(500, 100, (1, *SHAPE)).astype(np.float32)), affine=affine)
    source.meta["original_affine"] = affine
    return {
        "image": image,
        "source": source,
        "analysed": MetaTensor(torch.from_numpy(analysed)[None]),
        "pred": torch.from_numpy(output),
    }


def test_channels_get_keys_and_a_score_over_what_was_analysed(case: dict) -> None:
    data = SplitMapsd()(case)
    inside = case["analysed"].as_tensor()[0]
    for index, name in enumerate(("anomaly", "pseudo_healthy", "mask", "coarse")):
        assert torch.equal(data[name].as_tensor()[0][inside], case["pred"][index][inside])
    for name in ("anomaly", "mask"):
        assert not data[name].as_tensor()[0][~inside].any()
    assert data["anomaly_score"] == pytest.approx(float(case["pred"][0][inside].mean()), rel=1e-5)


def test_output_that_is_not_finite_is_refused_where_it_counts(case: dict) -> None:
    case["pred"][0, 0, 0, 0] = torch.nan
    SplitMapsd()(case)  # not analysed there
    case["pred"][0, 50, 50, 0] = torch.nan
    with pytest.raises(PhanesInputError, match="run the calibrate workflow"):
        SplitMapsd()(case)


def test_units_are_restored_level_by_level() -> None:
    meta = {"intensity_scale": [10.0, 300.0], "intensity_power": 1.0, "air": 2.0}
    image = MetaTensor(torch.ones(1, 2, 2, 2), meta=meta)
    data = RestoreUnitsd("coarse")({"image": image, "coarse": MetaTensor(torch.full((1, 2, 2, 2), 0.5))})
    assert data["coarse"][0, 0, 0].tolist() == [7.0, 152.0]


def test_images_on_the_native_grid(case: dict) -> None:
    out = NativeImagesd()(SplitMapsd()(case))
    source, mask, inside = case["source"], out["mask"] > 0, out["analysed"] > 0
    assert inside.any()
    assert torch.equal(out["pseudo_healthy"][~mask], source[~mask])
    assert (out["pseudo_healthy"][mask] < 1).all()
    assert torch.equal(out["coarse"][~inside], source[~inside])
    assert not out["anomaly"][~inside].any()
    assert not mask[~inside].any()
    assert float(out["anomaly"].min()) == 0
    assert out["mask"].dtype == out["analysed"].dtype == torch.uint8
    for name in ("anomaly", "mask", "pseudo_healthy", "coarse"):
        assert out[name].shape == (1, *SHAPE)
        assert torch.equal(out[name].affine, source.affine)
    assert out["shown"]["source"].shape == (1, SIZE, SIZE, 4)
    assert torch.equal(out["shown"]["source"].as_tensor(), case["image"].as_tensor()[:1] * 200)
    assert torch.equal(out["shown"]["coarse"].as_tensor()[0], case["pred"][3] - 30)  # counted from the air


def test_findings_of_a_head_by_its_volume_of_a_slice_by_its_area(case: dict) -> None:
    native = NativeImagesd()(SplitMapsd()(case))
    out = FindingsOfHeadd(RECORD)(native)
    assert out["threshold"] == 0.5
    assert len(out["findings"]) == 1
    volume = out["findings"][0].volume_mm3
    assert volume == pytest.approx((8 * 233 / 128) ** 2 * 8, rel=0.25)
    assert int((out["pred"] == 1).sum()) * 64 == pytest.approx(volume)
    assert (out["shown"]["pred"][0, 61:67, 61:67, 1:3] == 1).all()
    assert not out["shown"]["pred"][0, :50].any()
    larger = {**RECORD, "heads": {"label_threshold": 0.5, "smallest": volume + 1}}
    assert not FindingsOfHeadd(larger)(native)["findings"]
    native["image"].meta["whole"] = False
    assert FindingsOfHeadd(RECORD)(native)["threshold"] == 0.7
    area = volume / 4  # the levels are thinner than a voxel
    for smallest, count in ((0.8 * area, 1), (1.3 * area, 0)):
        record = {**RECORD, "slices": {"label_threshold": 0.5, "smallest": smallest}}
        assert len(FindingsOfHeadd(record)(native)["findings"]) == count


def test_a_kind_that_was_not_calibrated_is_refused(case: dict) -> None:
    native = NativeImagesd()(SplitMapsd()(case))
    with pytest.raises(PhanesInputError, match="The calibration has no threshold for heads"):
        FindingsOfHeadd({"slices": RECORD["slices"]})(native)
    assert FindingsOfHeadd({"heads": RECORD["heads"]})(native)["threshold"] == 0.5


def test_a_threshold_of_ones_own(case: dict) -> None:
    native = NativeImagesd()(SplitMapsd()(case))
    out = FindingsOfHeadd(RECORD, label_threshold="0.95")(native)
    assert (out["threshold"], out["findings"]) == (0.95, [])
    assert not out["pred"].any()
    assert Thresholds.of(RECORD, "heads").smallest == 400
    assert label_threshold("Calibrated", 0.5) == label_threshold(None, 0.5) == 0.5
    assert label_threshold(0, 0.5) == 0.0
    for wrong in ("high", "", -0.1, "nan", float("inf"), True):
        with pytest.raises(PhanesInputError, match=r"label_threshold is .*: give a number"):
            label_threshold(wrong, 0.5)
