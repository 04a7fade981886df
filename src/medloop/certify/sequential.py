"""A certificate that may be looked at after every click.

Answers come in random order without replacement, so the probability of the first t answers, k of
them wrong, in a pool of M with D wrong is L(D) = C(M - t, D - k) / C(M, D). Against each D stands
a mixture of all other pools, a beta-binomial prior pi: sum of pi(D') L(D') over L(D). Under D this
ratio is a martingale that starts at 1, so it ever reaches 1 / delta with probability at most delta
(Ville). The pool is certified once the ratio has reached 1 / delta for all D that would leave too
many wrong labels after correction, D >= floor(eps M) + 1 + k: the true D is then not among them.
(The rule is a little cautious: worst pools break it in about 3% where 5% are allowed.)

No scan is needed. The mixture has the closed form B(a + k, b + t - k) / B(a, b), and L rises up to
D = floor(k (M + 1) / t) and falls from there, so its largest value beyond a point is known. A look
costs the same for 500 labels as for a million.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

from medloop.certify import _check
from medloop.certify._check import Bools, Floats
from medloop.certify.bounds import first, log_choose
from medloop.certify.certificate import audit_words, percent, sure
from medloop.errors import DataError, UsageError

# certify a hair late rather than a rounding error early
SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class Anytime:
    """What the answers so far support.

    Attributes
    ----------
    holds: whether the claim was reached at this look or an earlier one; it stays reached, unless
        more errors are found afterwards than it left.
    checks: after how many answers it was reached, or None.
    error_bound: at most this fraction of the pool is wrong once the errors found so far are
        corrected, whenever one looks.
    evidence: (t,) natural logarithm of the likelihood ratio after each answer; the claim is
        reached at log(1 / (1 - confidence)).
    sentence: the claim in words.
    """

    holds: bool
    checks: int | None
    error_bound: float
    evidence: Floats
    sentence: str


def anytime(
    wrong: ArrayLike,
    M: int,
    *,
    error_rate: float,
    confidence: float,
    prior: tuple[float, float] | None = None,
) -> Anytime:
    """Certify that at most error_rate of M labels stay wrong, looking after every answer.

    The M labels (a whole pool, or a part chosen without these answers) must be frozen before the
    order is drawn uniformly (`draw_audit(M, M, seed=...)`), and be checked in that order. The
    reviewer may stop at any time, for any reason. Errors found are corrected.

    Parameters
    ----------
    wrong: (t,) True where the label was wrong, in the order checked.
    M: labels in the pool.
    error_rate, confidence: in (0, 1), read as the decimals written.
    prior: shape (a, b) of the beta-binomial prior on the wrong share; it decides when the audit
        ends early, never whether it is valid, but must be fixed before the first answer. By
        default a = 2 with mean 0.3 error_rate.

    Raises
    ------
    UsageError: a rate is not in (0, 1), M is not positive, or prior is not two positive numbers.
    DataError: wrong is not a vector of booleans, or is longer than M.

    Source: Waudby-Smith & Ramdas 2020 (confidence sequences for sampling without replacement).

    Examples
    --------
    >>> import numpy as np
    >>> seen = anytime(np.zeros(100, bool), 500, error_rate=0.05, confidence=0.95)
    >>> seen.holds, seen.checks
    (True, 67)
    """
    M = _check.count("M", M, 1)
    wrong = _check.answers("wrong", wrong)
    if len(wrong) > M:
        raise DataError(f"wrong must hold at most M={M} answers, got {len(wrong)}.")
    eps, delta = _check.rate("error_rate", error_rate), 1 - _check.rate("confidence", confidence)
    a, b = _prior(prior, float(eps))
    left, needed = math.floor(eps * M), -math.log(delta) + SLACK

    t = np.arange(1, len(wrong) + 1)
    k = np.cumsum(wrong, dtype=np.int64)
    mixture = betaln(a + k, b + t - k) - betaln(a, b)
    evidence = mixture - _largest(M, t, k, left + 1 + k)
    # withdraw what later answers refute outright
    reached = np.flatnonzero((evidence >= needed) & (k + left >= wrong.sum()))
    checks = int(reached[0]) + 1 if reached.size else None
    most = _remaining(M, wrong, a, b, needed)
    if checks is not None:
        most = min(most, left + int(k[checks - 1] - k[-1]))
    errors = int(wrong.sum())
    if checks is not None:
        sentence = (
            f"{sure(delta)} at most {most:,} of {M:,} labels ({percent(Fraction(most, M))}) stay "
            f"wrong once the errors found are corrected: {audit_words(len(wrong), errors)}, "
            f"{checks:,} were enough."
        )
    else:
        sentence = (
            f"Not yet certified: {audit_words(len(wrong), errors)}, which shows at most "
            f"{percent(Fraction(most, M))} of {M:,} labels wrong, not {percent(eps)}."
        )
    return Anytime(checks is not None, checks, most / M, evidence, sentence)


def _prior(prior: tuple[float, float] | None, eps: float) -> tuple[float, float]:
    a, b = (2.0, 2.0 / (0.3 * eps) - 2.0) if prior is None else prior
    if not (math.isfinite(a) and math.isfinite(b) and a > 0 and b > 0):
        raise UsageError(f"prior must be two positive numbers (a, b), got ({a}, {b}).")
    return a, b


def _largest(M: int, t: _check.Ints, k: _check.Ints, low: _check.Ints) -> Floats:
    """Give the largest log L(D) over D >= low for each look; -inf where none is possible."""
    high = M - t + k
    D = np.minimum(np.maximum(low, k * (M + 1) // t), high)
    possible = low <= high
    D = np.where(possible, D, k)
    free = np.where(possible, D - k, 0)
    value = log_choose(M - t, free) - log_choose(M, D)
    return np.where(possible, value, -np.inf)


def _remaining(M: int, wrong: Bools, a: float, b: float, needed: float) -> int:
    """Bound how many labels stay wrong after correction at the last look."""
    t, k = len(wrong), int(wrong.sum())
    if not t:
        return M
    mixture = float(betaln(a + k, b + t - k) - betaln(a, b))

    def rejected(D: int) -> bool:
        value = float(log_choose(M - t, D - k)) - float(log_choose(M, D))
        return mixture - value >= needed

    high = M - t + k
    mode = min(k * (M + 1) // t, high)
    return first(mode, high, lambda D: rejected(D + 1)) - k
