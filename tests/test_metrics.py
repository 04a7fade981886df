import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from drawn import multiclass
from medloop import metrics, roc
from medloop.errors import DataError, UsageError


@pytest.mark.parametrize("n_classes", [4, 6])  # 6: two classes that nobody has
def test_counts_of_classes_equal_scikit_learn(n_classes):
    rng = np.random.default_rng(9)
    truth, predicted = rng.integers(4, size=120), rng.integers(3, size=120)
    labels = np.arange(n_classes)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(truth, predicted, n_classes),
        reference.confusion_matrix(truth, predicted, labels=labels),
    )
    scores = metrics.precision_recall_f1(truth, predicted, n_classes)
    ours = (scores.precision, scores.recall, scores.f1, scores.support)
    theirs = reference.precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=0
    )
    np.testing.assert_allclose(ours, theirs)
    macro = reference.precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=0, average="macro"
    )
    np.testing.assert_allclose(
        (scores.macro_precision, scores.macro_recall, scores.macro_f1), macro[:3]
    )
    assert metrics.accuracy(truth, predicted) == reference.accuracy_score(truth, predicted)
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(
        reference.balanced_accuracy_score(truth, predicted)
    )


# -- probabilities


def test_likelihood_and_brier_equal_scikit_learn():
    truth, probs = multiclass(10)
    assert metrics.negative_log_likelihood(truth, probs) == pytest.approx(
        reference.log_loss(truth, probs)
    )
    one_hot = np.eye(4)[truth]
    assert metrics.brier(truth, probs) == pytest.approx(
        4 * reference.mean_squared_error(one_hot, probs)
    )
    truth, probs = multiclass(11, k=2)
    assert metrics.brier(truth, probs) == pytest.approx(
        2 * reference.brier_score_loss(truth, probs[:, 1])
    )


def test_likelihood_of_a_sure_mistake_is_finite():
    assert metrics.negative_log_likelihood([1], [[1.0, 0.0]]) == pytest.approx(36.04, abs=0.01)


def test_calibration_error_equals_the_formula_on_bins_cut_by_hand():
    truth, probs = multiclass(12, n=150)
    confidence, correct = probs.max(1), probs.argmax(1) == truth
    squared = 0.0
    for members in np.array_split(np.argsort(confidence), 15):  # 10 cases each, no ties
        share = correct[members].mean()
        gap = confidence[members].mean() - share
        squared += len(members) / 150 * (gap**2 - share * (1 - share) / (len(members) - 1))
    assert metrics.calibration_error(truth, probs) == pytest.approx(math.sqrt(max(squared, 0)))


def test_calibration_error_is_unbiased_in_the_square_where_the_plain_one_is_not():
    rng = np.random.default_rng(13)
    debiased, plain = [], []
    for _ in range(300):
        confidence = rng.uniform(0.5, 1, size=150)
        probs = np.stack([confidence, 1 - confidence], axis=1)
        truth = (rng.random(150) > confidence).astype(int)  # calibrated
        points = metrics.reliability(truth, probs)
        gap2 = (points.confidence - points.accuracy) ** 2
        noise = points.accuracy * (1 - points.accuracy) / (points.count - 1)
        plain.append(np.average(gap2, weights=points.count))
        debiased.append(np.average(gap2 - noise, weights=points.count))
    standard_error = np.std(debiased) / math.sqrt(300)
    assert abs(np.mean(debiased)) < 4 * standard_error
    assert np.mean(plain) > 20 * standard_error


def test_reliability_keeps_equal_confidences_together():
    probs = np.repeat([[0.6, 0.4], [0.7, 0.3], [1.0, 0.0]], [10, 1, 60], axis=0)
    truth = np.zeros(71, dtype=int)
    points = metrics.reliability(truth, probs)
    assert points.count.tolist() == [11, 60]
    shuffled = np.random.default_rng(0).permutation(71)
    again = metrics.reliability(truth[shuffled], probs[shuffled])
    np.testing.assert_allclose(again.confidence, points.confidence)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=60), st.integers(1, 20))
def test_reliability_accounts_for_every_case(tenths, bins):
    first = np.array(tenths) / 10
    probs = np.stack([first, 1 - first], axis=1)
    truth = np.arange(len(first)) % 2
    points = metrics.reliability(truth, probs, bins=bins)
    assert points.count.sum() == len(first)
    assert len(points.count) <= bins
    assert points.count.min() >= min(2, len(first))
    assert np.average(points.accuracy, weights=points.count) == pytest.approx(
        metrics.accuracy(truth, probs.argmax(1))
    )
    assert (np.diff(points.confidence) > 0).all()


