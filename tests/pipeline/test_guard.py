"""The guard lets healthy slices through at the stated rate, and stops what is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis

from scripts.common.errors import PhanesInputError
from scripts.pipeline.guard import FEATURES, GuardSliced, fit_guard, guard_scores, slice_features
from tests.conftest import BUNDLE, run_inference
from tests.pipeline.test_inference import summary


def clouds(seed: int, count: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal(np.arange(5.0), np.diag([1.0, 0.1, 2, 0.5, 1]) + 0.05, count)


def test_features_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    image, coarse = (gaussian_filter(rng.random((3, 1, 40, 50)), (0, 0, 1, 1)) for _ in range(2))
    mask = (rng.random((3, 1, 40, 50)) > 0.7) * 1.0
    found = slice_features(*(torch.from_numpy(a.astype(np.float32)) for a in (image, coarse, mask))).numpy()
    for k in range(3):
        a, b = image[k, 0], coarse[k, 0]
        smooth = gaussian_filter(a, 1.0)
        expected = [
            np.log(np.abs(a - b).mean() + 1e-4),
            np.arctanh(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
            mask[k].mean(),
            np.log(np.abs(a - smooth).mean() + 1e-4),
            a.mean(),
        ]
        np.testing.assert_allclose(found[k], expected, atol=2e-3)


def test_score_is_the_mahalanobis_distance_to_the_nearer_cloud_over_its_threshold() -> None:
    groups = {"head": clouds(0), "brain": clouds(1) + 7}
    record = fit_guard(groups, 0.05)
    point = clouds(2, 1)[0] + 3
    distances = []
    for name, values in groups.items():
        one_sided = np.where(np.array([1, -1, 1, 1, 0]) * (point - values.mean(0)) < 0, values.mean(0), point)
        distance = mahalanobis(one_sided, values.mean(0), np.linalg.inv(np.cov(values.T)))
        distances.append(distance / record["groups"][name]["threshold"])
    expected = min(distances)
    assert guard_scores(point[None], record)[0] == pytest.approx(expected, rel=1e-5)


def test_new_healthy_slices_raise_no_more_alarms_than_stated() -> None:
    """The mean over many calibrations of the share of alarms among slices that the calibration has not seen."""
    rates = [
        float((guard_scores(clouds(1000 + seed, 400), fit_guard({"head": clouds(seed)}, 0.1)) > 1).mean())
        for seed in range(60)
    ]
    assert np.mean(rates) == pytest.approx(0.1, abs=0.025)


def test_too_few_slices_are_refused() -> None:
    with pytest.raises(PhanesInputError, match="needs more healthy slices than 12"):
        fit_guard({"head": clouds(0, 12)}, 0.05)


def case(score: float, record: dict) -> dict:
    """A case of three slices, of which the middle one has the given brightness; a reconstruction that is exact."""
    image = torch.full((1, 8, 8, 3), 0.2)
    image[..., 1] = score
    meta = {"level_slice": 1, "filename_or_obj": "scan.nii"}
    return {"image": MetaTensor(image, meta=meta), "coarse": image.clone(), "mask": torch.zeros_like(image)}


@pytest.fixture
def record() -> dict:
    """Clouds around the features of `case(0.5)`."""
    middle = torch.full((1, 1, 8, 8), 0.5)
    rng = np.random.default_rng(0)
    values = slice_features(middle, middle, torch.zeros_like(middle)).numpy() + 0.02 * rng.standard_normal((60, 5))
    return {"guard": fit_guard({"head": values}, 0.05)}


def test_the_slice_at_the_level_is_judged_and_a_strict_guard_refuses(record: dict) -> None:
    fine = GuardSliced(record)(case(0.5, record))
    assert fine["guard"] == "ok"
    assert fine["guard_score"] < 1
    assert "warnings" not in fine["image"].meta
    wrong = GuardSliced(record)(case(0.9, record))
    assert wrong["guard"] == "unlike the training slices"
    assert "does not look like a T1w brain at the trained level (guard " in wrong["image"].meta["warnings"]
    with pytest.raises(PhanesInputError, match=r"'scan.nii' does not look like .* leave --strict out"):
        GuardSliced(record, strict="true")(case(0.9, record))


def test_a_calibration_without_a_guard_judges_nothing_and_one_of_other_features_is_refused(record: dict) -> None:
    unknown = GuardSliced({}, strict=True)(case(0.9, record))
    assert (unknown["guard"], unknown["guard_score"]) == ("not calibrated", None)
    record["guard"]["features"] = list(FEATURES[:4])
    with pytest.raises(PhanesInputError, match="run the calibrate workflow again"):
        GuardSliced(record)(case(0.5, record))


def guarded() -> bool:
    file = BUNDLE / "models" / "calibration.json"
    return file.is_file() and "guard" in json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.skipif(not guarded(), reason="the shipped calibration has no guard")
def test_noise_is_reported_and_refused_when_strict(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).rayleigh(60.0, (233, 197)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    run_inference(BUNDLE, tmp_path / "noise.png", tmp_path / "warned", save_picture=False)
    row = summary(tmp_path / "warned")["noise"]
    assert row["guard"] == "unlike the training slices"
    assert float(row["guard_score"]) > 1
    assert "does not look like a T1w brain" in row["warnings"]
    with pytest.raises(RuntimeError):
        run_inference(BUNDLE, tmp_path / "noise.png", tmp_path / "refused", save_picture=False, strict=True)
    assert "does not look like a T1w brain" in summary(tmp_path / "refused")["noise"]["error"]
    assert not (tmp_path / "refused" / "noise").exists()
