"""Which labels are most worth a person's look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError
from medloop.labels import MODEL, Labels
from medloop.review.index import Index

Floats = NDArray[np.float64]


def probability_wrong(labels: Labels) -> Floats:
    """Return (m,): how probably each row is wrong, by the machine's own probabilities.

    Examples
    --------
    >>> probability_wrong(Labels(image=[0], class_id=[1], score=[0.75])).tolist()
    [0.25]
    """
    if labels.probs is None:
        return 1.0 - labels.score
    own = labels.probs[np.arange(len(labels)), labels.class_id]
    return np.clip(1.0 - own, 0.0, 1.0)


def expected_cost(labels: Labels, cost: Floats) -> Floats:
    """Return (m,): what the errors of each row are expected to cost.

    Where the probabilities are known, the sum over the other classes of their probability times
    what it costs to miss that class; else the probability of an error times the cost of the class
    that was given.

    Parameters
    ----------
    labels : Labels
    cost : (K,) float

    Examples
    --------
    >>> cat_or_cancer = Labels(image=[0], class_id=[0], probs=[[0.9, 0.1]])
    >>> expected_cost(cat_or_cancer, np.array([1.0, 50.0])).tolist()
    [5.0]
    """
    if labels.probs is None:
        return probability_wrong(labels) * cost[labels.class_id]
    others = labels.probs * cost
    others[np.arange(len(labels)), labels.class_id] = 0.0
    return np.asarray(others.sum(axis=1))


def class_costs(costs: Mapping[str, float] | None, classes: Sequence[str]) -> Floats:
    """Return (K,) what an error on each class costs; 1 where not given.

    Raises
    ------
    DataError
        An unknown class, or a cost that is negative or not finite.
    """
    known = np.ones(len(classes))
    for name, value in (costs or {}).items():
        if name not in classes:
            raise DataError(f"costs name the unknown class {name!r}.")
        if not (np.isfinite(value) and value >= 0):
            raise DataError(f"the cost of {name!r} must be 0 or more, got {value!r}.")
        known[list(classes).index(name)] = value
    return known


@dataclass(frozen=True, eq=False)
class Doubts:
    """How much each of n images needs a look.

    Parameters
    ----------
    doubt : (n,) float
        How probably its label is wrong, in [0, 1].
    value : (n,) float
        What that is worth.
    class_id : (n,) int
        Of its most doubtful finding; -1 where there is none.
    score : (n,) float
        Of the same; nan where there is none.
    """

    doubt: Floats
    value: Floats
    class_id: NDArray[np.int64]
    score: Floats


def image_doubts(index: Index, cost: Floats) -> Doubts:
    """Say how much each image needs a look.

    An image counts by its most doubtful finding. Where a model looked and found nothing, or where
    only a person named something, it counts as the average image, since nothing is known; where
    nobody looked, as surely wrong.
    """
    n = len(index.ids)
    doubt, value = np.full(n, -1.0), np.full(n, -1.0)
    class_id, score = np.full(n, -1, np.int64), np.full(n, np.nan)
    for seq in np.unique(index.model[index.model > 0]).tolist():
        table = index.table(seq)
        at = index.positions(table.image)
        rows = np.flatnonzero((index.model[at] == seq) & (table.source == MODEL))
        part, here = table[rows], at[rows]
        wrong = probability_wrong(part)
        np.maximum.at(doubt, here, wrong)
        np.maximum.at(value, here, expected_cost(part, cost))
        worst = np.flatnonzero(wrong == doubt[here])
        class_id[here[worst]], score[here[worst]] = part.class_id[worst], part.score[worst]
    known = doubt >= 0
    named = np.zeros(n, bool)
    named[index.positions(np.array(sorted(index.partly), np.int64))] = True
    empty = ~known & ((index.model > 0) | named)
    doubt[empty] = doubt[known].mean() if known.any() else 0.5
    value[empty] = value[known].mean() if known.any() else 0.5
    nobody = ~known & ~empty
    doubt[nobody], value[nobody] = 1.0, cost.max(initial=1.0)
    return Doubts(doubt, value, class_id, score)


def reason(
    doubt: float,
    *,
    labelled: bool,
    looked: bool,
    reopened: bool,
    proposed: bool = False,
    named: bool = False,
) -> str:
    """Say in a few words why an image stands in the queue.

    Examples
    --------
    >>> reason(0.284, labelled=True, looked=True, reopened=False)
    'wrong with 28% by its own score'
    """
    if reopened:
        return "an answer was taken back"
    if proposed:
        return "the machine would place a person's points elsewhere"
    if named and not labelled:
        return "a person named some of what it holds"
    if not looked:
        return "no label yet"
    if not labelled:
        return "nothing was found"
    return f"wrong with {doubt:.0%} by its own score"
