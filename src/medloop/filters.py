"""Labels -> keep mask. A filter scores and chooses; it deletes nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medloop.errors import UsageError
from medloop.labels import HUMAN, Labels

Mask = NDArray[np.bool_]


def confident(labels: Labels, *, threshold: float) -> Mask:
    """Keep labels whose score reaches a threshold.

    Examples
    --------
    >>> labels = Labels(image=[0, 1], class_id=[0, 1], score=[0.9, 0.6])
    >>> confident(labels, threshold=0.7).tolist()
    [True, False]
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold must lie in [0, 1], got {threshold}.")
    return np.asarray(labels.score >= threshold)


def surest_of_each_class(labels: Labels, *, share: float) -> Mask:
    """Keep the given share of every class, its surest labels first.

    A common threshold would take nearly all of the easy class and none of the hard one.

    Parameters
    ----------
    labels : Labels
    share : float in (0, 1]

    Examples
    --------
    >>> labels = Labels(image=[0, 1, 2, 3], class_id=[0, 0, 1, 1], score=[0.9, 0.8, 0.6, 0.7])
    >>> surest_of_each_class(labels, share=0.5).tolist()
    [True, False, False, True]
    """
    if not 0 < share <= 1:
        raise UsageError(f"share must lie in (0, 1], got {share}.")
    order = np.lexsort((-labels.score, labels.class_id))
    _, first, size = np.unique(labels.class_id[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, size)
    # 0.1 * 30 is 3.0000000000000004, which must not take a fourth
    taken = np.ceil(share * size - 1e-9)
    keep = np.zeros(len(labels), bool)
    keep[order] = rank < np.repeat(taken, size)
    return keep


def not_human(labels: Labels, existing: Labels) -> Mask:
    """Keep labels of images that no person has labelled: a person always wins.

    Examples
    --------
    >>> person = Labels(image=[1], class_id=[0], source=["human"])
    >>> not_human(Labels(image=[0, 1], class_id=[0, 1]), person).tolist()
    [True, False]
    """
    person = existing.image[existing.source == HUMAN]
    return np.asarray(~np.isin(labels.image, person))
