"""How good scores, probabilities and predicted classes are, as pure functions of arrays.

Arrays come first: `truth (n,)` and `predicted (n,)` hold class indices 0..K-1, `probs (n, K)` a
probability per class, `positive (n,)` and `score (n,)` one yes/no question. What is undefined,
such as the AUC of a class that nobody has, is nan and never a warning. All arrays must hold at
least one case; what cannot be used raises `DataError` with both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, UsageError

__all__ = [
    "ClassScores",
    "Reliability",
    "RocCurve",
    "accuracy",
    "auc",
    "auc_per_class",
    "balanced_accuracy",
    "brier",
    "calibration_error",
    "confusion_matrix",
    "negative_log_likelihood",
    "placement_counts",
    "precision_recall_f1",
    "reliability",
    "roc_curve",
    "summary",
    "weighted_auc",
    "zero_one",
]

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

ROW_SUM_TOLERANCE = 1e-3  # what half-precision softmax leaves behind


class RocCurve(NamedTuple):
    """Points of a ROC curve, from (0, 0) to (1, 1): three arrays of one length."""

    fpr: _Floats
    tpr: _Floats
    thresholds: _Floats


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Precision, recall and F1 of each class (K,), how many cases it has, and the plain means."""

    precision: _Floats
    recall: _Floats
    f1: _Floats
    support: _Ints
    macro_precision: float
    macro_recall: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Points of a reliability diagram (B,): mean confidence, share correct, cases in the bin."""

    confidence: _Floats
    accuracy: _Floats
    count: _Ints


# -- one question, one score ----------------------------------------------------------------------


def placement_counts(
    positive: ArrayLike, score: ArrayLike, *, name: str = "score"
) -> NDArray[np.signedinteger[Any]]:
    """Count, for each case, the cases of the other class that stand on the right side of it.

    Twice that count, so that a tie (worth one half) stays an integer and everything built on it
    is exact. For a positive: 2 * (negatives with a lower score) + (negatives with the same score).
    For a negative: 2 * (positives with a higher score) + (positives with the same score). Divided
    by twice the size of the other class these are DeLong's structural components V10 and V01.
    One argsort, after Sun & Xu 2014, "Fast implementation of DeLong's algorithm".

    Parameters
    ----------
    positive : (n,) bool or 0/1
    score : (n,) numbers, higher means more likely positive; may be infinite, not nan
    name : what error messages call the score

    Returns
    -------
    (n,) integers, in the order of the input

    Raises
    ------
    DataError
        The lengths differ, `positive` is not 0/1, or a score is nan.

    Examples
    --------
    >>> placement_counts([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8]).tolist()
    [4, 3, 3, 4]
    """
    positive, score = _question(positive, score, name)
    n = score.size
    dtype: type[np.signedinteger[Any]] = np.int32 if n < 2**29 else np.int64
    order = np.argsort(score)
    ranked = score.take(order)
    if ranked[-1] != ranked[-1]:  # nan sorts last
        _refuse_nan(name, score)
    negative = positive.take(order)
    np.logical_not(negative, out=negative)
    below: NDArray[Any] = np.cumsum(negative, dtype=dtype)
    n_positive = n - int(below[-1])
    # A run of equal scores covers start..stop in the ranking. Wanted: twice the negatives below
    # its middle, and for its own negatives what turns that into twice the positives above.
    # In place, because fresh pages cost as much here as the arithmetic.
    turn: NDArray[Any]
    last_of_run = ranked[1:] != ranked[:-1]
    if last_of_run.all():
        below *= 2
        below -= negative
        turn = np.arange(2 * n_positive - 1, 2 * n_positive - 1 - 2 * n, -2, dtype=dtype)
    else:
        stop = np.append(np.flatnonzero(last_of_run) + 1, n).astype(dtype)
        start = np.append(np.zeros(1, dtype), stop[:-1])
        through = np.append(np.zeros(1, dtype), below)
        below = np.repeat(through[start] + through[stop], stop - start)
        turn = np.repeat(2 * n_positive - (start + stop), stop - start)
    turn *= negative
    below += turn
    counts: NDArray[Any] = np.empty(n, dtype)
    counts[order] = below
    return counts


def auc(positive: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: P(a positive scores above a negative), ties counting one half.

    By midranks (Mann & Whitney 1947; Sun & Xu 2014), in O(n log n). nan when one class is empty.

    Parameters
    ----------
    positive : (n,) bool or 0/1
    score : (n,) numbers, higher means more likely positive

    Raises
    ------
    DataError
        The lengths differ, `positive` is not 0/1, or a score is nan.

    Examples
    --------
    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    positive, score = _question(positive, score)
    n_positive = int(np.count_nonzero(positive))
    n_negative = positive.size - n_positive
    counts = placement_counts(positive, score)
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    return int((counts * positive).sum(dtype=np.int64)) / (2 * n_positive * n_negative)


def roc_curve(positive: ArrayLike, score: ArrayLike) -> RocCurve:
    """ROC curve with one point per distinct score, preceded by (0, 0) at threshold infinity.

    A case is called positive when its score is at least the threshold. The rate of an empty class
    is nan throughout.

    Parameters
    ----------
    positive : (n,) bool or 0/1
    score : (n,) numbers, higher means more likely positive

    Raises
    ------
    DataError
        The lengths differ, `positive` is not 0/1, or a score is nan.

    Examples
    --------
    >>> fpr, tpr, thresholds = roc_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    positive, score = _question(positive, score)
    score = score.astype(np.float64)
    order = np.argsort(score)[::-1]
    ranked = score[order]
    if np.isnan(ranked[0]):
        _refuse_nan("score", score)
    stops = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), score.size - 1)
    called = np.concatenate([[0], stops + 1])
    hits = np.concatenate([[0], np.cumsum(positive[order])[stops]])
    return RocCurve(
        fpr=_share(called - hits, int(called[-1] - hits[-1])),
        tpr=_share(hits, int(hits[-1])),
        thresholds=np.concatenate([[np.inf], ranked[stops]]),
    )


