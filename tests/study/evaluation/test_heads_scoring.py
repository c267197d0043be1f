"""Scores of whole heads against scikit-learn, brute force and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from scripts.study.evaluation.heads_scoring import (
    FINDINGS_A_HEAD,
    LABELLED_SHARE,
    LesionScores,
    OperatingPoint,
    dice,
    found_lesions,
    froc,
    healthy_scores,
    operating_point,
    pieces,
    scored_head,
    without_small,
)
from scripts.study.evaluation.statistics import resample_weights

RNG = np.random.default_rng(7)


def head(size: int = 20, lesion: bool = True, outside: int = 0, noise: float = 1.0):
    """A cube of brain with a cubic lesion, whose map is noise with the lesion brighter."""
    shape = (size + 6, size + 4, size + 5)
    brain = np.zeros(shape, dtype=bool)
    brain[3 : 3 + size, 2 : 2 + size, 2 : 2 + size] = True
    truth = np.zeros(shape, dtype=bool)
    if lesion:
        truth[8:12, 8:12, 8:12] = True
        truth[0, 0, :outside] = True
    anomaly = RNG.normal(0, noise, shape) + 2.0 * truth
    return scored_head(np.abs(anomaly), brain, truth, 8.0)


def test_pooled_and_single_scores_are_those_of_scikit_learn_less_what_is_missed():
    heads = [head(20, outside=5), head(16), head(24, outside=2)]
    scores = LesionScores(heads, None).of_all()
    pooled, truth = np.concatenate([h.scores for h in heads]), np.concatenate([h.lesion for h in heads])
    share = truth.sum() / (truth.sum() + 7)  # of the lesion's voxels that any threshold can find
    assert scores["own.auprc"] == pytest.approx(share * average_precision_score(truth, pooled), abs=1e-9)
    each = [average_precision_score(h.lesion, h.scores) * h.lesion.sum() / (h.lesion.sum() + h.missed) for h in heads]
    assert scores["mean.auprc"] == pytest.approx(np.mean(each), abs=1e-9)
    brute = max(
        2 * (truth & (pooled >= t)).sum() / ((pooled >= t).sum() + truth.sum() + 7) for t in np.unique(pooled[truth])
    )
    assert scores["own.best_dice"] == pytest.approx(brute, abs=1e-9)
    assert scores["prevalence"] == pytest.approx((truth.sum() + 7) / (truth.size + 7))


def test_a_resample_is_the_score_of_the_heads_that_were_drawn():
    heads = [head(20, outside=5), head(16), head(24, outside=2), head(18)]
    point = OperatingPoint(2.0, 0.0, 1.8)
    weights = resample_weights(len(heads), 6, 3)
    found = LesionScores(heads, point).resampled(weights)
    for index, counts in enumerate(weights.astype(int)):
        drawn = [h for h, count in zip(heads, counts, strict=True) for _ in range(count)]
        expected = LesionScores(drawn, point).of_all()
        assert set(expected) == {*found, "prevalence"}
        for name, values in found.items():
            assert values[index] == pytest.approx(expected[name], abs=1e-9), name


def test_a_constant_map_scores_the_prevalence_and_a_perfect_one_everything_that_is_scored():
    one = head(outside=6)
    constant = scored_head(np.ones(one.brain.shape), one.brain, one.truth, 8.0)
    assert LesionScores([constant], None).each["auprc"][0] == pytest.approx(one.lesion.mean())
    perfect = scored_head(one.truth.astype(float), one.brain, one.truth, 8.0)
    assert LesionScores([perfect], None).each["auprc"][0] == 1.0


def test_a_head_whose_whole_lesion_lies_outside_of_the_brain_scores_nothing():
    brain, truth = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    brain[1:5, 1:5, 1:5] = True
    truth[0] = True
    one = scored_head(RNG.random((6, 6, 6)), brain, truth, 8.0)
    each = LesionScores([one], OperatingPoint(0.5, 0.0, 0.5)).each
    assert each["auprc"][0] == 0.0
    assert each["best_dice"][0] == 0.0
    assert each["label_dice"][0] == 0.0


def test_the_operating_point_keeps_both_promises_on_its_own_heads():
    healthy = [head(28, lesion=False) for _ in range(5)]
    point = operating_point(healthy)
    found = healthy_scores(healthy, point)
    assert found["labelled_share"].mean() <= LABELLED_SHARE
    assert found["false_findings"].mean() <= FINDINGS_A_HEAD
    without_limit = healthy_scores(healthy, OperatingPoint(point.threshold, 0.0, 0.0))
    assert without_limit["labelled_share"].mean() == pytest.approx(LABELLED_SHARE, rel=0.05)
    assert np.mean([h.scores > point.at_false_voxels for h in healthy]) == pytest.approx(0.01, rel=0.02)


def test_a_systems_own_label_counts_within_the_brain():
    one = head()
    own = scored_head(one.anomaly, one.brain, one.truth, 8.0, label=np.ones(one.brain.shape))
    point = OperatingPoint(1e9, 0.0, 1e9)
    assert dice(point.label(own), own) == pytest.approx(2 * one.lesion.sum() / (one.lesion.sum() + one.lesion.size))


def test_small_pieces_are_dropped_by_volume():
    mask = np.zeros((8, 8, 8), bool)
    mask[0, 0, 0] = mask[5:7, 5:7, 5:7] = True
    assert without_small(mask, 2.0, 2.1).sum() == 8
    assert without_small(mask, 2.0, 2.0).sum() == 9
    assert without_small(mask, 2.0, 16.1).sum() == 0


def test_a_lesion_is_found_by_a_finding_that_is_a_quarter_lesion_and_covers_a_tenth_of_it():
    truth = np.zeros((20, 20, 20), bool)
    truth[2:6, 2:6, 2:6] = True
    truth[12:14, 12:14, 12:14] = True
    lesions, count = pieces(truth)
    assert count == 2
    found, false = found_lesions(truth, truth, lesions, count)
    assert found.all()
    assert false == 0
    found, false = found_lesions(np.ones_like(truth), truth, lesions, count)  # a label of everything finds nothing
    assert not found.any()
    assert false == 1
    loose = np.zeros_like(truth)
    loose[2:6, 2:6, 2:10] = True  # half of it is lesion
    assert found_lesions(loose, truth, lesions, count)[0].tolist() == [True, False]
    loose[2:8, 2:10, 2:10] = True  # a sixth
    found, false = found_lesions(loose, truth, lesions, count)
    assert not found.any()
    assert false == 1
    speck = np.zeros_like(truth)
    speck[3, 3, 3:6] = True  # 3 of 64 voxels
    found, false = found_lesions(speck, truth, lesions, count)
    assert not found.any()
    assert false == 0
    far = np.zeros_like(truth)
    far[18, 18, 18] = far[12, 12, 12] = True
    found, false = found_lesions(far, truth, lesions, count)
    assert found.tolist() == [False, True]
    assert false == 1


def test_the_curve_of_a_perfect_and_of_a_constant_map():
    one = head()
    perfect = scored_head(one.truth.astype(float), one.brain, one.truth, 8.0)
    curve = froc([perfect, perfect])
    assert curve["all"] == {"lesions": 2, "at 0.5": 1.0, "at 1": 1.0, "at 2": 1.0, "at 4": 1.0}
    assert curve["0.3-2 ml"]["lesions"] == 2  # 64 voxels of 8 mm3
    assert curve[">15 ml"] == {"lesions": 0}
    constant = scored_head(np.ones(one.brain.shape), one.brain, one.truth, 8.0)
    assert froc([constant])["all"]["at 4"] == 0.0


def test_the_curve_counts_false_findings():
    one = head(noise=0.0)
    values = one.truth.astype(float).copy()
    values[-4:-1, -4:-1, -4:-1] = 2.0  # brighter than the lesion, 27 voxels
    curve = froc([scored_head(values, one.brain, one.truth, 8.0)])
    assert curve["all"]["at 0.5"] == 0.0
    assert curve["all"]["at 1"] == 1.0


def test_a_map_that_cannot_be_scored_is_refused():
    brain = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="NaN"):
        scored_head(np.full((3, 3, 3), np.nan), brain, None, 1.0)
    with pytest.raises(ValueError, match="voxels"):
        scored_head(np.ones((3, 3, 4)), brain, None, 1.0)
    with pytest.raises(ValueError, match="outside"):
        scored_head(np.ones((3, 3, 3)), ~brain, None, 1.0)
    with pytest.raises(ValueError, match="healthy"):
        operating_point([])
