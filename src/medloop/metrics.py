"""How good probabilities and predicted classes are, as pure functions of arrays.

Arrays come first: `truth (n,)` and `predicted (n,)` hold class indices 0..K-1, `probs (n, K)` a
probability per class. What is undefined, such as the recall of a class that nobody has, is nan and
never a warning. All arrays must hold at least one case; what cannot be used raises `DataError`
with both sides. Areas under curves are in :mod:`medloop.roc`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.checks import class_indices, same_length, truth_and_probs
from medloop.errors import DataError, UsageError
from medloop.roc import auc_per_class, weighted_auc

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Precision, recall and F1 of each class (K,), how many cases it has, and the plain means."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    macro_precision: float
    macro_recall: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Points of a reliability diagram (B,): mean confidence, share correct, cases in the bin."""

    confidence: Floats
    accuracy: Floats
    count: Ints


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> Ints:
    """Count the cases of each true class (row) that were given each class (column).

    Parameters
    ----------
    truth, predicted : (n,) class indices in 0..n_classes-1
    n_classes : K

    Returns
    -------
    (K, K) counts

    Raises
    ------
    DataError
        The lengths differ, or a class index is out of range.

    Examples
    --------
    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    truth = class_indices("truth", truth, n_classes)
    predicted = class_indices("predicted", predicted, n_classes)
    same_length(truth, predicted)
    cells = np.bincount(truth * n_classes + predicted, minlength=n_classes * n_classes)
    return cells.reshape(n_classes, n_classes)


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Share of cases whose class was predicted.

    Parameters
    ----------
    truth, predicted : (n,) class indices

    Raises
    ------
    DataError
        The lengths differ, or an entry is not a class index.

    Examples
    --------
    >>> accuracy([0, 0, 1, 1], [0, 1, 1, 1])
    0.75
    """
    truth, predicted = class_indices("truth", truth), class_indices("predicted", predicted)
    same_length(truth, predicted)
    return float(np.mean(truth == predicted))


def balanced_accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean recall over the classes that occur in `truth`.

    Parameters
    ----------
    truth, predicted : (n,) class indices

    Raises
    ------
    DataError
        The lengths differ, or an entry is not a class index.

    Examples
    --------
    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    truth, predicted = class_indices("truth", truth), class_indices("predicted", predicted)
    same_length(truth, predicted)
    support = np.bincount(truth)
    hits = np.bincount(truth, weights=truth == predicted)
    return float(np.mean(hits[support > 0] / support[support > 0]))


