"""Presence: which findings each image holds, where it may hold none, one or several.

Inside the loop, labels are a table: one row for every image and finding, image by image, whose
score is the probability that it is there; a person's scores are 0 and 1. In the log stand the rows
of what is there alone, and ``looked_at`` tells which images were decided. Each finding is a binary
question of its own: it is there or not, so the probabilities of an image need not sum to one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError
from medloop.labels import MODEL, Labels, aligned

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Joins the findings of one image in a cell, and stands for an image without any.
AND, NONE = ";", "none"


def table(images: ArrayLike, present: ArrayLike, *, source: str = MODEL) -> Labels:
    """Make the table of n images and K findings.

    Probabilities are rounded to single precision, as they are stored.

    Parameters
    ----------
    images : (n,) int
    present : (n, K) float
        Probability that each finding is there.
    source : str

    Raises
    ------
    DataError
        A probability is not in [0, 1], or the shapes do not fit.

    Examples
    --------
    >>> made = table([7, 9], [[0.25, 0.75], [0.5, 0.0]])
    >>> made.image.tolist(), made.class_id.tolist(), made.score.tolist()
    ([7, 7, 9, 9], [0, 1, 0, 1], [0.25, 0.75, 0.5, 0.0])
    """
    image = aligned("images", images, np.int64, None)
    probs = aligned("present", present, np.float64, len(image), (None,))
    score = probs.astype(np.float32).astype(np.float64).ravel()
    n, k = probs.shape
    return Labels(
        image=np.repeat(image, k),
        class_id=np.tile(np.arange(k), n),
        score=score,
        source=np.full(n * k, source),
        looked_at=image,
    )


def present(labels: Labels, images: ArrayLike, n_classes: int) -> Floats:
    """Return (n, K) the score of each finding of these images; 0 where there is no row.

    Of the rows of the log these are the findings that are there, of a table all probabilities.

    Raises
    ------
    DataError
        Nobody looked at one of the images.

    Examples
    --------
    >>> found = Labels(image=[3], class_id=[1], score=[0.9], looked_at=[3, 4])
    >>> present(found, [4, 3], 2).tolist()
    [[0.0, 0.0], [0.0, 0.9]]
    """
    image = aligned("images", images, np.int64, None)
    there = np.isin(image, labels.looked_at)
    if not there.all():
        raise DataError(f"nobody looked at image {image[np.argmin(there)]}.")
    order = np.argsort(image, kind="stable")
    rows = np.flatnonzero(np.isin(labels.image, image))
    at = order[np.searchsorted(image, labels.image[rows], sorter=order)]
    probs = np.zeros((len(image), n_classes))
    probs[at, labels.class_id[rows]] = labels.score[rows]
    return probs


def found(labels: Labels) -> Labels:
    """Keep the rows of a table whose finding is there; its images stay looked at.

    A finding is there if that is more probable than not.

    Examples
    --------
    >>> kept = found(table([7, 9], [[0.25, 0.75], [0.5, 0.0]]))
    >>> kept.image.tolist(), kept.class_id.tolist(), kept.looked_at.tolist()
    ([7], [1], [7, 9])
    """
    # not looked_at: rows may have been taken from the table since
    return labels[labels.score > 0.5].with_(looked_at=np.unique(labels.image))


def question(labels: Labels, finding: int) -> Labels:
    """Return what a table says of one finding: class 0 without it, class 1 with it.

    Examples
    --------
    >>> asked = question(table([7, 9], [[0.25, 0.75], [0.5, 0.0]]), 1)
    >>> asked.image.tolist(), asked.class_id.tolist(), asked.probs.tolist()
    ([7, 9], [1, 0], [[0.25, 0.75], [1.0, 0.0]])
    """
    own = labels[labels.class_id == finding]
    there = (own.score > 0.5).astype(np.int64)
    probs = np.column_stack([1 - own.score, own.score])
    return Labels(
        image=own.image,
        class_id=there,
        score=probs[np.arange(len(own)), there],
        probs=probs,
        source=own.source,
    )


def whole(there: Mask) -> Ints:
    """Number each image by the whole set of its findings; the same set, the same number.

    Examples
    --------
    >>> whole(np.array([[True, False], [False, False], [True, False]])).tolist()
    [1, 0, 1]
    """
    if not there.size:
        return np.zeros(len(there), np.int64)
    return np.unique(there, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def sureness(probs: Floats) -> Floats:
    """Return (n,): how probably all findings of an image are right, taken as independent.

    Examples
    --------
    >>> sureness(np.array([[0.9, 0.5], [0.1, 0.0]])).tolist()
    [0.45, 0.9]
    """
    return np.asarray(np.maximum(probs, 1 - probs).prod(axis=1))


def words(names: list[str]) -> str:
    """Write the findings of one image in a cell.

    Examples
    --------
    >>> words(["mass", "nodule"]), words([])
    ('mass;nodule', 'none')
    """
    return AND.join(names) or NONE
