"""The table of the guard: every kind of wrong image is another image, and each verdict has its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.common.errors import PhanesInputError
from scripts.study.guard_table import WRONG, guard_table, verdict
from tests.heads import small_template

TEMPLATE, AFFINE = small_template(3.0)


def case(values: np.ndarray) -> dict:
    meta = {"affine": torch.from_numpy(AFFINE), "filename_or_obj": "x"}
    return {"image": MetaTensor(torch.from_numpy(values.astype(np.float32))[None], meta=meta)}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_image_is_another_one(kind: str) -> None:
    values, brain = TEMPLATE / 230, TEMPLATE > 10
    made = WRONG[kind](values, brain, np.random.default_rng(0))
    assert made.shape == values.shape
    assert np.isfinite(made).all()
    assert np.corrcoef(made[brain], values[brain])[0, 1] < 0.95


def test_a_verdict_has_its_name() -> None:
    noise = np.random.default_rng(0).normal(0, 5, TEMPLATE.shape)
    assert verdict(case(np.clip(TEMPLATE + noise, 0, None)))[0] == "passed"
    assert verdict(case(np.where(TEMPLATE > 10, 300 - TEMPLATE + noise, 0)))[0] != "passed"
    what, why = verdict(case(np.digitize(TEMPLATE, (60, 120, 180))))
    assert what == "refused"
    assert "segmentation" in why


def test_without_heads_there_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(PhanesInputError, match="lacks heads"):
        guard_table(str(tmp_path))