# -- classes and their probabilities --------------------------------------------------------------


def auc_per_class(truth: ArrayLike, probs: ArrayLike) -> _Floats:
    """One-vs-rest AUC of every class; nan for a class that is absent or alone.

    With two classes both are the AUC of the second column, hence equal.

    Parameters
    ----------
    truth : (n,) class indices
    probs : (n, K) probabilities

    Returns
    -------
    (K,) AUCs

    Raises
    ------
    DataError
        Shapes do not fit, a class index is not in 0..K-1, or a row is no probability vector.

    Examples
    --------
    >>> auc_per_class([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]).tolist()
    [1.0, 1.0]
    """
    truth, probs = _truth_and_probs(truth, probs)
    n_classes = probs.shape[1]
    if n_classes == 2:  # 1 - p rounds, and would tie scores that differ
        return np.full(2, auc(truth == 1, probs[:, 1]))
    return np.array([auc(truth == k, probs[:, k]) for k in range(n_classes)])


def weighted_auc(truth: ArrayLike, probs: ArrayLike) -> float:
    """WAUC: the one-vs-rest AUCs averaged by how frequent each class is in `truth`.

    nan when fewer than two classes are present. The average of scikit-learn's
    `roc_auc_score(..., multi_class="ovr", average="weighted")`.

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
    >>> probs = [[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5], [0.5, 0.3, 0.2]]
    >>> weighted_auc([0, 1, 2, 1], probs)
    1.0
    """
    truth, probs = _truth_and_probs(truth, probs)
    support = np.bincount(truth, minlength=probs.shape[1])
    present = support > 0
    return float(np.average(auc_per_class(truth, probs)[present], weights=support[present]))


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> _Ints:
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
    truth = _indices("truth", truth, n_classes)
    predicted = _indices("predicted", predicted, n_classes)
    _same_length(truth, predicted)
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
    truth, predicted = _indices("truth", truth), _indices("predicted", predicted)
    _same_length(truth, predicted)
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
    truth, predicted = _indices("truth", truth), _indices("predicted", predicted)
    _same_length(truth, predicted)
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


