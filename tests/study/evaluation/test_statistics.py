"""The bootstrap agrees with scikit-learn on every resample and with analysis where there is a formula."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from scripts.study.evaluation.metrics import rank
from scripts.study.evaluation.statistics import (
    bootstrap,
    holm,
    paired_p_value,
    resample_weights,
    spread,
    spread_over_seeds,
    subject_indices,
)


def maps(subjects: int = 12, side: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps whose subjects differ much in prevalence."""
    rng = np.random.default_rng(seed)
    prevalence = rng.uniform(0.01, 0.3, size=(subjects, 1, 1, 1))
    labels = rng.random((subjects, 1, side, side)) < prevalence
    labels[:, 0, 0, 0] = True
    scores = np.round(np.abs(rng.standard_normal(labels.shape)) + labels, 1)
    return scores, labels


def test_every_resample_scores_as_scikit_learn_with_weights():
    scores, labels = maps()
    weights = resample_weights(12, 5, seed=3)
    found = bootstrap(scores, labels, np.arange(12), weights, levels=None)
    for row, auprc, dice in zip(weights, found.auprc, found.best_dice, strict=True):
        pixels = np.repeat(row, 12 * 12)
        flat, truth = scores.ravel(), labels.ravel()
        assert auprc == pytest.approx(average_precision_score(truth, flat, sample_weight=pixels), abs=1e-9)
        reached = [flat >= t for t in np.unique(flat)]
        best = max(
            2 * pixels[called & truth].sum() / (pixels[called].sum() + pixels[truth].sum()) for called in reached
        )
        assert dice == pytest.approx(best, abs=1e-12)


def test_blocks_of_thresholds_do_not_show(monkeypatch):
    scores, labels = maps()
    weights = resample_weights(12, 5, seed=3)
    whole = bootstrap(scores, labels, np.arange(12), weights, levels=None)
    monkeypatch.setattr("scripts.study.evaluation.statistics.BLOCK", 7)
    blocks = bootstrap(scores, labels, np.arange(12), weights, levels=None)
    np.testing.assert_allclose(blocks.auprc, whole.auprc, rtol=1e-12)
    np.testing.assert_allclose(blocks.best_dice, whole.best_dice, rtol=1e-12)


def test_fewer_thresholds_fall_short_by_little():
    rng = np.random.default_rng(0)
    labels = rng.random((12, 1, 64, 64)) < 0.05
    scores = np.abs(rng.standard_normal(labels.shape)) + labels
    weights = resample_weights(12, 20, seed=0)
    exact = bootstrap(scores, labels, np.arange(12), weights, levels=None)
    coarse = bootstrap(scores, labels, np.arange(12), weights, levels=200)
    assert np.abs(exact.auprc - coarse.auprc).max() < 2 / 200
    assert np.abs(exact.best_dice - coarse.best_dice).max() < 2 / 200


def test_a_constant_maps_spread_is_the_standard_error_of_the_mean_prevalence():
    _, labels = maps(subjects=40)
    weights = resample_weights(40, 20_000, seed=0)
    found = spread(bootstrap(np.ones(labels.shape), labels, np.arange(40), weights).auprc)
    prevalence = labels.reshape(40, -1).mean(axis=1)
    assert found.mean == pytest.approx(prevalence.mean(), rel=0.01)
    assert found.std == pytest.approx(prevalence.std() / np.sqrt(40), rel=0.03)


def test_resamples_draw_as_many_subjects_as_there_are_and_are_the_same_for_everyone():
    weights = resample_weights(7, 100, seed=1)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, resample_weights(7, 100, seed=1))
    assert (weights != resample_weights(7, 100, seed=2)).any()


def test_slices_of_one_subject_are_drawn_together():
    scores, labels = maps(subjects=6)
    owners = subject_indices(["b", "b", "a", "c", "a", "c"])
    weights = resample_weights(3, 4, seed=0)
    found = bootstrap(scores, labels, owners, weights, levels=None)
    by_slice = bootstrap(scores, labels, np.arange(6), weights[:, owners], levels=None)
    np.testing.assert_allclose(found.auprc, by_slice.auprc)


def test_the_paired_p_value_counts_both_tails_and_never_is_zero():
    zero = np.zeros(999)
    assert paired_p_value(np.ones(999), zero) == pytest.approx(2 / 1000)
    assert paired_p_value(zero, np.ones(999)) == pytest.approx(2 / 1000)
    assert paired_p_value(zero, zero) == 1.0
    quarter = np.where(np.arange(999) < 249, -1.0, 1.0)
    assert paired_p_value(quarter, zero) == pytest.approx(2 * 250 / 1000)


def test_holms_correction_is_the_one_by_hand():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2 (no less than before), 0.5 x 1
    np.testing.assert_allclose(holm([0.5, 0.01, 0.03, 0.02]), [0.5, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.3]).tolist() == [0.6, 0.6]
    assert holm([]).size == 0


def test_lesion_pixels_that_were_never_scored_lower_every_resample():
    scores, labels = maps()
    missed = np.full(12, 5)
    weights = resample_weights(12, 5, seed=3)
    found = bootstrap(scores, labels, np.arange(12), weights, levels=None, missed=missed)
    # the same as pixels below all others
    padded = np.concatenate([scores.reshape(12, -1), np.full((12, 5), -1.0)], axis=1)
    truth = np.concatenate([labels.reshape(12, -1), np.ones((12, 5), dtype=bool)], axis=1)
    for row, auprc in zip(weights, found.auprc, strict=True):
        whole = rank(np.repeat(padded, row.astype(int), axis=0), np.repeat(truth, row.astype(int), axis=0))
        reached = slice(0, -1)  # the lowest score, -1, finds nothing
        area = np.sum(np.diff(whole.recall[reached], prepend=0.0) * whole.precision[reached])
        assert auprc == pytest.approx(area, abs=1e-9)


def test_spread_over_seeds_is_the_sample_standard_deviation():
    assert spread_over_seeds([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert np.isnan(spread_over_seeds([1.0]).std)
