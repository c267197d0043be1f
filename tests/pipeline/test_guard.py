"""The guard lets healthy heads through at the stated rate, and stops what is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis

from scripts.common.errors import PhanesInputError
from scripts.pipeline.guard import FEATURES, GuardLevelsd, fit_guard, guard_scores, level_features
from scripts.space.levels import LEVELS_MM

LEVELS = len(LEVELS_MM)


def heads(seed: int, count: int = 20) -> np.ndarray:
    """Features of healthy heads: a mean that drifts over the levels, what a head has on all of them, and noise."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(0, 4, LEVELS)[None, :, None] * np.ones(5)
    own = rng.multivariate_normal(np.zeros(5), 0.2 * np.eye(5) + 0.05, (count, 1))
    values = drift + own + 0.5 * rng.standard_normal((count, LEVELS, 5))
    values[:, :3] = np.nan  # too little brain
    return values


def test_features_are_those_of_numpy_over_the_brain() -> None:
    rng = np.random.default_rng(0)
    image, coarse = (gaussian_filter(rng.random((1, 60, 50, 3)), (0, 1, 1, 0)) for _ in range(2))
    mask = (rng.random((1, 60, 50, 3)) > 0.7) * 1.0
    brain = np.zeros((1, 60, 50, 3))
    brain[:, 10:50, 5:45, :2] = 1
    parts = [torch.from_numpy(a.astype(np.float32)) for a in (image, coarse, mask, brain)]
    found = level_features(*parts).numpy()
    assert np.isnan(found[2]).all()
    for k in range(2):
        inside = brain[0, ..., k] > 0
        a, b = image[0, ..., k][inside], coarse[0, ..., k][inside]
        smooth = gaussian_filter(image[0, ..., k], 1.0)[inside]
        expected = [
            np.log(np.abs(a - b).mean() + 1e-4),
            np.arctanh(np.corrcoef(a, b)[0, 1]),
            mask[0, ..., k][inside].mean(),
            np.log(np.abs(a - smooth).mean() + 1e-4),
            a.mean(),
        ]
        np.testing.assert_allclose(found[k], expected, atol=2e-3)


def test_score_is_the_one_sided_mahalanobis_distance_over_the_threshold() -> None:
    record = fit_guard(heads(0), 0.1)
    point = heads(1, 1)[0] + 2
    scores = guard_scores(point, LEVELS_MM, record)
    assert np.isnan(scores[:3]).all()
    mean, deviation = np.array(record["mean"]), np.array(record["deviation"])
    for k in (10, 40):
        away = (point[k] - mean[k]) / deviation[k]
        away = np.where(np.array([1, -1, 1, 1, 0]) * away < 0, 0.0, away)
        expected = mahalanobis(away, np.zeros(5), np.array(record["precision"])) / record["threshold"]
        assert scores[k] == pytest.approx(expected)
    assert guard_scores(point[40:41], [LEVELS_MM[40] + 0.4], record)[0] == scores[40]


def test_new_healthy_heads_raise_no_more_alarms_than_stated() -> None:
    alarms = []
    for seed in range(12):
        record = fit_guard(heads(seed), 0.1)
        scores = np.stack([guard_scores(one, LEVELS_MM, record) for one in heads(1000 + seed, 40)])
        alarms.append(np.mean(np.nanmean(scores > 1, axis=1) * LEVELS / (LEVELS - 3) > record["share_of_levels"]))
    assert np.mean(alarms) < 0.17


def test_too_few_heads_are_refused() -> None:
    with pytest.raises(PhanesInputError, match="needs more healthy heads than 12"):
        fit_guard(heads(0, 12), 0.05)


def case(brightness: float, levels: int = LEVELS) -> dict:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(brightness + 0.02 * rng.standard_normal((2, 64, 64, levels)).astype(np.float32))
    meta = {"heights": list(LEVELS_MM[:levels]), "whole": True, "filename_or_obj": "scan.nii"}
    return {
        "image": MetaTensor(image, meta=meta),
        "coarse": image[:1].clone(),
        "mask": torch.zeros_like(image[:1]),
        "analysed": torch.ones_like(image[:1]).bool(),
    }


@pytest.fixture(scope="module")
def record() -> dict:
    data = case(0.5)
    features = level_features(data["image"][:1].as_tensor(), data["coarse"], data["mask"], data["analysed"]).numpy()
    return {"guard": fit_guard(features + 0.02 * np.random.default_rng(1).standard_normal((20, LEVELS, 5)), 0.05)}


def test_every_level_is_judged_and_a_strict_guard_refuses(record: dict) -> None:
    fine = GuardLevelsd(record)(case(0.5))
    assert fine["guard"] == "ok"
    assert fine["guard_share"] < 0.2
    assert len(fine["guard_scores"]) == LEVELS
    assert "warnings" not in fine["image"].meta
    wrong = GuardLevelsd(record)(case(0.9))
    assert (wrong["guard"], wrong["guard_share"]) == ("unlike the training heads", 1.0)
    assert "does not look like a healthy T1w head at 100 % of the levels" in wrong["image"].meta["warnings"]
    with pytest.raises(PhanesInputError, match=r"'scan.nii' does not look like .* leave --strict out"):
        GuardLevelsd(record, strict=True)(case(0.9))


def test_a_level_with_little_brain_is_not_judged(record: dict) -> None:
    data = case(0.9, levels=1)
    data["analysed"][:, 4:] = False
    data["image"].meta["whole"] = False
    assert GuardLevelsd(record, strict=True)(data)["guard"] == "not judged"


def test_a_calibration_without_a_guard_judges_nothing_and_one_of_other_features_is_refused(record: dict) -> None:
    unknown = GuardLevelsd({}, strict=True)(case(0.9))
    assert (unknown["guard"], unknown["guard_share"]) == ("not calibrated", None)
    with pytest.raises(PhanesInputError, match="run the calibrate workflow again"):
        GuardLevelsd({"guard": {**record["guard"], "features": list(FEATURES[:4])}})(case(0.5))
