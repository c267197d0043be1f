"""Pooled metrics agree with scikit-learn, with closed forms and with brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from scripts.study.evaluation.metrics import (
    average_precision,
    best_dice,
    evaluate_map,
    lpips_by_region,
    precision_recall_points,
    rank,
)


def noisy(seed: int = 0, pixels: int = 20_000, prevalence: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores with many ties at 0, as maps have."""
    rng = np.random.default_rng(seed)
    labels = rng.random(pixels) < prevalence
    scores = np.where(rng.random(pixels) < 0.5, 0.0, np.abs(rng.standard_normal(pixels)) + labels).astype(np.float32)
    return scores, labels


def test_average_precision_is_scikit_learns():
    for seed in range(3):
        scores, labels = noisy(seed)
        assert average_precision(rank(scores, labels)) == pytest.approx(
            average_precision_score(labels, scores), abs=1e-9
        )


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40).filter(
        lambda p: any(y for _, y in p)
    )
)
def test_average_precision_is_scikit_learns_with_few_pixels_and_many_ties(pixels):
    scores, labels = np.array([s for s, _ in pixels], dtype=float), np.array([y for _, y in pixels])
    assert average_precision(rank(scores, labels)) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)


def test_best_dice_is_the_best_f1_of_all_thresholds():
    scores, labels = noisy(pixels=600)
    expected = max(f1_score(labels, scores >= t) for t in np.unique(scores))
    assert best_dice(rank(scores, labels)) == pytest.approx(expected, abs=1e-12)


def test_a_constant_map_has_the_prevalence_as_its_average_precision_and_the_all_positive_dice():
    _, labels = noisy()
    result = evaluate_map(np.full(labels.shape, 0.7), labels)
    prevalence = labels.mean()
    assert result["auprc"] == pytest.approx(prevalence, abs=1e-12)
    assert result["best_dice"] == pytest.approx(2 * prevalence / (1 + prevalence), abs=1e-12)
    assert result["best_dice"] == pytest.approx(f1_score(labels, np.ones_like(labels)), abs=1e-12)


def test_a_perfect_map_scores_one_and_its_opposite_no_more_than_chance():
    _, labels = noisy()
    assert evaluate_map(labels.astype(float), labels)["auprc"] == 1.0
    assert evaluate_map(labels.astype(float), labels)["best_dice"] == 1.0
    assert evaluate_map(1.0 - labels, labels)["auprc"] == pytest.approx(labels.mean(), abs=1e-12)


def test_pixels_that_were_never_scored_are_missed_at_every_threshold():
    scores, labels = noisy(pixels=600)
    whole, missing = rank(scores, labels), rank(scores, labels, missed=7)
    np.testing.assert_allclose(missing.recall, whole.true_positives / (labels.sum() + 7))
    assert average_precision(missing) == pytest.approx(average_precision(whole) * labels.sum() / (labels.sum() + 7))
    assert average_precision(rank(scores, np.zeros_like(labels), missed=7)) == 0.0


def test_curve_points_lie_on_scikit_learns_curve():
    scores, labels = noisy()
    recall, precision = precision_recall_points(rank(scores, labels), points=64)
    all_precision, all_recall, _ = precision_recall_curve(labels, scores)
    known = {(round(r, 6), round(p, 6)) for r, p in zip(all_recall, all_precision, strict=True)}
    assert len(recall) <= 64
    assert recall[-1] == 1.0
    assert all(
        min(abs(r - kr) + abs(p - kp) for kr, kp in known) < 1e-5 for r, p in zip(recall, precision, strict=True)
    )


def test_tensors_of_any_shape_are_pooled():
    scores, labels = noisy(pixels=4 * 32 * 32)
    maps, masks = torch.from_numpy(scores).reshape(4, 1, 32, 32), torch.from_numpy(labels).reshape(4, 1, 32, 32)
    assert evaluate_map(maps, masks) == evaluate_map(scores, labels)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, np.nan], [0, 1], "NaN"),
        ([0.1, 0.2], [0, 0], "no lesion pixel"),
        ([0.1, 0.2, 0.3], [0, 1], "as many pixels"),
        ([], [], "no pixels"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        rank(np.array(scores, dtype=float), np.array(labels))


def test_lpips_is_averaged_by_region_of_each_image():
    distance = torch.zeros(2, 1, 4, 4)
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    masks[:, :, 0, :2] = True
    distance[0, 0, 0, :2] = torch.tensor([0.2, 0.4])  # lesion mean 0.3
    distance[0, 0, 3, :] = 0.7  # healthy: 4 of 14 pixels
    healthy, anomaly = lpips_by_region(distance, masks)
    torch.testing.assert_close(healthy, torch.tensor([4 * 0.7 / 14, 0.0], dtype=torch.float64))
    torch.testing.assert_close(anomaly, torch.tensor([0.3, 0.0], dtype=torch.float64))


def test_dropping_zeros_counts_the_changed_pixels_only():
    distance = torch.zeros(1, 1, 4, 4)
    distance[0, 0, 3, :] = 0.7
    masks = torch.zeros(1, 1, 4, 4)
    masks[:, :, 0, 0] = 1
    healthy, anomaly = lpips_by_region(distance, masks, drop_zeros=True)
    assert healthy.item() == pytest.approx(0.7)
    assert anomaly.isnan().all()


def test_lpips_maps_and_masks_must_have_one_shape():
    with pytest.raises(ValueError, match="one shape"):
        lpips_by_region(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5))
