"""How much boxes and point sets overlap, and suppression of those that overlap too much."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError

Floats = NDArray[np.float64]

#: COCO adds this to areas, so that an object without area divides nothing by 0.
_EPS = float(np.spacing(1))


def area(box: ArrayLike) -> Floats:
    """Return the area of each box in pixels; 0 where a side is not positive.

    Parameters
    ----------
    box : (..., 4) float
        ``x0, y0, x1, y1`` in pixels.

    Returns
    -------
    (...) float

    Examples
    --------
    >>> area([[0, 0, 2, 3], [4, 4, 4, 9]]).tolist()
    [6.0, 0.0]
    """
    box = _boxes("box", box)
    sides = np.maximum(box[..., 2:] - box[..., :2], 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Return the intersection over union of every pair of boxes.

    Parameters
    ----------
    a, b : (m, 4) and (n, 4) float
        ``x0, y0, x1, y1`` in pixels.

    Returns
    -------
    (m, n) float
        0 where two boxes have no area between them.

    Raises
    ------
    DataError
        A shape is another.

    Examples
    --------
    >>> iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]).round(3).tolist()
    [[1.0, 0.333, 0.0]]
    """
    return iou_rows(_boxes("a", a)[:, None], _boxes("b", b)[None])


def iou_rows(a: ArrayLike, b: ArrayLike) -> Floats:
    """Return the intersection over union of boxes that stand beside each other.

    Parameters
    ----------
    a, b : (..., 4) float
        Shapes that broadcast.

    Returns
    -------
    (...) float

    Examples
    --------
    >>> iou_rows([[0, 0, 2, 2], [0, 0, 1, 1]], [[0, 0, 2, 1], [2, 2, 3, 3]]).tolist()
    [0.5, 0.0]
    """
    a, b = _boxes("a", a), _boxes("b", b)
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    union = area(a) + area(b) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def oks(a: ArrayLike, b: ArrayLike, area: ArrayLike, sigmas: ArrayLike) -> Floats:
    """Return the object keypoint similarity of every pair of point sets, as COCO defines it.

    The mean of ``exp(-d^2 / (2 s^2 k^2))`` over the points that are visible in ``b``, with
    ``s^2`` the area of the object of ``b`` and ``k`` twice the sigma of the point.

    Parameters
    ----------
    a, b : (m, P, 3) and (n, P, 3) float
        ``x, y`` in pixels and visibility; a point of ``b`` counts where that is above 0.
    area : (n,) float
        Of the objects of ``b`` in square pixels.
    sigmas : (P,) float
        Spread of each point as a share of the square root of the area.

    Returns
    -------
    (m, n) float
        0 where ``b`` has no visible point.

    Raises
    ------
    DataError
        Shapes that do not fit, or a sigma that is not above 0.

    Examples
    --------
    >>> truth = [[[0.0, 0.0, 2.0], [10.0, 0.0, 2.0], [5.0, 5.0, 0.0]]]
    >>> found = [[[0.0, 0.0, 2.0], [12.0, 0.0, 2.0], [9.0, 9.0, 2.0]]]
    >>> oks(found, truth, area=[100.0], sigmas=[0.1, 0.1, 0.1]).round(4).tolist()
    [[0.8033]]
    """
    a, b = _points("a", a), _points("b", b)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"a and b must have as many points, got {a.shape[1]} and {b.shape[1]}.")
    area = _column("area", area, len(b))
    doubt = _doubt(sigmas, b.shape[1])
    out = np.empty((len(a), len(b)))
    rows = max(1, 2**21 // max(1, b.shape[0] * b.shape[1]))  # 16 MiB a column at a time
    for first in range(0, len(a), rows):
        out[first : first + rows] = _oks(a[first : first + rows, None], b[None], area, doubt)
    return out


def oks_rows(a: ArrayLike, b: ArrayLike, area: ArrayLike, sigmas: ArrayLike) -> Floats:
    """Return the object keypoint similarity of point sets that stand beside each other.

    Parameters
    ----------
    a, b : (m, P, 3) float
        As in :func:`oks`.
    area : (m,) float
    sigmas : (P,) float

    Returns
    -------
    (m,) float

    Examples
    --------
    >>> points = [[[3.0, 4.0, 2.0]]]
    >>> oks_rows(points, points, [1.0], [0.1]).tolist()
    [1.0]
    """
    a, b = _points("a", a), _points("b", b)
    if a.shape != b.shape:
        raise DataError(f"a and b must have one shape, got {a.shape} and {b.shape}.")
    return _oks(a, b, _column("area", area, len(b)), _doubt(sigmas, b.shape[1]))


def suppress(
    shape: ArrayLike,
    score: ArrayLike,
    threshold: float,
    *,
    group: ArrayLike | None = None,
    area: ArrayLike | None = None,
    sigmas: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Keep the best of those that overlap: greedy non-maximum suppression.

    From the highest score down, each one that is still there drops the others of its group that
    are more similar to it than the threshold. All groups advance together, so that the work is
    that of the group which keeps most.

    Parameters
    ----------
    shape : (n, 4) or (n, P, 3) float
        Boxes, compared by intersection over union, or points, compared by object keypoint
        similarity with the area of the better one.
    score : (n,) float
        Of equal ones the first is kept.
    threshold : float
        Similarity in [0, 1] above which the lower score goes.
    group : (n,) or (n, d) int, optional
        Only rows of one group suppress each other: the image, or the image and the class. All
        are one group where not given.
    area : (n,) float
        Of the objects, in square pixels; needed for points.
    sigmas : (P,) float
        Needed for points, as in :func:`oks`.

    Returns
    -------
    (n,) bool
        Which ones are kept.

    Raises
    ------
    DataError
        Shapes that do not fit, or points without area or sigmas.

    Examples
    --------
    >>> boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]
    >>> suppress(boxes, [0.8, 0.9, 0.3], 0.5).tolist()
    [False, True, True]
    >>> suppress(boxes, [0.8, 0.9, 0.3], 0.5, group=[0, 1, 1]).tolist()
    [True, True, True]
    """
    values = np.asarray(shape, np.float64)
    n = len(values)
    points = values.ndim == 3
    values = _points("shape", values) if points else _boxes("shape", values.reshape(-1, 4))
    score = _column("score", score, n)
    if points and (area is None or sigmas is None):
        raise DataError("suppression of points needs area and sigmas.")
    of = np.zeros(n, np.int64) if group is None else _numbered(group, n)
    order = np.lexsort((-score, of))
    ordered, team = values[order], of[order]
    if points:
        extent = _column("area", area, n)[order]  # type: ignore[arg-type]
        doubt = _doubt(sigmas, values.shape[1])  # type: ignore[arg-type]
    else:
        extent = doubt = np.zeros(n)
    kept = np.zeros(n, bool)
    rest = np.arange(n)
    while len(rest):
        first = np.flatnonzero(np.r_[True, np.diff(team[rest]) != 0])
        kept[order[rest[first]]] = True
        sizes = np.diff(np.r_[first, len(rest)])
        best = np.repeat(rest[first], sizes)
        other = np.ones(len(rest), bool)
        other[first] = False
        rest, best = rest[other], best[other]
        if len(rest) == 0:
            break
        one = best[0] if len(first) == 1 else best  # no copies of one row
        like = (
            _oks(ordered[rest], ordered[one], extent[one], doubt)
            if points
            else iou_rows(ordered[rest], ordered[one])
        )
        rest = rest[like <= threshold]
    return kept


def clip(box: ArrayLike, size: ArrayLike) -> Floats:
    """Cut boxes at the border of their image.

    Parameters
    ----------
    box : (m, 4) float
    size : (2,) or (m, 2) float
        Height and width in pixels.

    Returns
    -------
    (m, 4) float

    Examples
    --------
    >>> clip([[-5, 2, 30, 90]], (40, 20)).tolist()
    [[0.0, 2.0, 20.0, 40.0]]
    """
    box = _boxes("box", box)
    high = np.asarray(size, np.float64)[..., [1, 0, 1, 0]]
    return np.asarray(np.clip(box, 0.0, high))


def enlarge(box: ArrayLike, share: float, size: ArrayLike | None = None) -> Floats:
    """Make boxes wider and higher by a share of themselves, around their centres.

    Parameters
    ----------
    box : (m, 4) float
    share : float
        0.1 makes each side a tenth longer; below 0 it becomes shorter. At least -1.
    size : (2,) or (m, 2) float, optional
        Height and width of the image at which they are cut; not cut where not given.

    Returns
    -------
    (m, 4) float

    Raises
    ------
    DataError
        The share is below -1.

    Examples
    --------
    >>> enlarge([[10, 10, 20, 30]], 0.5).tolist()
    [[7.5, 5.0, 22.5, 35.0]]
    """
    if not share >= -1:
        raise DataError(f"share must be -1 or more, got {share}.")
    box = _boxes("box", box)
    side = box[..., 2:] - box[..., :2]
    grown = np.concatenate([box[..., :2] - side * share / 2, box[..., 2:] + side * share / 2], -1)
    return grown if size is None else clip(grown, size)


def box_around(points: ArrayLike) -> Floats:
    """Return the smallest box around the visible points of each object.

    Parameters
    ----------
    points : (m, P, 3) float

    Returns
    -------
    (m, 4) float
        All 0 where no point is visible.

    Examples
    --------
    >>> box_around([[[1, 2, 2], [5, 3, 1], [90, 90, 0]]]).tolist()
    [[1.0, 2.0, 5.0, 3.0]]
    """
    points = _points("points", points)
    seen = points[..., 2:] > 0
    low = np.min(np.where(seen, points[..., :2], np.inf), axis=1, initial=np.inf)
    high = np.max(np.where(seen, points[..., :2], -np.inf), axis=1, initial=-np.inf)
    box = np.concatenate([low, high], axis=1)
    return np.where(np.isfinite(box), box, 0.0)


def _oks(a: Floats, b: Floats, area: Floats | np.float64, doubt: Floats) -> Floats:
    seen = b[..., 2] > 0
    square = (a[..., 0] - b[..., 0]) ** 2
    square += (a[..., 1] - b[..., 1]) ** 2
    square /= -2.0 * doubt * (np.asarray(area)[..., None] + _EPS)
    like = np.exp(square, out=square) * seen
    count = seen.sum(-1)
    return np.asarray(like.sum(-1) / np.maximum(count, 1))


def _doubt(sigmas: ArrayLike, count: int) -> Floats:
    values = np.asarray(sigmas, np.float64)
    if values.shape != (count,):
        raise DataError(f"sigmas must have shape (P,) with P={count}, got {values.shape}.")
    if not (np.isfinite(values) & (values > 0)).all():
        raise DataError(f"sigmas must be finite and above 0, got {values.tolist()}.")
    return (2.0 * values) ** 2


def _boxes(name: str, box: ArrayLike) -> Floats:
    values = np.asarray(box, np.float64)
    if values.ndim < 1 or values.shape[-1] != 4:
        raise DataError(f"{name} must have shape (n, 4), got {values.shape}.")
    return values


def _points(name: str, points: ArrayLike) -> Floats:
    values = np.asarray(points, np.float64)
    if values.ndim != 3 or values.shape[2] != 3:
        raise DataError(f"{name} must have shape (n, P, 3), got {values.shape}.")
    return values


def _column(name: str, values: ArrayLike, n: int) -> Floats:
    column = np.asarray(values, np.float64)
    if column.shape != (n,):
        raise DataError(f"{name} must have shape (n,) with n={n}, got {column.shape}.")
    return column


def _numbered(group: ArrayLike, n: int) -> NDArray[np.int64]:
    keys: NDArray[Any] = np.asarray(group)
    if keys.shape[:1] != (n,) or keys.ndim > 2:
        raise DataError(f"group must have shape (n,) or (n, d) with n={n}, got {keys.shape}.")
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
