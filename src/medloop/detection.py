"""Figures of boxes and points against the truth: average precision, recall, errors of points.

Matching and average precision are COCO's, checked against pycocotools in the tests.
"""

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

#: .50, .55, ... .95: COCO's thresholds, as it computes them.
THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
_RECALLS = np.linspace(0.0, 1.0, 101)
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


def average_precision(
    found: Labels,
    truth: Labels,
    n_classes: int,
    *,
    by: str = "box",
    thresholds: Sequence[float] = THRESHOLDS,
    sigmas: ArrayLike | None = None,
    most: int | None = 100,
) -> Floats:
    """Return COCO's average precision at each threshold, for each class.

    Parameters
    ----------
    found, truth : Labels
        As in :func:`match`.
    n_classes : int
        K.
    by, thresholds, sigmas, most
        As in :func:`match`.

    Returns
    -------
    (T, K) float
        Mean precision at 101 recalls; NaN for a class without truth. Row 0 is AP50 and the mean
        over rows AP50:95 with the thresholds as they are.

    Raises
    ------
    DataError, UsageError
        As :func:`match`.

    Examples
    --------
    >>> truth = Labels(image=[0, 1], class_id=[0, 0], box=[[0, 0, 9, 9], [0, 0, 5, 5]])
    >>> found = Labels(image=[0, 0], class_id=[0, 0], score=[0.6, 0.9],
    ...                box=[[0, 0, 9, 9], [40, 40, 50, 50]])
    >>> average_precision(found, truth, 1)[0].round(4).tolist()
    [0.2525]
    """
    made = match(found, truth, by=by, thresholds=thresholds, sigmas=sigmas, most=most)
    out = np.full((len(made.thresholds), n_classes), np.nan)
    place = np.arange(len(found))
    order = np.lexsort((place, found.image, -found.score))
    for k in range(n_classes):
        total = int((made.wanted & (truth.class_id == k)).sum())
        if total == 0:
            continue
        rows = order[(made.counted & (found.class_id == k))[order]]
        hits = np.cumsum(made.truth[:, rows] >= 0, axis=1)
        tried = np.arange(1, len(rows) + 1)
        for t, right in enumerate(hits):
            # the best precision at this recall or a higher one
            precision = np.maximum.accumulate((right / tried)[::-1])[::-1]
            at = np.searchsorted(right / total, _RECALLS, side="left")
            out[t, k] = np.append(precision, 0.0)[at].mean()
    return out


@dataclass(frozen=True, eq=False, kw_only=True)
class AtScore:
    """Counts at one score, for each class.

    Parameters
    ----------
    right, wrong, missed : (K,) int
        Findings with a truth, findings without one, and truths without a finding.
    """

    right: Ints
    wrong: Ints
    missed: Ints

    @property
    def precision(self) -> Floats:
        """(K,) share of the findings that are right; NaN where there is none."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> Floats:
        """(K,) share of the truth that was found; NaN where there is none."""
        return _share(self.right, self.right + self.missed)

    @property
    def f1(self) -> Floats:
        """(K,) harmonic mean of both; NaN where nothing is there and nothing was found."""
        return _share(2 * self.right, 2 * self.right + self.wrong + self.missed)


def at_score(
    found: Labels,
    truth: Labels,
    n_classes: int,
    *,
    score: float,
    by: str = "box",
    threshold: float = 0.5,
    sigmas: ArrayLike | None = None,
) -> AtScore:
    """Count what is right among the findings of at least this score.

    Parameters
    ----------
    found, truth : Labels
    n_classes : int
        K.
    score : float
    by, threshold, sigmas
        As in :func:`match`.

    Returns
    -------
    AtScore

    Examples
    --------
    >>> truth = Labels(image=[0, 1], class_id=[0, 0], box=[[0, 0, 9, 9], [0, 0, 5, 5]])
    >>> found = Labels(image=[0], class_id=[0], score=[0.6], box=[[0, 0, 9, 9]])
    >>> at = at_score(found, truth, 1, score=0.5)
    >>> at.precision.tolist(), at.recall.tolist()
    ([1.0], [0.5])
    """
    sure = found[found.score >= score]
    made = match(sure, truth, by=by, thresholds=(threshold,), sigmas=sigmas, most=None)
    hit = made.truth[0] >= 0
    right = np.bincount(sure.class_id[made.counted & hit], minlength=n_classes)
    wrong = np.bincount(sure.class_id[made.counted & ~hit], minlength=n_classes)
    total = np.bincount(truth.class_id[made.wanted], minlength=n_classes)
    return AtScore(right=right, wrong=wrong, missed=total - right)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What added findings are worth.

    Parameters
    ----------
    hidden, added : int
        Objects that were there without a label, and findings that were added.
    right : int
        Added findings that are a hidden object.
    repeated : int
        Added findings of an object that had a label already.
    """

    hidden: int
    added: int
    right: int
    repeated: int

    @property
    def recovered(self) -> float:
        """Share of the hidden objects that were added; NaN where none was hidden."""
        return self.right / self.hidden if self.hidden else float("nan")

    @property
    def precision(self) -> float:
        """Share of the added findings that are a hidden object; NaN where none was added."""
        return self.right / self.added if self.added else float("nan")


