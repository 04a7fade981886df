"""What the certificates refuse, said in one place and in one sentence each."""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def rate(name: str, value: float | Fraction) -> Fraction:
    """Read a number in (0, 1) as the decimal that was written: 0.29 is 29/100."""
    if isinstance(value, Fraction):
        exact = value
    elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise UsageError(f"{name} must be a number in (0, 1), got {value!r}.")
    elif not np.isfinite(value):
        raise UsageError(f"{name} must lie in (0, 1), got {float(value)!r}.")
    else:
        exact = Fraction(repr(float(value)))
    if not 0 < exact < 1:
        raise UsageError(f"{name} must lie in (0, 1), got {float(exact)!r}.")
    return exact


def count(name: str, value: int, low: int, high: int | None = None) -> int:
    """Read a whole number in [low, high]."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        whole = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise UsageError(f"{name} must be a whole number, got {value!r}.") from None
    if high is None and whole < low:
        raise UsageError(f"{name} must be at least {low}, got {whole}.")
    if high is not None and not low <= whole <= high:
        raise UsageError(f"{name} must lie in [{low}, {high}], got {whole}.")
    return whole


def answers(name: str, values: ArrayLike, length: int | None = None) -> Bools:
    """Read a vector of answers: True where the label is wrong."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{name} must have one dimension, got shape {array.shape}.")
    if array.size and array.dtype != np.bool_:
        raise DataError(f"{name} must hold booleans, got {array.dtype}.")
    if length is not None and len(array) != length:
        raise DataError(f"{name} must have shape ({length},) like audited, got {array.shape}.")
    return array.astype(np.bool_)


def scores(values: ArrayLike) -> Floats:
    """Read the scores of a pool, one finite number a label."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("score must hold numbers, got something else.") from None
    if array.ndim != 1 or not array.size:
        raise DataError(f"score must have shape (N,) with N at least 1, got {array.shape}.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"score must be finite, got {array[bad[0]]} at index {bad[0]}.")
    return array


def indices(values: ArrayLike, pool: int) -> Ints:
    """Read distinct indices into a pool."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"audited must have one dimension, got shape {array.shape}.")
    if not array.size:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise DataError(f"audited must hold whole numbers, got {array.dtype}.")
    outside = np.flatnonzero((array < 0) | (array >= pool))
    _, first = np.unique(array, return_index=True)
    repeated = np.setdiff1d(np.arange(len(array)), first)
    bad = outside if outside.size else repeated
    if bad.size:
        raise DataError(
            f"audited must hold distinct indices in [0, N) with N={pool}, "
            f"got {array[bad[0]]} at position {bad[0]}."
        )
    return array.astype(np.int64)


def one_per_label(name: str, values: ArrayLike, pool: int) -> NDArray[Any]:
    """Read one entry a label of the pool."""
    array = np.asarray(values)
    if array.shape != (pool,):
        raise DataError(f"{name} must have shape ({pool},) like score, got {array.shape}.")
    return array
