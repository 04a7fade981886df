"""Which finding meets which object of the truth, as COCO matches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, UsageError, did_you_mean
from medloop.labels import Labels
from medloop.overlap import area, box_around, iou, oks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BY = ("box", "points")


@dataclass(frozen=True, eq=False, kw_only=True)
class Matching:
    """Which finding was matched with which truth.

    Parameters
    ----------
    thresholds : (T,) float
        Similarity from which two may be matched.
    truth : (T, m) int
        Row of the truth that each finding was matched with; -1 for none.
    counted : (m,) bool
        Findings that were compared: on an image with a truth, and among the best of it.
    wanted : (t,) bool
        Rows of the truth that can be matched.
    """

    thresholds: Floats
    truth: Ints
    counted: NDArray[np.bool_]
    wanted: NDArray[np.bool_]


def match(
    found: Labels,
    truth: Labels,
    *,
    by: str = "box",
    thresholds: Sequence[float] = (0.5,),
    sigmas: ArrayLike | None = None,
    most: int | None = 100,
    any_class: bool = False,
) -> Matching:
    """Match findings with the truth as COCO does.

    In every image and class, from the highest score down, each finding takes the free truth that
    is most similar to it, if that is similar enough.

    Parameters
    ----------
    found : Labels
        (m,) findings; those on images outside ``truth.looked_at`` are not compared.
    truth : Labels
        (t,) rows; an image of its ``looked_at`` without rows holds nothing. By points, rows
        without a visible point are left out.
    by : {"box", "points"}
        Intersection over union, or object keypoint similarity.
    thresholds : (T,) sequence of float
    sigmas : (P,) float, optional
        By points; as in :func:`medloop.overlap.oks`.
    most : int, optional
        Findings an image and class that are compared, the highest scores first; None for all.
    any_class : bool
        Match whatever the classes.

    Returns
    -------
    Matching

    Raises
    ------
    DataError
        A table lacks the column that is compared, or sigmas do not fit.
    UsageError
        ``by`` is unknown, or points are compared without sigmas.

    Examples
    --------
    >>> truth = Labels(image=[0, 1], class_id=[0, 0], box=[[0, 0, 9, 9], [0, 0, 5, 5]])
    >>> found = Labels(image=[0, 0], class_id=[0, 0], score=[0.6, 0.9],
    ...                box=[[0, 0, 9, 8], [40, 40, 50, 50]])
    >>> match(found, truth).truth.tolist()
    [[0, -1]]
    """
    like = _similarity(found, truth, by, sigmas)
    levels = np.asarray(thresholds, np.float64)
    least = np.minimum(levels, 1 - 1e-10)[:, None]
    wanted = np.ones(len(truth), bool)
    if by == "points" and truth.keypoints is not None:
        wanted &= (truth.keypoints[..., 2] > 0).any(axis=1)
    zeros = np.zeros(max(len(found), len(truth)), np.int64)
    of_found = zeros[: len(found)] if any_class else found.class_id
    of_truth = zeros[: len(truth)] if any_class else truth.class_id
    matched = np.full((len(levels), len(found)), -1, np.int64)
    compared = np.zeros(len(found), bool)
    here = np.isin(found.image, truth.looked_at)
    answers = _by_key(truth.image, of_truth, wanted, np.zeros(len(truth)))
    for key, rows in _by_key(found.image, of_found, here, -found.score).items():
        rows = rows[:most]
        compared[rows] = True
        right = answers.get(key)
        if right is None:
            continue
        matched[:, rows] = _greedy(like(rows, right), least, right)
    return Matching(thresholds=levels, truth=matched, counted=compared, wanted=wanted)


def object_area(labels: Labels) -> Floats:
    """Return (m,) the area of each object in square pixels: of its box, or around its points.

    Examples
    --------
    >>> object_area(Labels(image=[0], class_id=[0], box=[[0, 0, 3, 4]])).tolist()
    [12.0]
    """
    if labels.box is not None:
        return area(labels.box)
    if labels.keypoints is not None:
        return area(box_around(labels.keypoints))
    return np.zeros(len(labels))


def _similarity(
    found: Labels, truth: Labels, by: str, sigmas: ArrayLike | None
) -> Callable[[Ints, Ints], Floats]:
    """Return what compares rows of the findings with rows of the truth."""
    if by not in _BY:
        raise UsageError(f"unknown by {by!r}.{did_you_mean(by, _BY)}")
    if by == "points" and sigmas is None:
        raise UsageError("to compare by points, sigmas are needed.")
    column = "box" if by == "box" else "keypoints"
    for name, labels in (("found", found), ("truth", truth)):
        if len(labels) and getattr(labels, column) is None:
            raise DataError(f"{name} has no {column}, which is what is compared.")
    ours, theirs, extent = getattr(found, column), getattr(truth, column), object_area(truth)
    spread = np.asarray(sigmas, np.float64)

    def like(rows: Ints, right: Ints) -> Floats:
        if by == "box":
            return iou(ours[rows], theirs[right])
        return oks(ours[rows], theirs[right], extent[right], spread)

    return like


def _by_key(
    image: Ints, class_id: Ints, use: NDArray[np.bool_], order: Floats
) -> dict[tuple[int, int], Ints]:
    """Return the rows of every image and class, sorted by ``order``; equal ones as they stand."""
    rows = np.flatnonzero(use)
    rows = rows[np.lexsort((order[rows], class_id[rows], image[rows]))]
    keys = np.stack([image[rows], class_id[rows]], axis=1)
    cuts = np.flatnonzero((np.diff(keys, axis=0) != 0).any(axis=1)) + 1
    parts = np.split(rows, cuts) if len(rows) else []
    return {(int(image[part[0]]), int(class_id[part[0]])): part for part in parts}


def _greedy(like: Floats, least: Floats, right: Ints) -> Ints:
    """Match (D, G) similarities at (T, 1) thresholds; return (T, D) entries of ``right`` or -1."""
    free = np.ones((len(least), like.shape[1]), bool)
    out = np.full((len(least), len(like)), -1, np.int64)
    levels = np.arange(len(least))
    for d, row in enumerate(like):
        possible = free & (row >= least)
        value = np.where(possible, row, -1.0)
        # of equally similar ones COCO takes the last
        best = value.shape[1] - 1 - np.argmax(value[:, ::-1], axis=1)
        hit = possible[levels, best]
        out[hit, d] = right[best[hit]]
        free[levels[hit], best[hit]] = False
    return out