def recovery(
    added: Labels,
    truth: Labels,
    hidden: ArrayLike,
    *,
    by: str = "box",
    threshold: float = 0.5,
    sigmas: ArrayLike | None = None,
) -> Recovery:
    """Compare added findings with the objects that were hidden.

    Parameters
    ----------
    added : Labels
        Without those that were known before.
    truth : Labels
        (t,) All objects, known and hidden.
    hidden : (t,) bool
    by, threshold, sigmas
        As in :func:`match`.

    Returns
    -------
    Recovery

    Raises
    ------
    DataError
        ``hidden`` is no mask of the truth.

    Examples
    --------
    >>> truth = Labels(image=[0, 0], class_id=[0, 0], box=[[0, 0, 9, 9], [20, 0, 29, 9]])
    >>> added = Labels(image=[0, 0], class_id=[0, 0], box=[[20, 0, 29, 9], [0, 0, 9, 8]])
    >>> recovery(added, truth, [False, True])
    Recovery(hidden=1, added=2, right=1, repeated=1)
    """
    mask = np.asarray(hidden)
    if mask.dtype != bool or mask.shape != (len(truth),):
        raise DataError(
            f"hidden must be a mask of shape ({len(truth)},), got {mask.dtype} {mask.shape}."
        )
    made = match(added, truth, by=by, thresholds=(threshold,), sigmas=sigmas, most=None)
    took = made.truth[0][made.truth[0] >= 0]
    return Recovery(
        hidden=int((mask & made.wanted).sum()),
        added=int(made.counted.sum()),
        right=int(mask[took].sum()),
        repeated=int((~mask[took]).sum()),
    )


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


def summary(
    found: Labels,
    truth: Labels,
    classes: Sequence[str],
    *,
    score: float = 0.5,
    sigmas: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    tolerance: float = 0.05,
) -> dict[str, dict[str, float]]:
    """Return every figure of each class, and their means under ``"mean"``.

    Parameters
    ----------
    found, truth : Labels
    classes : sequence of str
        K names.
    score : float
        Of precision and recall, and of errors of points.
    sigmas : (P,) float, optional
        With them average precision by points is given too.
    scale, tolerance
        As in :func:`point_errors`.

    Returns
    -------
    dict of str to dict of str to float
        ``AP50``, ``AP50:95``, ``precision``, ``recall``, and with points ``OKS AP50``,
        ``OKS AP50:95``, ``NME``, ``MSE``, ``PCK``. NaN where a class has no truth; the mean is
        over the classes that have one.

    Examples
    --------
    >>> truth = Labels(image=[0], class_id=[0], box=[[0, 0, 9, 9]])
    >>> summary(truth, truth, ["cell"])["mean"]["AP50"]
    1.0
    """
    count = len(classes)
    box = average_precision(found, truth, count)
    at = at_score(found, truth, count, score=score)
    rows = {
        "AP50": box[0],
        "AP50:95": box.mean(axis=0),
        "precision": at.precision,
        "recall": at.recall,
    }
    if truth.keypoints is not None:
        if sigmas is not None:
            points = average_precision(found, truth, count, by="points", sigmas=sigmas)
            rows |= {"OKS AP50": points[0], "OKS AP50:95": points.mean(axis=0)}
        errors = point_errors(found, truth, count, scale=scale, tolerance=tolerance, score=score)
        rows |= {"NME": errors.nme, "MSE": errors.mse, "PCK": errors.pck}
    there = np.bincount(truth.class_id, minlength=count) > 0
    table = {name: {k: float(v[i]) for k, v in rows.items()} for i, name in enumerate(classes)}
    table["mean"] = {k: _mean(v[there]) for k, v in rows.items()}
    return table


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _share(part: Ints, whole: Ints) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


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
