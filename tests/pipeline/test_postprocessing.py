"""Back on the input's grid: the input outside the mask, its units restored, a label where the map is high enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.common.errors import PhanesInputError
from scripts.pipeline.postprocessing import CHANNELS, NativeImagesd, RestoreUnitsd, SplitMapsd


def test_channels_get_keys_and_a_score() -> None:
    output = torch.rand(4, 8, 8, 3)
    data = SplitMapsd()({"pred": MetaTensor(output), "image": MetaTensor(torch.rand(1, 8, 8, 3))})
    for index, name in enumerate(("anomaly", "pseudo_healthy", "mask", "coarse")):
        assert torch.equal(data[name].as_tensor(), output[index : index + 1])
    assert data["anomaly_score"] == pytest.approx(float(output[0].mean()), rel=1e-6)
    assert data["analysed"].shape == (1, 8, 8, 3)


def test_output_that_is_not_finite_is_refused() -> None:
    output = torch.zeros(4, 8, 8, 1)
    output[0, 0, 0] = float("nan")
    with pytest.raises(PhanesInputError, match="run the calibrate workflow"):
        SplitMapsd()({"pred": output, "image": MetaTensor(torch.rand(1, 8, 8, 1))})


def test_units_are_restored_slice_by_slice() -> None:
    image = MetaTensor(torch.ones(1, 2, 2, 2), meta={"intensity_scale": [10.0, 300.0]})
    data = RestoreUnitsd("coarse")({"image": image, "coarse": MetaTensor(torch.full((1, 2, 2, 2), 0.5))})
    assert data["coarse"][0, 0, 0].tolist() == [5.0, 150.0]


@pytest.fixture
def native() -> dict:
    rng = np.random.default_rng(0)
    maps = {name: MetaTensor(torch.from_numpy(rng.random((1, 6, 7, 5), dtype=np.float32))) for name in CHANNELS}
    maps["mask"] = MetaTensor((maps["mask"] > 0.6).float())
    analysed = torch.zeros(1, 6, 7, 5)
    analysed[..., 2] = 1
    maps["mask"] = MetaTensor(maps["mask"].as_tensor() * analysed)
    maps["anomaly"] = MetaTensor((maps["anomaly"].as_tensor() - 0.1) * analysed)
    source = MetaTensor(torch.from_numpy(rng.normal(500, 100, (1, 6, 7, 5)).astype(np.float32)), affine=torch.eye(4))
    return {**maps, "analysed": MetaTensor(analysed), "source": source}


def test_images_on_the_native_grid(native: dict) -> None:
    out = NativeImagesd(threshold=0.3)(native)
    source, mask, analysed = native["source"], native["mask"] > 0, native["analysed"] > 0
    assert torch.equal(out["pseudo_healthy"][~mask], source[~mask])
    assert torch.equal(out["pseudo_healthy"][mask], native["pseudo_healthy"][mask])
    assert torch.equal(out["coarse"][~analysed], source[~analysed])
    assert torch.equal(out["coarse"][analysed], native["coarse"][analysed])
    assert float(out["anomaly"].min()) == 0
    assert torch.equal(out["pred"] == 1, out["anomaly"] > 0.3)
    assert out["pred"].dtype == out["mask"].dtype == torch.uint8
    assert out["pred"].shape == (1, 6, 7, 5)
    assert torch.equal(out["pred"].affine, source.affine)


@pytest.mark.parametrize("threshold", [-0.1, "0.3", float("nan"), True, None])
def test_thresholds_that_are_no_number_are_refused(threshold: object) -> None:
    with pytest.raises(PhanesInputError, match="label_threshold is"):
        NativeImagesd(threshold=threshold)
