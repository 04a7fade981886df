import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from drawn import multiclass
from medloop import roc


def binary(seed, n=200, decimals=1):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    return positive, np.round(rng.normal(size=n) + positive, decimals)


questions = st.lists(st.tuples(st.booleans(), st.integers(-20, 20)), min_size=1, max_size=40).map(
    lambda rows: (np.array([p for p, _ in rows]), np.array([s for _, s in rows]))
)


@pytest.mark.parametrize("decimals", [0, 1, 12])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_auc_equals_scikit_learn(decimals, dtype):
    positive, score = binary(3, decimals=decimals)
    score = score.astype(dtype)
    assert roc.auc(positive, score) == pytest.approx(
        reference.roc_auc_score(positive, score), abs=1e-14
    )


@given(questions)
def test_placement_counts_equal_brute_force(question):
    positive, score = question
    expected = [
        sum(
            2 * ((s > t) if p else (s < t)) + (s == t)
            for q, t in zip(positive, score, strict=True)
            if q != p
        )
        for p, s in zip(positive, score, strict=True)
    ]
    assert roc.placement_counts(positive, score).tolist() == expected


@given(questions)
def test_auc_is_invariant_under_monotone_transforms_and_order(question):
    positive, score = question
    value = roc.auc(positive, score)
    order = np.random.default_rng(0).permutation(len(score))
    for other in (np.exp(score / 10), score**3 + 7.0, score.astype(np.float32)):
        np.testing.assert_equal(roc.auc(positive, other), value)
    np.testing.assert_equal(roc.auc(positive[order], score[order]), value)


@given(questions)
def test_auc_turns_over_with_the_score_and_with_the_classes(question):
    positive, score = question
    value = roc.auc(positive, score)
    np.testing.assert_allclose(roc.auc(positive, -score), 1 - value, atol=1e-15)
    np.testing.assert_allclose(roc.auc(~positive, score), 1 - value, atol=1e-15)


def test_auc_at_the_edges():
    assert roc.auc([0, 0, 1], [1, 2, 3]) == 1.0
    assert roc.auc([0, 0, 1], [3, 2, 1]) == 0.0
    assert roc.auc([0, 1, 0, 1, 1], [7] * 5) == 0.5
    assert roc.auc([0, 1], [-np.inf, np.inf]) == 1.0
    assert roc.auc([0, 1], [-0.0, 0.0]) == 0.5
    assert math.isnan(roc.auc([1, 1], [1, 2]))
    assert math.isnan(roc.auc([0], [1]))


@pytest.mark.parametrize("decimals", [1, 12])
def test_roc_curve_equals_scikit_learn(decimals):
    positive, score = binary(4, decimals=decimals)
    for ours, theirs in zip(
        roc.roc_curve(positive, score),
        reference.roc_curve(positive, score, drop_intermediate=False),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs)


@given(questions)
def test_area_under_the_roc_curve_is_the_auc(question):
    positive, score = question
    curve = roc.roc_curve(positive, score)
    area = np.trapezoid(curve.tpr, curve.fpr)
    np.testing.assert_allclose(area, roc.auc(positive, score), atol=1e-12)


def test_roc_curve_of_one_class_is_nan_on_the_other_axis():
    curve = roc.roc_curve([1, 1], [0.2, 0.4])
    assert np.isnan(curve.fpr).all()
    assert curve.tpr.tolist() == [0.0, 0.5, 1.0]


# -- classes


def test_auc_per_class_and_weighted_auc_equal_scikit_learn():
    truth, probs = multiclass(5)
    expected = [reference.roc_auc_score(truth == k, probs[:, k]) for k in range(4)]
    np.testing.assert_allclose(roc.auc_per_class(truth, probs), expected, atol=1e-14)
    assert roc.weighted_auc(truth, probs) == pytest.approx(
        reference.roc_auc_score(truth, probs, multi_class="ovr", average="weighted"), abs=1e-14
    )


def test_weighted_auc_of_two_classes_is_the_auc():
    truth, probs = multiclass(6, k=2)
    expected = roc.auc(truth, probs[:, 1])
    assert roc.auc_per_class(truth, probs).tolist() == [expected, expected]
    assert roc.weighted_auc(truth, probs) == pytest.approx(expected, abs=1e-15)


def test_an_absent_class_has_no_auc_and_no_weight():
    truth, probs = multiclass(7)
    kept = truth != 2
    aucs = roc.auc_per_class(truth[kept], probs[kept])
    assert np.isnan(aucs).tolist() == [False, False, True, False]
    expected = np.average(aucs[[0, 1, 3]], weights=np.bincount(truth[kept])[[0, 1, 3]])
    assert roc.weighted_auc(truth[kept], probs[kept]) == pytest.approx(expected)


def test_a_class_alone_has_no_auc():
    truth, probs = multiclass(8)
    alone = truth == 1
    assert np.isnan(roc.auc_per_class(truth[alone], probs[alone])).all()
    assert math.isnan(roc.weighted_auc(truth[alone], probs[alone]))