# -- are the probabilities honest? ----------------------------------------------------------------


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
    truth, probs = _truth_and_probs(truth, probs)
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
    truth, probs = _truth_and_probs(truth, probs)
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
    truth, probs = _truth_and_probs(truth, probs)
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
    truth, probs = _truth_and_probs(truth, probs)
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


# -- checks ---------------------------------------------------------------------------------------


def zero_one(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    """Check that `values` is a (n,) array of bool or 0/1, and give it as bool.

    Parameters
    ----------
    name : what error messages call the array
    values : (n,) bool or 0/1

    Raises
    ------
    DataError
        The shape is not (n,) with n >= 1, or an entry is neither 0 nor 1.

    Examples
    --------
    >>> zero_one("positive", [0, 1]).tolist()
    [False, True]
    """
    array = _vector(name, values)
    if array.dtype == np.bool_:
        return array
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if wrong.size:
        raise DataError(f"{name} must hold 0 or 1, got {array[wrong[0]]} at index {wrong[0]}.")
    return array.astype(np.bool_)


def _vector(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} must have shape (n,) with n >= 1, got {array.shape}.")
    return array


def _question(
    positive: ArrayLike, score: ArrayLike, name: str = "score"
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    truth = zero_one("positive", positive)
    array = _vector(name, score)
    if array.shape != truth.shape:
        raise DataError(f"{name} must have shape {truth.shape} like positive, got {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must hold numbers, got {array.dtype}.")
    return truth, array


def _refuse_nan(name: str, score: NDArray[Any]) -> NoReturn:
    index = int(np.flatnonzero(np.isnan(score))[0])
    raise DataError(f"{name} must hold numbers, got nan at index {index}.")


def _indices(name: str, values: ArrayLike, n_classes: int | None = None) -> _Ints:
    array = _vector(name, values)
    if array.dtype.kind not in "biu":
        raise DataError(f"{name} must hold integer class indices, got {array.dtype}.")
    array = array.astype(np.int64, copy=False)
    top = n_classes if n_classes is not None else int(array.max()) + 1
    wrong = np.flatnonzero((array < 0) | (array >= top))
    if wrong.size:
        expected = "0 or more" if n_classes is None else f"0 to {n_classes - 1}"
        raise DataError(
            f"{name} must hold class indices {expected}, got {array[wrong[0]]} at index {wrong[0]}."
        )
    return array


def _same_length(truth: _Ints, predicted: _Ints) -> None:
    if predicted.shape != truth.shape:
        raise DataError(
            f"predicted must have shape {truth.shape} like truth, got {predicted.shape}."
        )


def _truth_and_probs(truth: ArrayLike, probs: ArrayLike) -> tuple[_Ints, _Floats]:
    n = _vector("truth", truth).size
    table = np.asarray(probs)
    if table.dtype.kind not in "biuf":
        raise DataError(f"probs must hold numbers, got {table.dtype}.")
    if table.ndim != 2 or len(table) != n or table.shape[1] < 2:
        raise DataError(f"probs must have shape (n, K) with n={n} and K >= 2, got {table.shape}.")
    table = table.astype(np.float64, copy=False)
    wrong = np.argwhere(~((table >= 0) & (table <= 1 + ROW_SUM_TOLERANCE)))  # nan is neither
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(
            f"probs must lie in 0 to 1, got {table[row, column]:g} at index ({row}, {column})."
        )
    sums = table.sum(1)
    off = np.flatnonzero(np.abs(sums - 1) > ROW_SUM_TOLERANCE)
    if off.size:
        raise DataError(f"probs must sum to 1 in each row, got {sums[off[0]]:g} in row {off[0]}.")
    return _indices("truth", truth, table.shape[1]), table


def _share(counts: _Ints, total: int) -> _Floats:
    return counts / total if total else np.full(len(counts), np.nan)


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
