"""What the answers of one audit support for each class, all classes together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.certify import Anytime, anytime


def anytime_per_class(
    class_id: ArrayLike, wrong: ArrayLike, *, error_rate: float, confidence: float
) -> dict[int, dict[str, Any]]:
    """Certify each class of machine labels at any time, with one confidence for all of them.

    Within a class the order of the audit is a uniform order of its own. The classes share
    delta = 1 - confidence by Holm's step-down: a class whose answers exclude that more than
    E = floor(error_rate x its size) of its machine labels are wrong, audited ones included, leaves
    its share to the others.

    Why that holds at any time. Call a class bad if it leaves though more than E of its labels are
    wrong, or if it is certified and more than E stay wrong. Both need the likelihood ratio against
    its true number of errors to reach 1 / share once. Let b classes hold more than E errors: until
    one of them is bad, at least b are left, so each share is at most delta / b, and Ville's
    inequality gives each of the b at most delta / b, whenever one looks.

    Parameters
    ----------
    class_id : (M,) int
        The machine's class of every label, in the order of the audit.
    wrong : (t,) bool
        Whether each label checked so far was wrong, from the front of that order.
    error_rate, confidence : float

    Returns
    -------
    dict of int to dict
        For each class ``labels``, ``checked``, ``errors``, ``holds``, ``error_bound`` (of what
        stays wrong once the errors found are corrected) and ``confidence_used``.

    Examples
    --------
    >>> found = anytime_per_class([0, 1] * 250, [False] * 160, error_rate=0.05, confidence=0.95)
    >>> [(one["checked"], one["holds"]) for one in found.values()]
    [(80, True), (80, True)]
    """
    classes = np.asarray(class_id, np.int64)
    answers = np.asarray(wrong, bool)
    seen = classes[: len(answers)]
    size = {int(c): int((classes == c).sum()) for c in np.unique(classes)}
    mine = {c: answers[seen == c] for c in size}
    share: dict[int, Anytime] = {}
    used: dict[int, float] = {}
    left = set(size)
    while left:
        level = 1 - (1 - confidence) / len(left)
        done = set()
        for c in sorted(left):
            share[c] = anytime(mine[c], size[c], error_rate=error_rate, confidence=level)
            used[c] = level
            if _most(mine[c], share[c], size[c]) <= _allowed(error_rate, size[c]):
                done.add(c)
        left = left - done if done else set()
    return {
        c: {
            "labels": size[c],
            "checked": len(mine[c]),
            "errors": int(mine[c].sum()),
            "holds": share[c].holds,
            "error_bound": share[c].error_bound,
            "confidence_used": used[c],
        }
        for c in sorted(size)
    }


def _most(wrong: NDArray[np.bool_], found: Anytime, size: int) -> int:
    """Bound the wrong machine labels of a class, those that were found included."""
    return round(found.error_bound * size) + int(wrong.sum())


def _allowed(error_rate: float, size: int) -> int:
    return math.floor(error_rate * size + 1e-9)
