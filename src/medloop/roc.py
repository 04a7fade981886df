"""Receiver operating characteristics: areas and curves of scores, as pure functions of arrays.

`positive (n,)` and `score (n,)` hold one yes/no question; `probs (n, K)` one a class. The area of
a question that has no case, or only cases, is nan and never a warning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.checks import question, refuse_nan, truth_and_probs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class RocCurve(NamedTuple):
    """Points of a ROC curve, from (0, 0) to (1, 1): three arrays of one length."""

    fpr: Floats
    tpr: Floats
    thresholds: Floats


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
    positive, score = question(positive, score, name)
    n = score.size
    dtype: type[np.signedinteger[Any]] = np.int32 if n < 2**29 else np.int64
    order = np.argsort(score)
    ranked = score.take(order)
    if ranked[-1] != ranked[-1]:  # nan sorts last
        refuse_nan(name, score)
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
    positive, score = question(positive, score)
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
    positive, score = question(positive, score)
    score = score.astype(np.float64)
    order = np.argsort(score)[::-1]
    ranked = score[order]
    if np.isnan(ranked[0]):
        refuse_nan("score", score)
    stops = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), score.size - 1)
    called = np.concatenate([[0], stops + 1])
    hits = np.concatenate([[0], np.cumsum(positive[order])[stops]])
    return RocCurve(
        fpr=_share(called - hits, int(called[-1] - hits[-1])),
        tpr=_share(hits, int(hits[-1])),
        thresholds=np.concatenate([[np.inf], ranked[stops]]),
    )


def auc_per_class(truth: ArrayLike, probs: ArrayLike) -> Floats:
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
    truth, probs = truth_and_probs(truth, probs)
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
    truth, probs = truth_and_probs(truth, probs)
    support = np.bincount(truth, minlength=probs.shape[1])
    present = support > 0
    return float(np.average(auc_per_class(truth, probs)[present], weights=support[present]))


def _share(counts: Ints, total: int) -> Floats:
    return counts / total if total else np.full(len(counts), np.nan)
