"""Which images a round learns from: easy ones first, or growing random subsets as the control."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, UsageError, did_you_mean
from medloop.students.calibration import log_prior

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDERS = ("confidence", "random", "none")


def stages(
    score: ArrayLike,
    *,
    order: str = "confidence",
    steps: int = 4,
    class_id: ArrayLike | None = None,
    seed: int = 0,
) -> list[Ints]:
    """Return the rows that each step learns from; every step holds those of the one before.

    Parameters
    ----------
    score : (n,) float
        Confidence in each row; the higher, the easier it is taken to be.
    order : {"confidence", "random", "none"}
        Easiest first; at random, which grows alike and knows nothing; or all rows in every step.
    steps : int
        Step i of s holds the first ``ceil(n i / s)`` rows: quartiles for 4.
    class_id : (n,) int, optional
        Where given, every class grows by its own quartiles. Otherwise an easy class may fill the
        first steps alone.
    seed : int
        Of the random order, and of which of equal scores comes first.

    Returns
    -------
    list of ``steps`` arrays of row numbers, each in rising order

    Raises
    ------
    UsageError
        Unknown order, or less than one step.
    DataError
        Scores that are not finite, or classes of another length.

    Examples
    --------
    >>> [step.tolist() for step in stages([0.9, 0.1, 0.5, 0.7], steps=2)]
    [[0, 3], [0, 1, 2, 3]]
    >>> balanced = stages([0.9, 0.8, 0.2, 0.1], steps=2, class_id=[0, 0, 1, 1])
    >>> balanced[0].tolist()
    [0, 2]
    """
    if order not in ORDERS:
        raise UsageError(f"unknown curriculum {order!r}.{did_you_mean(order, ORDERS)}")
    if steps < 1:
        raise UsageError(f"steps must be at least 1, got {steps}.")
    values = np.asarray(score, float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError(f"score must be finite of shape (n,), got shape {values.shape}.")
    n = len(values)
    of = np.zeros(n, np.int64) if class_id is None else np.asarray(class_id)
    if of.shape != (n,):
        raise DataError(f"class_id must have shape ({n},), got {of.shape}.")
    if order == "none":
        return [np.arange(n) for _ in range(steps)]
    chance = np.random.default_rng(seed).random(n)
    # of equal scores the first rows must not be those that stand first in the table
    ranked = np.lexsort((chance, -values)) if order == "confidence" else np.argsort(chance)
    place = np.empty(n, np.int64)
    size = np.empty(n, np.int64)
    for k in np.unique(of):
        own = ranked[of[ranked] == k]
        place[own] = np.arange(len(own))
        size[own] = len(own)
    return [
        np.flatnonzero(place < np.array([math.ceil(m * step / steps) for m in size.tolist()]))
        for step in range(1, steps + 1)
    ]


def prior_shift(class_id: ArrayLike, n_classes: int, *, tau: float = 1.0) -> Floats:
    """Return what is added to the logits in the loss so that rare classes are not drowned.

    ``tau`` times the log frequency of each class (Menon et al. 2021): the alternative to a
    curriculum for long tails. Where it was added in training, nothing is added when labelling.

    Parameters
    ----------
    class_id : (m,) int
        Of the rows that are learned from.
    n_classes : int
    tau : float
        0 adds nothing.

    Returns
    -------
    (n_classes,) float

    Examples
    --------
    >>> shift = prior_shift([0, 0, 0, 1], 2)
    >>> bool(shift[0] > shift[1])
    True
    """
    if tau < 0:
        raise UsageError(f"tau must be 0 or more, got {tau}.")
    return tau * log_prior(np.asarray(class_id, np.int64), n_classes)


def teachers(predicted: ArrayLike, class_id: ArrayLike, n_classes: int) -> tuple[Ints, Ints]:
    """Return the rows whose maps may teach: those that the classifier got right.

    A class of which no image was got right would teach nothing. All of its images are taken
    then, and it is named, so that it can be said aloud.

    Parameters
    ----------
    predicted, class_id : (n,) int
        What the classifier said, and the truth.
    n_classes : int

    Returns
    -------
    rows : (r,) int, rising
    fallen_back : (f,) int
        Classes that have images, of which none was got right.

    Examples
    --------
    >>> rows, fallen_back = teachers([0, 0, 0, 0], [0, 0, 1, 1], 2)
    >>> rows.tolist(), fallen_back.tolist()
    ([0, 1, 2, 3], [1])
    """
    said, true = np.asarray(predicted, np.int64), np.asarray(class_id, np.int64)
    if said.shape != true.shape or said.ndim != 1:
        raise DataError(
            f"predicted and class_id must have one shape (n,), got {said.shape} and {true.shape}."
        )
    right = said == true
    seen = np.bincount(true, minlength=n_classes)
    got = np.bincount(true[right], minlength=n_classes)
    fallen_back = np.flatnonzero((seen > 0) & (got == 0))
    return np.flatnonzero(right | np.isin(true, fallen_back)), fallen_back
