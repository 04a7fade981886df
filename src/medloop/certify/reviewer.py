"""The reviewer's own error, from labels that were shown twice."""

from __future__ import annotations

from dataclasses import replace

from scipy.special import betaincinv

from medloop.certify import _check
from medloop.certify.certificate import Certificate, percent
from medloop.errors import UsageError


def reviewer_bound(repeats: int, disagreements: int, *, confidence: float) -> float:
    """Bound how often the reviewer errs, from blind second looks.

    Assumption: on every image the two answers err independently of each other, and each is more
    often right than wrong. Then two answers differ at least as often as one of them is wrong,
    2 r (1 - r) >= r for r <= 1/2, however the error r changes from image to image, so the bound
    for the disagreements bounds the errors. A mistake that the reviewer makes each time is
    invisible to repeats: only a second reviewer finds it.

    Parameters
    ----------
    repeats: labels shown twice, blind, drawn uniformly from the audit.
    disagreements: how many of them got two different answers.
    confidence: in (0, 1).

    Returns
    -------
    An upper bound in (0, 1] on the reviewer's mean error rate over the pool; 1.0 without repeats.

    Raises
    ------
    UsageError: disagreements is not in [0, repeats], or confidence is not in (0, 1).

    Source: Clopper & Pearson 1934 for the disagreements.

    Examples
    --------
    >>> round(reviewer_bound(60, 0, confidence=0.95), 4)
    0.0487
    """
    repeats = _check.count("repeats", repeats, 0)
    disagreements = _check.count("disagreements", disagreements, 0, repeats)
    level = float(_check.rate("confidence", confidence))
    if disagreements == repeats:
        return 1.0
    return float(betaincinv(disagreements + 1, repeats - disagreements, level))


def with_reviewer(
    certificate: Certificate, repeats: int, disagreements: int, *, confidence: float
) -> Certificate:
    """Turn a certificate relative to the reviewer into one relative to the truth.

    A delivered label is wrong only if it differs from what the reviewer would say, or if the
    reviewer is wrong there: the bounds add up, and so do the two failure probabilities. The
    reviewer's part is a mean over the whole pool, so a claim about a part of it (purity, a class)
    takes it times N / labels. `holds` and `error_rate` keep speaking of the reviewer.

    Parameters
    ----------
    certificate: from `whole_set`, `purity` or `per_class`.
    repeats, disagreements, confidence: as for `reviewer_bound`, which states the assumption.

    Returns
    -------
    The certificate with a larger `error_bound`, `reviewer_bound`, a lower confidence (the sum of
    both less 1), and one more sentence part.

    Raises
    ------
    UsageError: as for `reviewer_bound`, or the confidences leave nothing.

    Examples
    --------
    >>> import numpy as np
    >>> pool = Certificate("whole set", np.ones(500, bool), True, 0.04, 0.05, 0.95, 500, 150, 2, 2,
    ...                    "With 95% confidence at most 20 labels are wrong.")
    >>> true = with_reviewer(pool, 100, 1, confidence=0.95)
    >>> round(true.error_bound, 3), round(true.confidence, 2)
    (0.087, 0.9)
    """
    share = reviewer_bound(repeats, disagreements, confidence=confidence)
    both = _check.rate("confidence", certificate.confidence) + _check.rate("confidence", confidence)
    if both <= 1:
        raise UsageError(
            f"confidence must leave some with the certificate's {certificate.confidence:g}, "
            f"got {confidence:g}."
        )
    if not certificate.holds:
        return replace(certificate, confidence=float(both - 1), reviewer_bound=share)
    share = min(1.0, share * len(certificate.accepted) / certificate.labels)
    total = min(1.0, certificate.error_bound + share)
    sentence = (
        f"{certificate.sentence} With the reviewer's own error added, at most {percent(share)} "
        f"({disagreements:,} of {repeats:,} blind repeats disagreed), the bound is "
        f"{percent(total)} with {float(100 * (both - 1)):g}% confidence."
    )
    return replace(
        certificate,
        error_bound=total,
        confidence=float(both - 1),
        reviewer_bound=share,
        sentence=sentence,
    )
