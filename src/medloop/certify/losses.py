"""Bounds for the mean of losses in [0, 1], such as 1 - IoU or a clipped landmark error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from medloop.certify import _check
from medloop.certify._check import Floats
from medloop.errors import DataError


def hoeffding_bentkus(losses: ArrayLike, *, mean_loss: float) -> float:
    """Test "the mean loss of the pool is above mean_loss" on audited losses.

    p = min(exp(-n h(min(R, a), a)), e P[Bin(n, a) <= ceil(n R)]) with R the mean of the n losses,
    a = mean_loss and h the relative entropy of two coins. The losses must come from a uniform
    draw after predictions were frozen; without replacement is fine, as both bounds go through
    convex functions of the sum (Hoeffding 1963, theorem 4).

    Parameters
    ----------
    losses: (n,) in [0, 1], n at least 1.
    mean_loss: in (0, 1).

    Returns
    -------
    A p-value in [0, 1]; at most delta means the mean loss is at most mean_loss with confidence
    1 - delta.

    Raises
    ------
    UsageError: mean_loss is not in (0, 1).
    DataError: losses is empty, not a vector, or leaves [0, 1].

    Source: Bates et al. 2021; Angelopoulos et al. (Learn then Test).

    Examples
    --------
    >>> round(hoeffding_bentkus([0.1] * 100, mean_loss=0.2), 4)
    0.0155
    """
    values = _losses(losses)
    return _p_value(math.fsum(values), len(values), float(_check.rate("mean_loss", mean_loss)))


def mean_loss_bound(losses: ArrayLike, *, confidence: float) -> float:
    """Bound the mean loss of the pool from above, by inverting `hoeffding_bentkus`.

    Parameters
    ----------
    losses: (n,) in [0, 1], audited in a uniform draw.
    confidence: in (0, 1).

    Returns
    -------
    A number in [mean of losses, 1].

    Raises
    ------
    UsageError: confidence is not in (0, 1).
    DataError: losses is empty, not a vector, or leaves [0, 1].

    Examples
    --------
    >>> round(mean_loss_bound([0.1] * 100, confidence=0.95), 4)
    0.1814
    """
    values = _losses(losses)
    delta = float(1 - _check.rate("confidence", confidence))
    total, n = math.fsum(values), len(values)
    low, high = total / n, 1.0
    # the p-value falls from 1 at the mean; keep the end that is already rejected
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _p_value(total, n, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def _losses(losses: ArrayLike) -> Floats:
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise DataError(f"losses must have shape (n,) with n at least 1, got {values.shape}.")
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if bad.size:
        raise DataError(f"losses must lie in [0, 1], got {values[bad[0]]} at index {bad[0]}.")
    return values


def _p_value(total: float, n: int, a: float) -> float:
    mean = total / n
    if mean >= a:
        return 1.0
    entropy = (1 - mean) * math.log((1 - mean) / (1 - a))
    if mean > 0:
        entropy += mean * math.log(mean / a)
    bentkus = math.e * float(bdtr(math.ceil(total), n, a))
    return min(1.0, math.exp(-n * entropy), bentkus)
