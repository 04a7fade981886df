"""Certificates for everything that is delivered: accept the surest machine labels, label the rest.

Why `whole_set` is exact. The frozen labels are sorted before the draw. Let E = floor(eps N) and
let k be what `allowed_errors` gives: the largest k with P[Hypergeom(N, E + 1 + k, n) <= k] <=
delta, which is upper_bound(N, n, k) - k <= E in other words. The rule accepts everything before
audited error number k + 1, and audited errors are corrected. Suppose more than E wrong labels
stay. Then at least E + 1 wrong labels come before audited error number k + 1 and were not audited.
- If the pool holds at least E + 1 + k wrong labels, at most k of the first E + 1 + k of them were
  audited. These are fixed labels, so how many of them are drawn is hypergeometric, and the
  probability is at most delta by the choice of k.
- If it holds E + 1 + j with j < k, at most j of all of them were audited. Add any k - j labels to
  them: at most k of these E + 1 + k were drawn, which is as improbable.
Nothing is assumed about scores or errors, and k is the best there is: with k + 1 a pool of at
least E + 2 + k wrong labels breaks the claim with probability above delta. The plain rule, which
asks for upper_bound(N, n, k) <= E, leaves the corrections out and accepts less.

The bound reported is (U(k') - k') / N, with U(k') = upper_bound(N, n, k') and k' the audited
errors in the accepted part. If D > U(k), it fails only if at most k of the first U(k) + 1 wrong
labels were audited; if D <= U(k), only if everything is accepted and D > U(errors audited): either
way one event of probability at most delta.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from medloop.certify import _check
from medloop.certify.bounds import allowed, bound, first, passes, unlikely
from medloop.certify.certificate import Certificate, Pool, audit_words, percent, sure


def whole_set(
    score: ArrayLike,
    audited: ArrayLike,
    wrong: ArrayLike,
    *,
    error_rate: float,
    confidence: float,
    seed: int = 0,
) -> Certificate:
    """Certify that at most error_rate of all N delivered labels are wrong.

    Delivered are the accepted machine labels, the corrections of audited errors, and a person's
    labels for all the rest. Labels and scores must be frozen before the audit is drawn uniformly
    (`draw_audit`), and its size fixed beforehand; nothing else is assumed. Scores only decide how
    much is accepted.

    Parameters
    ----------
    score: (N,) confidence of the machine in each label; higher is surer.
    audited: (n,) indices of the labels that were checked.
    wrong: (n,) True where the checked label was wrong.
    error_rate, confidence: in (0, 1), read as the decimals written.
    seed: orders ties in score; must not be chosen after looking at the answers.

    Raises
    ------
    UsageError: a rate is not in (0, 1), or seed is negative.
    DataError: an array has a wrong shape, a score is not finite, or an index is impossible.

    Source: after Candes et al. 2025 (arXiv 2506.10908), with the exact finite-pool bound.

    Examples
    --------
    >>> import numpy as np
    >>> score = np.linspace(1, 0, 2000)
    >>> truly_wrong = np.arange(2000) >= 1600
    >>> from medloop.certify import draw_audit
    >>> audit = draw_audit(2000, 300, seed=1)
    >>> done = whole_set(score, audit, truly_wrong[audit], error_rate=0.05, confidence=0.95)
    >>> done.holds, done.error_bound <= 0.05, int((truly_wrong & done.accepted).sum()) <= 100
    (True, True, True)
    """
    pool = Pool.of(score, audited, wrong, error_rate=error_rate, confidence=confidence, seed=seed)
    return _accept(pool, pool.delta)


def per_class(
    score: ArrayLike,
    class_id: ArrayLike,
    audited: ArrayLike,
    wrong: ArrayLike,
    *,
    error_rate: float,
    confidence: float,
    seed: int = 0,
) -> dict[Hashable, Certificate]:
    """Certify each class of machine labels, all classes together with the stated confidence.

    One uniform audit of the whole pool serves: within a class it is uniform given its size. The
    classes share delta by Holm's step-down. A class whose audit rejects "more than E of its
    machine labels are wrong, audited ones included" is accepted completely and leaves its share
    to the others; the others each run `whole_set` with delta / (classes left).

    Why that is exact. Call a class bad if it leaves its share though it holds more than E wrong
    labels, or if more than E stay in it. Let b classes hold more than E wrong labels. Until one of
    them is bad, at least b are left, so the first bad one is bad with a share of at most delta / b.
    With k and k0 <= k the errors that `whole_set` and the plain rule allow at delta / b, a class
    of D wrong labels is bad only if at most k of its first E + 1 + k wrong labels were audited,
    or, where D is smaller, at most max(D - E - 1, k0) of all: one event, probability at most
    delta / b. The bound stated is floor(error_rate N) / N for a class of N.

    Parameters
    ----------
    score, audited, wrong, error_rate, confidence, seed: as for `whole_set`.
    class_id: (N,) the machine's class of each label, frozen with the scores.

    Returns
    -------
    A certificate for each class, in sorted order; `accepted` has shape (N,) and is False outside
    the class, `labels` is the size of the class.

    Raises
    ------
    UsageError, DataError: as for `whole_set`, or class_id has not the shape of score.

    Source: Holm 1979; Goeman & Solari 2010.

    Examples
    --------
    >>> import numpy as np
    >>> audited = np.arange(0, 1000, 2)
    >>> classes = np.repeat(["cyst", "node"], 500)
    >>> found = per_class(np.ones(1000), classes, audited, np.zeros(500, bool),
    ...                   error_rate=0.05, confidence=0.95)
    >>> {name: int(one.accepted.sum()) for name, one in found.items()}
    {'cyst': 500, 'node': 500}
    """
    pool = Pool.of(score, audited, wrong, error_rate=error_rate, confidence=confidence, seed=seed)
    classes = _check.one_per_label("class_id", class_id, len(pool.score))
    names, number = np.unique(classes, return_inverse=True)
    members = [np.flatnonzero(number == c) for c in range(len(names))]
    drawn = [number[pool.audited] == c for c in range(len(names))]

    share: dict[int, Fraction] = {}
    left = set(range(len(names)))
    while left:
        delta = pool.delta / len(left)
        done = set()
        for c in left:
            size, mine = len(members[c]), pool.wrong[drawn[c]]
            excess = math.floor(pool.eps * size) + 1
            if unlikely(size, excess, len(mine), int(mine.sum()), delta):
                done.add(c)
        share |= dict.fromkeys(done or left, delta)
        left = left - done if done else set()

    found: dict[Hashable, Certificate] = {}
    for c, name in enumerate(names.tolist()):
        place = np.empty(len(pool.score), dtype=np.int64)
        place[members[c]] = np.arange(len(members[c]))
        part = Pool(
            pool.score[members[c]],
            place[pool.audited[drawn[c]]],
            pool.wrong[drawn[c]],
            pool.eps,
            pool.delta,
            pool.seed,
        )
        one = _accept(part, share[c], name=f" of class {name!r}", fine=False)
        accepted = np.zeros(len(pool.score), dtype=np.bool_)
        accepted[members[c]] = one.accepted
        found[name] = replace(
            one, accepted=accepted, sentence=f"{one.sentence[:-1]}; said of all classes together."
        )
    return found


def _accept(pool: Pool, delta: Fraction, *, name: str = "", fine: bool = True) -> Certificate:
    """Accept the longest part, surest first, that holds no more audited errors than allowed."""
    N, n, errors = len(pool.score), len(pool.audited), int(pool.wrong.sum())
    left = math.floor(pool.eps * N)
    most = allowed(N, n, left, delta)
    accepted = np.zeros(N, dtype=np.bool_)
    corrected = 0
    if most is not None:
        order = pool.order()
        rank = np.empty(N, dtype=np.int64)
        rank[order] = np.arange(N)
        wrong_ranks = np.sort(rank[pool.audited[pool.wrong]])
        accepted[order[: N if errors <= most else wrong_ranks[most]]] = True
        accepted[pool.audited[pool.wrong]] = False
        corrected = min(errors, most)

    holds, count = bool(accepted.any()), int(accepted.sum())
    remain = bound(N, n, corrected, delta) - corrected if fine else left
    if holds:
        sentence = (
            f"{sure(pool.delta)} at most {remain:,} of the {N:,} delivered labels{name} "
            f"({percent(Fraction(remain, N))}) are wrong: {count:,} machine labels are accepted, "
            f"a person labels the other {N - count:,}; {audit_words(n, errors)}."
        )
    elif most is None:
        need = first(0, N, lambda size: passes(N, size, 0, left, delta))
        sentence = (
            f"Nothing is certified: {audit_words(n, errors)}, and at least {need:,} must be "
            f"checked to show that at most {percent(pool.eps)} of {N:,} labels{name} are wrong; "
            f"a person labels everything."
        )
    else:
        sentence = (
            f"Nothing is certified: {audit_words(n, errors)}, the machine's surest labels among "
            f"them; a person labels all {N:,} labels{name}."
        )
    return Certificate(
        claim="whole set",
        accepted=accepted,
        holds=holds,
        error_bound=remain / N if holds else 1.0,
        error_rate=float(pool.eps),
        confidence=float(1 - pool.delta),
        labels=N,
        audited=n,
        errors=errors,
        corrected=corrected if holds else 0,
        sentence=sentence,
    )
