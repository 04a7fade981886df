"""How well people agree beyond chance, and what they say together.

Ratings are an (n, R) table of class indices: a row an item, a column a rater, -1 where that rater
did not look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.consistency import agreement as cohen_kappa
from medloop.errors import DataError

__all__ = [
    "Consensus",
    "cohen_kappa",
    "dawid_skene",
    "fleiss_kappa",
    "krippendorff_alpha",
    "majority",
    "votes",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDS = 1_000
_STILL = 1e-10


def votes(ratings: ArrayLike, *, n_classes: int | None = None) -> Ints:
    """Count how many raters gave each class to each item: (n, K).

    Raises
    ------
    DataError
        ``ratings`` is no table of class indices.

    Examples
    --------
    >>> votes([[0, 1, 1], [2, -1, 2]]).tolist()
    [[1, 2, 0], [0, 0, 2]]
    """
    table = _ratings(ratings, n_classes)
    k = int(table.max(initial=0)) + 1 if n_classes is None else n_classes
    counts = np.zeros((len(table), k), np.int64)
    rows, raters = np.nonzero(table >= 0)
    np.add.at(counts, (rows, table[rows, raters]), 1)
    return counts


def fleiss_kappa(counts: ArrayLike) -> float:
    """Return Fleiss' kappa (1971) of several raters; nan where all gave one class.

    Parameters
    ----------
    counts : (n, K) int
        How many raters gave each class to each item; the same number of raters, at least two, on
        every item.

    Raises
    ------
    DataError
        Items have different numbers of raters, or fewer than two.

    Examples
    --------
    >>> round(fleiss_kappa([[2, 0], [0, 2], [1, 1], [2, 0]]), 4)
    0.4667
    """
    table = np.asarray(counts)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "iu":
        raise DataError(f"counts must be whole numbers of shape (n, K), got {table.shape}.")
    raters = table.sum(axis=1)
    if raters.min() != raters.max() or raters[0] < 2 or table.min() < 0:
        raise DataError("every item must have the same number of raters, at least two.")
    r = int(raters[0])
    observed = float(((table * (table - 1)).sum(axis=1) / (r * (r - 1))).mean())
    share = table.sum(axis=0) / table.sum()
    chance = float((share**2).sum())
    if (table.sum(axis=0) > 0).sum() < 2:
        return float("nan")
    return (observed - chance) / (1 - chance)


def krippendorff_alpha(ratings: ArrayLike) -> float:
    """Return Krippendorff's alpha for names (nominal data); raters may leave items out.

    1 - D_o / D_e, from the coincidences of values within items (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability"). nan where nothing can be paired or all gave one class.

    Parameters
    ----------
    ratings : (n, R) int
        Class index of each item by each rater, -1 where missing.

    Examples
    --------
    >>> krippendorff_alpha([[0, 0], [1, 1], [0, 1], [0, -1]])
    0.4444444444444444
    """
    counts = votes(ratings)
    pairs = counts.sum(axis=1)
    counts, pairs = counts[pairs > 1], pairs[pairs > 1]
    if not len(counts):
        return float("nan")
    total = int(pairs.sum())
    value = counts.sum(axis=0)
    # values within an item that differ, each pair weighted by 1 / (raters of the item - 1)
    apart = pairs**2 - (counts**2).sum(axis=1)
    observed = float((apart / (pairs - 1)).sum()) / total
    expected = (total**2 - int((value**2).sum())) / (total * (total - 1))
    return float("nan") if expected == 0 else 1 - observed / expected


def majority(ratings: ArrayLike, *, n_classes: int | None = None) -> Ints:
    """Return the class that most raters gave to each item; -1 for a tie or without a rater.

    Examples
    --------
    >>> majority([[0, 1, 1], [0, 1, -1], [-1, -1, -1]]).tolist()
    [1, -1, -1]
    """
    counts = votes(ratings, n_classes=n_classes)
    best = counts.max(axis=1, initial=0)
    clear = (counts == best[:, None]).sum(axis=1) == 1
    return np.where(clear & (best > 0), counts.argmax(axis=1), -1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Consensus:
    """What several raters say together.

    Parameters
    ----------
    probs : (n, K) float
        Probability that the item is of each class.
    share : (K,) float
        Share of each class.
    confusion : (R, K, K) float
        For each rater, the probability of the answer (column) where the class is (row).
    steps : int
        Rounds of expectation and maximisation until nothing changed.
    log_likelihood : float
    """

    probs: Floats
    share: Floats
    confusion: Floats
    steps: int
    log_likelihood: float


def dawid_skene(
    ratings: ArrayLike, *, n_classes: int | None = None, smoothing: float = 0.01
) -> Consensus:
    """Weigh raters by how they err, and items by who rated them (Dawid & Skene 1979).

    Expectation and maximisation, begun with the shares of the votes, until no probability changes
    by more than 1e-10. ``smoothing`` is added to every count of the confusions, so that a rater
    with few answers is not taken for infallible; 0 is the method as published.

    Parameters
    ----------
    ratings : (n, R) int
        Class index of each item by each rater, -1 where missing; every item has a rater.
    n_classes : int, optional
        One more than the largest index where not given.
    smoothing : float
        At least 0.

    Raises
    ------
    DataError
        ``ratings`` is no table of class indices, or an item has no rater.

    Examples
    --------
    >>> three = [[0, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]]
    >>> dawid_skene(three).probs.argmax(axis=1).tolist()
    [0, 1, 0, 1, 0]
    """
    counts = votes(ratings, n_classes=n_classes)
    table = _ratings(ratings, n_classes)
    if not len(table) or counts.sum(axis=1).min() < 1:
        raise DataError("every item needs at least one rating.")
    if smoothing < 0:
        raise DataError(f"smoothing must be at least 0, got {smoothing}.")
    k = counts.shape[1]
    # (n, R, K): which answer each rater gave; all zero where none
    gave = (table[:, :, None] == np.arange(k)).astype(np.float64)
    probs = counts / counts.sum(axis=1, keepdims=True)
    last, likelihood, step = np.zeros_like(probs), -np.inf, 0
    while step < _ROUNDS and np.abs(probs - last).max() > _STILL:
        step, last = step + 1, probs
        share = probs.mean(axis=0)
        confusion = np.einsum("ik,irj->rkj", probs, gave) + smoothing
        total = confusion.sum(axis=2, keepdims=True)
        confusion = np.divide(confusion, total, out=np.full_like(confusion, 1 / k), where=total > 0)
        with np.errstate(divide="ignore"):
            weight = np.log(share) + _times(gave, np.log(confusion))
        top = weight.max(axis=1, keepdims=True)
        probs = np.exp(weight - top)
        whole = probs.sum(axis=1, keepdims=True)
        probs = probs / whole
        likelihood = float((top + np.log(whole)).sum())
    return Consensus(probs, share, confusion, step, likelihood)


def _times(gave: Floats, log: Floats) -> Floats:
    """Sum the logarithms of what was answered; what was not counts nothing, minus infinity too."""
    total = np.zeros((gave.shape[0], log.shape[1]))
    for rater in range(gave.shape[1]):
        rows, answers = np.nonzero(gave[:, rater])
        total[rows] += log[rater][:, answers].T
    return total


def _ratings(ratings: ArrayLike, n_classes: int | None) -> Ints:
    table = np.asarray(ratings)
    if table.ndim != 2 or (table.size and table.dtype.kind not in "iu"):
        raise DataError(f"ratings must be class indices of shape (n, R), got {table.shape}.")
    top = np.inf if n_classes is None else n_classes
    if table.size and not (table.min() >= -1 and table.max() < top):
        raise DataError(f"ratings must lie in [-1, {top}), got {table.min()} and {table.max()}.")
    return table.astype(np.int64)