def precision_recall_f1(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> ClassScores:
    """Precision, recall and F1 of every class; 0 where nothing can be divided.

    The macro values are plain means over all K classes, so macro F1 is the mean of the F1s (not
    the F1 of the means), and a class that neither occurs nor is predicted counts as 0.

    Parameters
    ----------
    truth, predicted : (n,) class indices in 0..n_classes-1
    n_classes : K

    Raises
    ------
    DataError
        The lengths differ, or a class index is out of range.

    Examples
    --------
    >>> scores = precision_recall_f1([0, 0, 1, 1], [0, 1, 1, 1], 2)
    >>> scores.recall.tolist(), round(scores.macro_f1, 3)
    ([0.5, 1.0], 0.733)
    """
    matrix = confusion_matrix(truth, predicted, n_classes)
    hits, called, support = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    precision = hits / np.maximum(called, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(called + support, 1)
    return ClassScores(
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
    )


def reliability(truth: ArrayLike, probs: ArrayLike, bins: int = 15) -> Reliability:
    """Mean confidence against share correct, in bins of equal mass of the top-class confidence.

    Equal confidences are never split between bins and a bin holds at least two cases (one, if
    there is only one), so there may be fewer bins than asked for, and the order of the cases does
    not matter.

    Parameters
    ----------
    truth : (n,) class indices
    probs : (n, K) probabilities; the prediction is the most probable class
    bins : at most this many

    Raises
    ------
    DataError
        Shapes do not fit, a class index is not in 0..K-1, or a row is no probability vector.
    UsageError
        `bins` is below 1.

    Examples
    --------
    >>> points = reliability([0, 1, 0, 1], [[0.6, 0.4]] * 2 + [[0.9, 0.1]] * 2, bins=2)
    >>> points.confidence.tolist(), points.accuracy.tolist(), points.count.tolist()
    ([0.6, 0.9], [0.5, 0.5], [2, 2])
    """
    truth, probs = truth_and_probs(truth, probs)
    if bins < 1:
        raise UsageError(f"bins must be at least 1, got {bins}.")
    n = truth.size
    confidence = probs.max(1)
    order = np.argsort(confidence)
    ranked = confidence[order]
    correct = (probs.argmax(1) == truth)[order]
    starts = [0]
    for cut in np.searchsorted(ranked, ranked[np.arange(1, bins) * n // bins]):
        if cut - starts[-1] >= 2 and n - cut >= 2:
            starts.append(int(cut))
    count = np.diff([*starts, n])
    return Reliability(
        confidence=np.add.reduceat(ranked, starts) / count,
        accuracy=np.add.reduceat(correct, starts, dtype=np.float64) / count,
        count=count,
    )


def calibration_error(truth: ArrayLike, probs: ArrayLike, bins: int = 15) -> float:
    """Debiased expected calibration error of the top class: root mean square, in [0, 1].

    The estimator of Kumar, Liang & Ma 2019 ("Verified uncertainty calibration", section 5; Bröcker
    2012, Ferro & Fricker 2012), recommended with equal-mass bins by Roelofs et al. 2022
    ("Mitigating bias in calibration error estimation"). With n_b cases in bin b, mean confidence
    c_b and share correct a_b:
    sqrt(max(0, sum_b n_b / n * ((c_b - a_b)^2 - a_b (1 - a_b) / (n_b - 1)))).
    It is the 2-norm, so it does not compare with the 1-norm ECE of other papers. nan for one case.

    Parameters
    ----------
    truth : (n,) class indices
    probs : (n, K) probabilities
    bins : at most this many bins of equal mass

    Raises
    ------
    DataError
        Shapes do not fit, a class index is not in 0..K-1, or a row is no probability vector.
    UsageError
        `bins` is below 1.

    Examples
    --------
    >>> round(calibration_error([0] * 10, [[0.7, 0.3]] * 10), 6)  # always right, 70% sure
    0.3
    """
    points = reliability(truth, probs, bins)
    if points.count[0] < 2:
        return float("nan")
    gap = points.confidence - points.accuracy
    noise = points.accuracy * (1 - points.accuracy) / (points.count - 1)
    squared = float(np.average(gap**2 - noise, weights=points.count))
    return math.sqrt(max(0.0, squared))


def negative_log_likelihood(truth: ArrayLike, probs: ArrayLike) -> float:
    """Mean of -ln(probability given to the true class), in nats; probabilities floored at 2.2e-16.

    Parameters
    ----------
    truth : (n,) class indices
    probs : (n, K) probabilities

    Raises
    ------
    DataError
        Shapes do not fit, a class index is not in 0..K-1, or a row is no probability vector.

    Examples
    --------
    >>> round(negative_log_likelihood([0, 1], [[0.5, 0.5], [0.5, 0.5]]), 4)
    0.6931
    """
    truth, probs = truth_and_probs(truth, probs)
    given = probs[np.arange(truth.size), truth]
    return float(-np.mean(np.log(np.clip(given, np.finfo(np.float64).eps, 1.0))))


def brier(truth: ArrayLike, probs: ArrayLike) -> float:
    """Brier score in [0, 2]: mean over cases of the sum over classes of (probability - outcome)^2.

    The form of Brier 1950; for two classes it is twice the one-column form.

    Parameters
    ----------
    truth : (n,) class indices
    probs : (n, K) probabilities

    Raises
    ------
    DataError
        Shapes do not fit, a class index is not in 0..K-1, or a row is no probability vector.

    Examples
    --------
    >>> brier([0, 1], [[1.0, 0.0], [0.5, 0.5]])
    0.25
    """
    truth, probs = truth_and_probs(truth, probs)
    outcome = np.eye(probs.shape[1])[truth]
    return float(np.mean(np.sum((probs - outcome) ** 2, axis=1)))


def summary(truth: ArrayLike, probs: ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """Every metric of this module at once, ready for JSON: plain numbers, None where undefined.

    Parameters
    ----------
    truth : (n,) class indices
    probs : (n, K) probabilities; the prediction is the most probable class
    classes : K names, in the order of the columns

    Raises
    ------
    DataError
        Shapes do not fit, a class index is not in 0..K-1, a row is no probability vector, or
        there are not K names.

    Examples
    --------
    >>> result = summary([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["normal", "abnormal"])
    >>> result["accuracy"], result["weighted_auc"], result["per_class"][1]["class"]
    (1.0, 1.0, 'abnormal')
    """
    truth, probs = truth_and_probs(truth, probs)
    n_classes = probs.shape[1]
    if len(classes) != n_classes:
        raise DataError(
            f"classes must name the {n_classes} columns of probs, got {len(classes)} names."
        )
    predicted = probs.argmax(1)
    aucs = auc_per_class(truth, probs)
    scores = precision_recall_f1(truth, predicted, n_classes)
    points = reliability(truth, probs)
    return {
        "n": truth.size,
        "classes": [str(name) for name in classes],
        "accuracy": accuracy(truth, predicted),
        "balanced_accuracy": balanced_accuracy(truth, predicted),
        "macro_precision": scores.macro_precision,
        "macro_recall": scores.macro_recall,
        "macro_f1": scores.macro_f1,
        "weighted_auc": _json(weighted_auc(truth, probs)),
        "calibration_error": _json(calibration_error(truth, probs)),
        "negative_log_likelihood": negative_log_likelihood(truth, probs),
        "brier": brier(truth, probs),
        "per_class": [
            {
                "class": str(name),
                "support": int(scores.support[k]),
                "auc": _json(float(aucs[k])),
                "precision": float(scores.precision[k]),
                "recall": float(scores.recall[k]),
                "f1": float(scores.f1[k]),
            }
            for k, name in enumerate(classes)
        ],
        "confusion_matrix": confusion_matrix(truth, predicted, n_classes).tolist(),
        "reliability": [
            {"confidence": confidence, "accuracy": share, "count": count}
            for confidence, share, count in zip(
                points.confidence.tolist(),
                points.accuracy.tolist(),
                points.count.tolist(),
                strict=True,
            )
        ],
    }


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
