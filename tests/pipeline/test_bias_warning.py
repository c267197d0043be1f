"""The warning names the field that was put in, and is silent otherwise."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from scripts.method.bias_field import BiasField
from scripts.pipeline.bias_warning import WarnOfBiasField


@pytest.fixture
def case() -> dict[str, Any]:
    """Three slices (1, 64, 64, 3); the first has a field along its rows, the trained level is the second."""
    coarse = torch.full((1, 64, 64, 3), 0.5)
    image = coarse.clone()
    image[..., 0] *= torch.linspace(-0.4, 0.4, 64)[:, None].exp()
    return {"image": MetaTensor(image, meta={"level_slice": 1}), "coarse": coarse}


def warnings_of(data: dict[str, Any], calibration: dict[str, Any], corrected: bool = True) -> str:
    found = WarnOfBiasField(calibration, BiasField() if corrected else None)(data)
    return str(found["image"].meta.get("warnings", ""))


def test_a_strong_field_at_the_trained_level_is_named(case):
    assert warnings_of(case, {"bias_threshold": 0.05}) == ""
    case["image"].meta["level_slice"] = 0
    named = re.fullmatch(
        r"strong bias field \(standard deviation (\d+) % of the brightness\), taken out",
        warnings_of(case, {"bias_threshold": 0.05}),
    )
    deviation = float(torch.linspace(-0.4, 0.4, 64).std())
    assert named is not None
    assert int(named[1]) == pytest.approx(100 * math.expm1(deviation), abs=1.0)


@pytest.mark.parametrize(
    ("calibration", "corrected"), [({"bias_threshold": 0.5}, True), ({}, True), ({"bias_threshold": 0.05}, False)]
)
def test_nothing_is_said_of_weak_fields_without_a_threshold_and_without_a_correction(case, calibration, corrected):
    case["image"].meta["level_slice"] = 0
    assert warnings_of(case, calibration, corrected) == ""
