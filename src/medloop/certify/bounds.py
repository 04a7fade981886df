"""Exact bounds for a pool of N labels of which n, drawn uniformly, were checked.

Everything rests on one number: the probability that a uniform sample of n out of N holds at most
k of D wrong labels. It is summed in log space, and in whole numbers where it comes so close to
the limit that rounding could decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from scipy.special import gammaln

from medloop.certify import _check
from medloop.certify._check import Floats, Ints


def upper_bound(N: int, n: int, k: int, *, confidence: float) -> int:
    """At most how many of N labels are wrong after k wrong ones among n checked.

    The largest D with P[Hypergeom(N, D, n) <= k] > 1 - confidence. The n labels must be drawn
    uniformly without replacement after all N were frozen; nothing else is assumed.

    Parameters
    ----------
    N, n, k: labels in the pool, labels checked, labels found wrong.
    confidence: in (0, 1); read as the decimal written, so 0.95 means 19/20.

    Returns
    -------
    A count in [k, N - n + k], the k found included.

    Raises
    ------
    UsageError: n is not in [0, N], k is not in [0, n], or confidence is not in (0, 1).

    Source: the finite-pool form of Clopper & Pearson 1934.

    Examples
    --------
    >>> upper_bound(2000, 300, 8, confidence=0.95)
    91
    """
    N = _check.count("N", N, 1)
    n = _check.count("n", n, 0, N)
    k = _check.count("k", k, 0, n)
    return bound(N, n, k, 1 - _check.rate("confidence", confidence))


def allowed_errors(N: int, n: int, *, error_rate: float, confidence: float) -> int | None:
    """How many audited errors an accepted part may hold, the audited ones being corrected.

    The largest k with upper_bound(N, n, k) - k <= floor(error_rate * N): the k errors found are
    corrected, so only the others stay in the delivered set. `whole_set` says why that is exact.

    Parameters
    ----------
    N, n: labels in the pool, labels checked.
    error_rate, confidence: in (0, 1), read as the decimals written.

    Returns
    -------
    A count in [0, n], or None where the audit is too small to accept anything.

    Raises
    ------
    UsageError: n is not in [0, N], or a rate is not in (0, 1).

    Examples
    --------
    >>> allowed_errors(2000, 300, error_rate=0.05, confidence=0.95)
    10
    >>> allowed_errors(2000, 50, error_rate=0.05, confidence=0.95) is None
    True
    """
    N = _check.count("N", N, 1)
    n = _check.count("n", n, 0, N)
    eps, delta = _check.rate("error_rate", error_rate), 1 - _check.rate("confidence", confidence)
    return allowed(N, n, math.floor(eps * N), delta)


def audit_size(N: int, *, error_rate: float, confidence: float, errors: int = 0) -> int:
    """How many labels to check so that so many errors among them can be tolerated.

    Parameters
    ----------
    N: labels in the pool.
    error_rate, confidence: in (0, 1), read as the decimals written.
    errors: audited errors to be tolerated, in [0, N].

    Returns
    -------
    The smallest n for which `allowed_errors` is at least `errors`.

    Raises
    ------
    UsageError: errors is not in [0, N], or a rate is not in (0, 1).

    Examples
    --------
    >>> audit_size(1_000_000, error_rate=0.05, confidence=0.95)
    59
    >>> audit_size(2000, error_rate=0.05, confidence=0.95, errors=2)
    118
    """
    N = _check.count("N", N, 1)
    errors = _check.count("errors", errors, 0, N)
    eps, delta = _check.rate("error_rate", error_rate), 1 - _check.rate("confidence", confidence)
    left = math.floor(eps * N)
    return first(errors, N, lambda n: passes(N, n, errors, left, delta))


def draw_audit(N: int, n: int, *, seed: int) -> Ints:
    """Draw the labels to check: uniform, without replacement, in the order to check them.

    Freeze labels and scores first: a label that can still change after the draw is not covered.
    The first m of n drawn are the draw of m, so an audit can be extended; whoever lets the answers
    decide when to stop needs `anytime`, as every other certificate takes n as fixed beforehand.

    Parameters
    ----------
    N, n: labels in the pool, labels to draw.
    seed: a whole number, at least 0. It must not be chosen after looking at the labels.

    Returns
    -------
    (n,) distinct indices in [0, N), in drawing order.

    Raises
    ------
    UsageError: n is not in [0, N], or seed is negative.

    Examples
    --------
    >>> audit = draw_audit(2000, 300, seed=7)
    >>> audit[:100].tolist() == draw_audit(2000, 100, seed=7).tolist()
    True
    """
    N = _check.count("N", N, 1)
    n = _check.count("n", n, 0, N)
    return stream(_check.count("seed", seed, 0), "draw").permutation(N)[:n].astype(np.int64)


def stream(seed: int, use: str) -> np.random.Generator:
    """Give each use of a seed its own random numbers.

    The order of ties and the pilot must not know the draw, also where a user gives all of them
    the same seed.
    """
    key = ("draw", "ties", "pilot").index(use)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))


def log_choose(n: Ints | int, k: Ints | int) -> Floats:
    """Natural logarithm of the binomial coefficient, for 0 <= k <= n."""
    every, chosen = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    log = gammaln(every + 1) - gammaln(chosen + 1) - gammaln(every - chosen + 1)
    return np.asarray(log, dtype=np.float64)


def tail(N: int, D: int, n: int, k: int) -> float:
    """P[Hypergeom(N, D, n) <= k]: at most k of D wrong labels fall among n drawn out of N."""
    least, most = max(0, n - (N - D)), min(n, D)
    if k < least:
        return 0.0
    if k >= most:
        return 1.0
    j = np.arange(least, k + 1)
    return float(np.exp(log_choose(D, j) + log_choose(N - D, n - j) - log_choose(N, n)).sum())


def unlikely(N: int, D: int, n: int, k: int, delta: Fraction) -> bool:
    """Whether P[Hypergeom(N, D, n) <= k] <= delta, exactly."""
    p, limit = tail(N, D, n, k), float(delta)
    # rounding of log-gamma grows like N log N; outside this band the sum decides safely
    if abs(p - limit) > 64 * np.finfo(float).eps * N * math.log(N + 2) * limit:
        return p <= limit
    return _exact_tail(N, D, n, k) <= delta


def _exact_tail(N: int, D: int, n: int, k: int) -> Fraction:
    least, most = max(0, n - (N - D)), min(n, D)
    if k < least:
        return Fraction(0)
    term = total = math.comb(D, least) * math.comb(N - D, n - least)
    for j in range(least, min(k, most)):
        term = term * (D - j) * (n - j) // ((j + 1) * (N - D - n + j + 1))
        total += term
    return Fraction(total, math.comb(N, n))


def passes(N: int, n: int, k: int, left: int, delta: Fraction) -> bool:
    """Whether bound(N, n, k) - k <= left: so few wrong labels stay after correction.

    Monotone: true for a k makes it true for any smaller k, and true for an n for any larger n.
    """
    if k > n:
        return False
    return N - n <= left or (left + k < N and unlikely(N, left + k + 1, n, k, delta))


def bound(N: int, n: int, k: int, delta: Fraction) -> int:
    """Compute `upper_bound` for checked arguments."""
    return first(k, N - n + k, lambda D: unlikely(N, D + 1, n, k, delta))


def allowed(N: int, n: int, left: int, delta: Fraction) -> int | None:
    """Compute `allowed_errors` for at most `left` wrong labels after correction."""
    k = first(0, n + 1, lambda k: k > n or not passes(N, n, k, left, delta)) - 1
    return None if k < 0 else k


def first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Find the smallest whole number in [low, high] that holds, all larger ones holding too."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
