"""Figures of boxes and points against the truth: average precision, recall, errors of points.

Matching and average precision are COCO's, checked against pycocotools in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError
from medloop.labels import Labels
from medloop.matching import match
from medloop.point_errors import point_errors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: .50, .55, ... .95: COCO's thresholds, as it computes them.
THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
_RECALLS = np.linspace(0.0, 1.0, 101)


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
