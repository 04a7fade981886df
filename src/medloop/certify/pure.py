"""Certificates for the accepted part alone: at most a share of what is accepted is wrong.

The wrong share of an accepted prefix is not monotone in its length, so a prefix cannot be found
and tested on the same answers. A small pilot, drawn at random from the audit and then dropped
from the pool, says where to start. From there longer and longer prefixes are tested, on the rest
of the audit, until the first that fails; the last that passed is accepted.

Why that is exact. Given the pilot, the list of prefixes is fixed. Take one: M labels outside the
pilot, of which m were drawn for the test and k found wrong. Given m, these m are uniform in the M,
so D <= upper_bound(M, m, k) except with probability delta, and the test passes only if that
bound, less the k corrected, is at most floor(eps A). A counts what is accepted: the M - k, and
the pilot's right labels in the prefix, which add no error. A wrong acceptance needs the first
prefix of the list that breaks the claim to pass, since testing ends with the first failure: one
test, probability at most delta (fixed-sequence testing).
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, expit

from medloop.certify import _check
from medloop.certify._check import Bools, Floats, Ints
from medloop.certify.bounds import first, passes, stream
from medloop.certify.certificate import Certificate, Pool, audit_words, percent, sure

PREFIXES = 40


def purity(
    score: ArrayLike,
    audited: ArrayLike,
    wrong: ArrayLike,
    *,
    error_rate: float,
    confidence: float,
    seed: int = 0,
    pilot: float = 0.125,
) -> Certificate:
    """Certify that at most error_rate of the accepted machine labels are wrong.

    This asks more than `whole_set`, where the person's labels dilute the errors, and needs more
    checked labels for the same acceptance. Labels and scores must be frozen before the audit is
    drawn uniformly (`draw_audit`), and its size fixed beforehand; nothing else is assumed.

    Parameters
    ----------
    score, audited, wrong, error_rate, confidence: as for `whole_set`; audited in drawing order,
        as `draw_audit` gives it. For an audit that was sorted, the statement holds on average
        over seeds.
    seed: orders ties in score and draws the pilot; must not be chosen after the answers.
    pilot: share of the audit, in (0, 1), that only says where to start.

    Returns
    -------
    A certificate whose `labels` are the accepted ones. `accepted` holds the accepted prefix less
    the audited errors in it, which are delivered as corrected and not counted in the claim.

    Raises
    ------
    UsageError, DataError: as for `whole_set`, or pilot is not in (0, 1).

    Source: Geifman & El-Yaniv 2017; Angelopoulos et al. (Learn then Test), fixed-sequence testing.

    Examples
    --------
    >>> import numpy as np
    >>> score = np.linspace(1, 0, 2000)
    >>> truly_wrong = np.arange(2000) >= 1600
    >>> from medloop.certify import draw_audit
    >>> audit = draw_audit(2000, 300, seed=1)
    >>> done = purity(score, audit, truly_wrong[audit], error_rate=0.05, confidence=0.95)
    >>> done.holds, bool(truly_wrong[done.accepted].mean() <= 0.05)
    (True, True)
    """
    pool = Pool.of(score, audited, wrong, error_rate=error_rate, confidence=confidence, seed=seed)
    N, n, errors = len(pool.score), len(pool.audited), int(pool.wrong.sum())
    order = pool.order()
    rank = np.empty(N, dtype=np.int64)
    rank[order] = np.arange(N)
    ranks, bad = rank[pool.audited], pool.wrong
    in_pilot = np.zeros(n, dtype=np.bool_)
    size = math.floor(_check.rate("pilot", pilot) * n)
    in_pilot[stream(pool.seed, "pilot").permutation(n)[:size]] = True

    lengths = np.unique(np.ceil(np.arange(1, PREFIXES + 1) * (N / PREFIXES)).astype(np.int64))
    seen = _counts(ranks[in_pilot], lengths)
    seen_wrong = _counts(ranks[in_pilot & bad], lengths)
    tested = _counts(ranks[~in_pilot], lengths)
    found = _counts(ranks[~in_pilot & bad], lengths)
    start = _start(ranks[in_pilot] / N, bad[in_pilot], lengths, seen, N, n - size, pool)

    length = 0
    for i in range(start, len(lengths)):
        M, m, k = int(lengths[i] - seen[i]), int(tested[i]), int(found[i])
        kept = M - k + int(seen[i] - seen_wrong[i])
        if not kept or not passes(M, m, k, math.floor(pool.eps * kept), pool.delta):
            break
        length = int(lengths[i])

    accepted = np.zeros(N, dtype=np.bool_)
    accepted[order[:length]] = True
    accepted[pool.audited[pool.wrong]] = False
    count, corrected = int(accepted.sum()), int((ranks[bad] < length).sum())
    if count:
        most = math.floor(pool.eps * count)
        sentence = (
            f"{sure(pool.delta)} at most {most:,} of the {count:,} accepted machine labels "
            f"({percent(Fraction(most, count))}) are wrong; a person labels the other "
            f"{N - count:,}; {audit_words(n, errors)}."
        )
    else:
        sentence = (
            f"Nothing is certified: {audit_words(n, errors)}, and no part of the {N:,} machine "
            f"labels shows at most {percent(pool.eps)} wrong; a person labels everything."
        )
    return Certificate(
        claim="purity",
        accepted=accepted,
        holds=count > 0,
        error_bound=most / count if count else 1.0,
        error_rate=float(pool.eps),
        confidence=float(1 - pool.delta),
        labels=count,
        audited=n,
        errors=errors,
        corrected=corrected,
        sentence=sentence,
    )


def _counts(ranks: Ints, lengths: Ints) -> Ints:
    """How many of the ranks lie in each prefix."""
    return np.searchsorted(np.sort(ranks), lengths, side="left").astype(np.int64)


@functools.cache
def _curves() -> tuple[Floats, Floats, Floats]:
    """Give error curves expit(a + b rank): a and b as columns, and the mean up to each rank."""
    a = np.repeat(np.linspace(-7, 1, 25), 19)[:, None]
    b = np.tile(np.linspace(0, 9, 19), 25)[:, None]
    middle = (np.arange(200) + 0.5) / 200
    return a, b, np.cumsum(expit(a + b * middle), axis=1) / np.arange(1, 201)


def _start(
    place: Floats,
    wrong: Bools,
    lengths: Ints,
    seen: Ints,
    N: int,
    tests: int,
    pool: Pool,
) -> int:
    """Choose where to start: likely to pass, and not too short.

    The pilot is small, so its answers are smoothed: wrong with probability expit(a + b rank), all
    a and b >= 0 on a grid weighed by their likelihood. The choice may be poor, never invalid.
    """
    a, b, rates = _curves()
    logit = a + b * place
    fit = np.where(wrong, -np.logaddexp(0, -logit), -np.logaddexp(0, logit)).sum(axis=1)
    weight = np.exp(fit - fit.max())
    weight /= weight.sum()

    value = np.zeros(len(lengths))
    for i, length in enumerate(lengths):
        M = int(length - seen[i])
        m = min(M, round(M * tests / max(1, N - int(seen[-1]))))
        k = _most(M, m, pool)
        if k >= 0:
            rate = rates[:, max(0, int(200 * length / N) - 1)]
            # the fourth root: climbing makes up for a short start, nothing for a failed one
            value[i] = float(weight @ bdtr(k, m, rate)) * float(length) ** 0.25
    return int(np.argmax(value))


def _most(M: int, m: int, pool: Pool) -> int:
    """How many of m checked may be wrong for a prefix of M to pass; -1 if it cannot."""

    def fails(k: int) -> bool:
        return not passes(M, m, k, math.floor(pool.eps * (M - k)), pool.delta)

    return first(0, m + 1, lambda k: k > m or fails(k)) - 1
