"""Arrays of answers and scores, checked: what cannot be used is refused with both sides named."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError
from medloop.labels import aligned

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROW_SUM_TOLERANCE = 1e-3  # what half-precision softmax leaves behind


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
    array = vector(name, values)
    if array.dtype == np.bool_:
        return array
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if wrong.size:
        raise DataError(f"{name} must hold 0 or 1, got {array[wrong[0]]} at index {wrong[0]}.")
    return array.astype(np.bool_)


def vector(name: str, values: ArrayLike) -> NDArray[Any]:
    """Check that values are a (n,) array with n >= 1."""
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} must have shape (n,) with n >= 1, got {array.shape}.")
    return array


def question(
    positive: ArrayLike, score: ArrayLike, name: str = "score"
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Check one question: who has it, and a score of each."""
    truth = zero_one("positive", positive)
    array = vector(name, score)
    if array.shape != truth.shape:
        raise DataError(f"{name} must have shape {truth.shape} like positive, got {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must hold numbers, got {array.dtype}.")
    return truth, array


def refuse_nan(name: str, score: NDArray[Any]) -> NoReturn:
    """Name the first score that is none."""
    index = int(np.flatnonzero(np.isnan(score))[0])
    raise DataError(f"{name} must hold numbers, got nan at index {index}.")


def class_indices(name: str, values: ArrayLike, n_classes: int | None = None) -> Ints:
    """Check that values are (n,) class indices, below ``n_classes`` where it is given."""
    array = vector(name, values)
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


def same_length(truth: Ints, predicted: Ints) -> None:
    """Check that there are as many predictions as truths."""
    if predicted.shape != truth.shape:
        raise DataError(
            f"predicted must have shape {truth.shape} like truth, got {predicted.shape}."
        )


def truth_and_probs(truth: ArrayLike, probs: ArrayLike) -> tuple[Ints, Floats]:
    """Check (n,) class indices beside (n, K) probabilities that sum to 1."""
    n = vector("truth", truth).size
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
    return class_indices("truth", truth, table.shape[1]), table


def probabilities(name: str, probs: ArrayLike) -> Floats:
    """Check (n, K) probabilities that sum to 1."""
    table: Floats = aligned(name, probs, np.float64, None, (None,))
    if table.shape[1] < 2:
        raise DataError(f"{name} must have shape (n, K) with K >= 2, got {table.shape}.")
    fits = (table >= 0).all(axis=1) & (abs(table.sum(axis=1) - 1) <= ROW_SUM_TOLERANCE)
    if not fits.all():
        row = int(np.argmin(fits))
        raise DataError(
            f"{name} must be 0 or more and sum to 1 in each row, got {table[row].tolist()} "
            f"in row {row}."
        )
    return table
