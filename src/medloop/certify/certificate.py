"""What a certificate says, and the frozen pool it is drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from medloop.certify import _check
from medloop.certify._check import Bools, Floats, Ints
from medloop.certify.bounds import stream


@dataclass(frozen=True, eq=False)
class Certificate:
    """A statement about delivered labels that an audit supports.

    Attributes
    ----------
    claim: "whole set" (of all delivered labels) or "purity" (of the accepted machine labels).
    accepted: (N,) True where the machine's label is delivered as it is. An audited label that was
        wrong is never accepted: the person's correction is delivered. Audited labels that were
        right are accepted where they lie in the accepted part. A person labels all the others.
    holds: whether anything could be accepted at the stated rate.
    error_bound: at most this fraction of the `labels` the claim is about is wrong; 1.0 where
        nothing is certified. Relative to the reviewer, unless `reviewer_bound` was added.
    error_rate, confidence: what was asked for.
    labels: how many labels the claim is about: N, or the accepted ones.
    audited, errors: labels checked, and how many of them were wrong.
    corrected: audited errors inside the accepted part, delivered as corrected.
    reviewer_bound: the part of `error_bound` that is the reviewer's own error.
    sentence: the claim in words.
    """

    claim: Literal["whole set", "purity"]
    accepted: Bools
    holds: bool
    error_bound: float
    error_rate: float
    confidence: float
    labels: int
    audited: int
    errors: int
    corrected: int
    sentence: str
    reviewer_bound: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Give everything but the mask, which becomes counts, for `json.dumps`.

        Examples
        --------
        >>> none = Certificate("purity", np.zeros(3, bool), False, 1.0, 0.1, 0.9, 0, 0, 0, 0, "-")
        >>> none.to_json()["accepted"], none.to_json()["person"]
        (0, 3)
        """
        accepted = int(self.accepted.sum())
        return {
            "claim": self.claim,
            "holds": self.holds,
            "error_rate": self.error_rate,
            "confidence": self.confidence,
            "error_bound": self.error_bound,
            "reviewer_bound": self.reviewer_bound,
            "pool": len(self.accepted),
            "labels": self.labels,
            "accepted": accepted,
            "person": len(self.accepted) - accepted,
            "audited": self.audited,
            "errors": self.errors,
            "corrected": self.corrected,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, eq=False)
class Pool:
    """Checked arguments of a certificate: N frozen labels, n of them audited."""

    score: Floats
    audited: Ints
    wrong: Bools
    eps: Fraction
    delta: Fraction
    seed: int

    @classmethod
    def of(
        cls,
        score: ArrayLike,
        audited: ArrayLike,
        wrong: ArrayLike,
        *,
        error_rate: float,
        confidence: float,
        seed: int,
    ) -> Pool:
        """Refuse what cannot be certified."""
        frozen = _check.scores(score)
        drawn = _check.indices(audited, len(frozen))
        return cls(
            frozen,
            drawn,
            _check.answers("wrong", wrong, len(drawn)),
            _check.rate("error_rate", error_rate),
            1 - _check.rate("confidence", confidence),
            _check.count("seed", seed, 0),
        )

    def order(self) -> Ints:
        """Sort the pool by score, highest first, ties in random order."""
        ties = stream(self.seed, "ties").permutation(len(self.score))
        return np.lexsort((ties, -self.score))


def percent(share: float | Fraction) -> str:
    """Write a share in percent, rounded up: a bound is never understated.

    Examples
    --------
    >>> percent(0.05), percent(1 / 3)
    ('5%', '33.34%')
    """
    return f"{math.ceil(round(float(share) * 1e4, 6)) / 100:g}%"


def sure(delta: Fraction) -> str:
    """Write the confidence that goes with a failure probability."""
    return f"With {float(100 * (1 - delta)):g}% confidence"


def audit_words(audited: int, errors: int) -> str:
    """Say what the person checked."""
    if not audited:
        return "no label was checked"
    checked = f"{audited:,} labels were" if audited > 1 else "1 label was"
    return f"{checked} checked and {errors:,} were wrong"
