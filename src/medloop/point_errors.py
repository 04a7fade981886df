"""How far the points of the objects that were found lie from the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError
from medloop.labels import Labels
from medloop.matching import match, object_area

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def pair_distance(points: ArrayLike, left: Sequence[int], right: Sequence[int]) -> Floats:
    """Return the distance between two places of each object, such as its eyes, in pixels.

    Parameters
    ----------
    points : (m, P, 3) float
    left, right : sequence of int
        Points whose mean is the place: one corner of an eye, or the six points around it.

    Returns
    -------
    (m,) float

    Examples
    --------
    >>> pair_distance([[[0, 0, 2], [2, 0, 2], [7, 0, 2]]], [0, 1], [2]).tolist()
    [6.0]
    """
    places = np.asarray(points, np.float64)[..., :2]
    gap = places[:, list(left)].mean(axis=1) - places[:, list(right)].mean(axis=1)
    return np.asarray(np.hypot(gap[:, 0], gap[:, 1]))


def distances(points: ArrayLike, truth: ArrayLike) -> Floats:
    """Return the distance of each point from the truth in pixels.

    Parameters
    ----------
    points, truth : (m, P, 3) float

    Returns
    -------
    (m, P) float
        NaN where the truth is not visible.

    Examples
    --------
    >>> distances([[[3, 4, 2], [1, 1, 2]]], [[[0, 0, 2], [0, 0, 0]]]).tolist()
    [[5.0, nan]]
    """
    a, b = np.asarray(points, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3:
        raise DataError(
            f"points and truth must have one shape (m, P, 3), got {a.shape} and {b.shape}."
        )
    away = np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
    return np.where(b[..., 2] > 0, away, np.nan)


def nme(points: ArrayLike, truth: ArrayLike, scale: ArrayLike) -> Floats:
    """Return the mean error of the visible points of each object, over its scale.

    Parameters
    ----------
    points, truth : (m, P, 3) float
    scale : (m,) float
        In pixels: the square root of :func:`object_area`, or :func:`pair_distance`.

    Returns
    -------
    (m,) float
        NaN where no point is visible or the scale is 0.

    Examples
    --------
    >>> nme([[[3, 4, 2], [1, 1, 2]]], [[[0, 0, 2], [0, 0, 0]]], [100.0]).tolist()
    [0.05]
    """
    away = distances(points, truth)
    size = np.asarray(scale, np.float64)
    count = np.isfinite(away).sum(axis=1)
    fits = (count > 0) & (size > 0)
    mean = np.nansum(away, axis=1) / np.maximum(count, 1)
    return np.where(fits, mean / np.where(fits, size, 1.0), np.nan)


@dataclass(frozen=True, eq=False, kw_only=True)
class PointErrors:
    """Errors of the points of the objects that were found, for each class.

    Parameters
    ----------
    matched, total : (K,) int
        Objects with a finding, and objects with a visible point.
    nme : (K,) float
        Mean over objects of their normalised mean error.
    mse : (K,) float
        Mean squared distance over visible points in square pixels.
    pck : (K,) float
        Share of the visible points that lie within the tolerance.
    """

    matched: Ints
    total: Ints
    nme: Floats
    mse: Floats
    pck: Floats


def point_errors(
    found: Labels,
    truth: Labels,
    n_classes: int,
    *,
    scale: ArrayLike | None = None,
    tolerance: float = 0.05,
    threshold: float = 0.5,
    score: float = 0.0,
    by: str = "box",
    sigmas: ArrayLike | None = None,
) -> PointErrors:
    """Measure the points of every object that was found.

    Parameters
    ----------
    found, truth : Labels
        With keypoints.
    n_classes : int
        K.
    scale : (t,) float, optional
        Of each row of the truth in pixels; the square root of its area where not given.
    tolerance : float
        Share of the scale within which a point is right.
    threshold, by, sigmas
        How findings are matched, as in :func:`match`.
    score : float
        Lowest score of a finding that counts.

    Returns
    -------
    PointErrors

    Raises
    ------
    DataError
        A table has no keypoints, or the scale another length.

    Examples
    --------
    >>> box, points = [[0, 0, 10, 10]], [[[2.0, 2.0, 2.0]]]
    >>> truth = Labels(image=[0], class_id=[0], box=box, keypoints=points)
    >>> found = truth.with_(keypoints=[[[2.0, 3.0, 2.0]]])
    >>> errors = point_errors(found, truth, 1)
    >>> errors.nme.tolist(), errors.mse.tolist(), errors.pck.tolist()
    ([0.1], [1.0], [0.0])
    """
    if (found.keypoints is None and len(found)) or (truth.keypoints is None and len(truth)):
        raise DataError("errors of points need keypoints in both tables.")
    size = np.sqrt(object_area(truth)) if scale is None else np.asarray(scale, np.float64)
    if size.shape != (len(truth),):
        raise DataError(f"scale must have shape ({len(truth)},), got {size.shape}.")
    sure = found[found.score >= score]
    made = match(sure, truth, by=by, thresholds=(threshold,), sigmas=sigmas, most=None)
    rows = np.flatnonzero(made.truth[0] >= 0)
    right = made.truth[0][rows]
    seen = np.zeros(len(truth), bool)
    if truth.keypoints is None or sure.keypoints is None:
        right = right[:0]
    else:
        seen |= (truth.keypoints[..., 2] > 0).any(axis=1)
        rows, right = rows[seen[right]], right[seen[right]]
        away = distances(sure.keypoints[rows], truth.keypoints[right])
        each = nme(sure.keypoints[rows], truth.keypoints[right], size[right])
    out = np.full((3, n_classes), np.nan)
    kind = truth.class_id[right]
    for k in np.unique(kind):
        of = kind == k
        shown = np.isfinite(away[of])
        out[0, k] = np.nanmean(each[of]) if np.isfinite(each[of]).any() else np.nan
        out[1, k] = (away[of][shown] ** 2).mean()
        out[2, k] = (away[of] <= tolerance * size[right][of][:, None])[shown].mean()
    return PointErrors(
        matched=np.bincount(kind, minlength=n_classes),
        total=np.bincount(truth.class_id[seen], minlength=n_classes),
        nme=out[0],
        mse=out[1],
        pck=out[2],
    )