def test_one_case_has_no_calibration_error():
    assert math.isnan(metrics.calibration_error([0], [[0.9, 0.1]]))


def test_summary_agrees_with_the_functions_and_is_json():
    truth, probs = multiclass(14)
    kept = truth != 3
    result = metrics.summary(truth[kept], probs[kept], list("abcd"))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n"] == kept.sum()
    assert result["weighted_auc"] == roc.weighted_auc(truth[kept], probs[kept])
    assert result["calibration_error"] == metrics.calibration_error(truth[kept], probs[kept])
    assert [row["class"] for row in result["per_class"]] == list("abcd")
    assert result["per_class"][3]["auc"] is None
    assert result["per_class"][3]["support"] == 0
    assert np.sum(result["confusion_matrix"]) == kept.sum()
    assert sum(point["count"] for point in result["reliability"]) == kept.sum()


def test_summary_of_one_case_is_json():
    json.dumps(metrics.summary([0], [[0.9, 0.1]], ["no", "yes"]), allow_nan=False)


# -- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc.auc([0, 1], [1.0]), "score must have shape (2,) like positive, got (1,)."),
        (lambda: roc.auc([0, 2], [1, 2]), "positive must hold 0 or 1, got 2 at index 1."),
        (lambda: roc.auc([], []), "positive must have shape (n,) with n >= 1, got (0,)."),
        (
            lambda: roc.auc([0, 1, 1], [1.0, 2.0, math.nan]),
            "score must hold numbers, got nan at index 2.",
        ),
        (
            lambda: roc.roc_curve([0, 1], [math.nan, 1.0]),
            "score must hold numbers, got nan at index 0.",
        ),
        (lambda: roc.auc([0, 1], ["a", "b"]), "score must hold numbers, got <U1."),
        (
            lambda: metrics.brier(np.zeros(120, int), np.full((119, 2), 0.5)),
            "probs must have shape (n, K) with n=120 and K >= 2, got (119, 2).",
        ),
        (
            lambda: metrics.brier([0, 1], [[0.5, 0.5], [math.nan, 0.5]]),
            "probs must lie in 0 to 1, got nan at index (1, 0).",
        ),
        (
            lambda: metrics.brier([0, 1], [[0.5, 0.5], [1.25, -0.25]]),
            "probs must lie in 0 to 1, got 1.25 at index (1, 0).",
        ),
        (
            lambda: metrics.brier([0, 1], [[0.5, 0.5], [0.5, 0.25]]),
            "probs must sum to 1 in each row, got 0.75 in row 1.",
        ),
        (
            lambda: metrics.brier([0, 2], [[0.5, 0.5], [0.5, 0.5]]),
            "truth must hold class indices 0 to 1, got 2 at index 1.",
        ),
        (
            lambda: metrics.accuracy([0.0, 1.0], [0, 1]),
            "truth must hold integer class indices, got float64.",
        ),
        (
            lambda: metrics.accuracy([0, 1], [0, -1]),
            "predicted must hold class indices 0 or more, got -1 at index 1.",
        ),
        (
            lambda: metrics.confusion_matrix([0, 1], [0], 2),
            "predicted must have shape (2,) like truth, got (1,).",
        ),
        (
            lambda: metrics.summary([0], [[0.5, 0.5]], ["a"]),
            "classes must name the 2 columns of probs, got 1 names.",
        ),
    ],
)
def test_refuses_with_both_sides(call, message):
    with pytest.raises(DataError) as caught:
        call()
    assert str(caught.value) == message


def test_refuses_no_bins():
    with pytest.raises(UsageError, match=r"bins must be at least 1, got 0\."):
        metrics.reliability([0], [[0.5, 0.5]], bins=0)


def test_half_precision_probabilities_are_accepted():
    truth, probs = multiclass(15)
    half = metrics.brier(truth, probs.astype(np.float16))
    assert half == pytest.approx(metrics.brier(truth, probs), abs=1e-3)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_everything_ignores_the_order_of_the_cases(seed):
    truth, probs = multiclass(seed, n=40, k=3)
    order = np.random.default_rng(seed).permutation(40)
    ours = metrics.summary(truth, probs, "abc")
    again = metrics.summary(truth[order], probs[order], "abc")
    for key in ("accuracy", "macro_f1", "weighted_auc", "calibration_error", "brier"):
        assert again[key] == pytest.approx(ours[key], abs=1e-7), key
