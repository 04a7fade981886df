"""Intervals and tests for the comparison of scores, classifiers and repeated splits.

Patients, not images, are the unit: pass `group` wherever a patient has several images. Every
result is a frozen record of plain numbers. What the data cannot tell (one class only, one patient
only) is nan and never a warning; what cannot be used raises `DataError`, a bad option `UsageError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.checks import zero_one
from medloop.errors import DataError, UsageError
from medloop.roc import placement_counts

__all__ = [
    "Bootstrap",
    "DeLong",
    "McNemar",
    "NadeauBengio",
    "NonInferiority",
    "bootstrap",
    "clopper_pearson",
    "delong",
    "holm",
    "mcnemar",
    "nadeau_bengio",
    "non_inferiority",
]

_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class DeLong:
    """An AUC, or the difference between two AUCs, with what it is known to.

    `estimate` is the AUC of one score, or AUC(b) - AUC(a) of two; `standard_error`, `interval`,
    `z` and the two-sided `p` belong to it. Tested against .5 for one score, against 0 for two.
    """

    aucs: tuple[float, ...]
    estimate: float
    standard_error: float
    interval: tuple[float, float]
    z: float
    p: float
    confidence: float
    n_positive: int
    n_negative: int
    n_groups: int

    @property
    def auc(self) -> float:
        """AUC of the first score."""
        return self.aucs[0]

    @property
    def difference(self) -> float:
        """AUC(b) - AUC(a); `UsageError` when only one score was given."""
        if len(self.aucs) != 2:
            raise UsageError("A difference of AUCs needs two scores, got one.")
        return self.estimate


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Whether b is at most `margin` worse than a: passes exactly when `lower` > -`margin`."""

    passes: bool
    difference: float
    lower: float
    p: float
    margin: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A statistic, its percentile interval and the resampled `values`.

    `undefined` of the draws gave nan (a resample without positives, say); `values` leaves them out.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    values: NDArray[np.float64]
    undefined: int
    confidence: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """Cases that only a, and that only b, got right; accuracy(b) - accuracy(a); two-sided p."""

    only_a: int
    only_b: int
    difference: float
    p: float


@dataclass(frozen=True, slots=True)
class NadeauBengio:
    """Mean difference over repeated splits, its interval, corrected t with `df`, two-sided p."""

    mean: float
    interval: tuple[float, float]
    t: float
    df: int
    p: float
    confidence: float


# -- AUCs -----------------------------------------------------------------------------------------


def delong(
    positive: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike | None = None,
    *,
    group: ArrayLike | None = None,
    confidence: float = 0.95,
) -> DeLong:
    """Variance, interval and test for an AUC, or for the difference of two on the same cases.

    DeLong, DeLong & Clarke-Pearson 1988 by midranks in O(n log n) (Sun & Xu 2014): one argsort per
    score. With `group` the variance for clustered data of Obuchowski 1997 ("Nonparametric analysis
    of clustered ROC curve data"); a patient may hold both positives and negatives. Groups of one
    give exactly the ungrouped result. The components are integers, so identical scores differ by
    exactly 0 with p = 1.

    The interval is normal, cut at [0, 1] (or [-1, 1]). At a perfect AUC the estimated variance is
    0 and the interval a point, which says nothing about how few cases there were: look at
    `n_positive`, `n_negative` and `n_groups`. All is nan when a class is empty; all but the AUCs
    and the estimate when the variance needs a second case (or group) of a class.

    Parameters
    ----------
    positive : (n,) bool or 0/1
    score_a, score_b : (n,) numbers, higher means more likely positive
    group : (n,) patient of each case, any labels
    confidence : of the two-sided interval, in (0, 1)

    Raises
    ------
    DataError
        Shapes do not fit, `positive` is not 0/1, a score is nan or a group is missing.
    UsageError
        `confidence` is not between 0 and 1.

    Examples
    --------
    >>> positive = [0, 0, 0, 1, 1, 1]
    >>> result = delong(positive, [1, 2, 5, 4, 3, 6], [1, 2, 3, 4, 5, 6])
    >>> round(result.auc, 3), round(result.difference, 3), round(result.p, 3)
    (0.778, 0.222, 0.371)
    >>> patients = delong(positive, [1, 2, 5, 4, 3, 6], group=["a", "b", "c", "a", "b", "c"])
    >>> patients.n_groups, round(patients.standard_error, 3)
    (3, 0.111)
    """
    _between_0_and_1("confidence", confidence)
    truth = zero_one("positive", positive)
    counts = placement_counts(truth, score_a, name="score_a")
    n_positive = int(np.count_nonzero(truth))
    n_negative = truth.size - n_positive
    pairs = 2 * n_positive * n_negative  # counts are doubled
    total_a = int((counts * truth).sum(dtype=np.int64))
    paired = score_b is not None
    aucs: tuple[float, ...] = (total_a / pairs if pairs else _NAN,)
    total = total_a
    if score_b is not None:
        counts = placement_counts(truth, score_b, name="score_b") - counts
        total = int((counts * truth).sum(dtype=np.int64))
        aucs = (*aucs, (total_a + total) / pairs if pairs else _NAN)
    codes, n_groups = (None, truth.size) if group is None else _group_codes(group, truth.size)

    estimate = total / pairs if pairs else _NAN
    if not pairs:
        standard_error = _NAN
    elif paired and not counts.any():
        standard_error = 0.0  # the same order of cases, however few there are
    else:
        standard_error = _standard_error(counts, truth, total, codes) / pairs
    z = _standardise(estimate - (0.0 if paired else 0.5), standard_error)
    half = _normal_quantile((1 + confidence) / 2) * standard_error
    floor = -1.0 if paired else 0.0
    return DeLong(
        aucs=aucs,
        estimate=estimate,
        standard_error=standard_error,
        interval=(_clip(estimate - half, floor), _clip(estimate + half, floor)),
        z=z,
        p=2 * _normal_cdf(-abs(z)),
        confidence=confidence,
        n_positive=n_positive,
        n_negative=n_negative,
        n_groups=n_groups,
    )


def _standard_error(
    counts: NDArray[Any], positive: NDArray[np.bool_], total: int, codes: NDArray[np.intp] | None
) -> float:
    """Standard error of sum(counts[positive]), which is 2 * positives * negatives * AUC."""
    n_positive = int(np.count_nonzero(positive))
    n_negative = positive.size - n_positive
    of_positive = _components(counts, n_positive, total, positive, codes)
    of_negative = _components(counts, n_negative, total, ~positive, codes)
    units_positive, units_negative, cross = n_positive, n_negative, 0.0
    if codes is not None:
        units_positive = int(np.count_nonzero(np.bincount(codes[positive])))
        units_negative = int(np.count_nonzero(np.bincount(codes[~positive])))
        cross = _bessel(of_positive.size) * float(np.dot(of_positive, of_negative))
    variance = (
        _bessel(units_positive) * float(np.dot(of_positive, of_positive)) / n_positive**2
        + _bessel(units_negative) * float(np.dot(of_negative, of_negative)) / n_negative**2
        + 2 * cross / (n_positive * n_negative)
    )
    return math.sqrt(variance) if not variance < 0 else 0.0  # below 0 by rounding only


def _components(
    counts: NDArray[Any],
    size: int,
    total: int,
    members: NDArray[np.bool_],
    codes: NDArray[np.intp] | None,
) -> NDArray[np.float64]:
    """Centred components of a class of `size`, 0 elsewhere, summed by group: whole numbers."""
    centred: NDArray[np.float64] = counts * np.float64(size)
    centred -= total
    centred *= members
    if codes is None:
        return centred
    return np.bincount(codes, weights=centred).astype(np.float64, copy=False)


def non_inferiority(result: DeLong, *, margin: float, confidence: float = 0.95) -> NonInferiority:
    """One-sided test that score b's AUC is not more than `margin` below score a's.

    H0: AUC(b) <= AUC(a) - margin. `lower` is the one-sided lower bound of AUC(b) - AUC(a) at
    `confidence`, `p` the p-value of H0; passes when p < 1 - confidence. What is unknown (nan) does
    not pass. Identical scores pass with any margin above 0.

    Parameters
    ----------
    result : of `delong` with two scores
    margin : in AUC, at least 0
    confidence : of the one-sided bound, in (0, 1)

    Raises
    ------
    UsageError
        The result is of one score, `margin` is negative, or `confidence` is not in (0, 1).

    Examples
    --------
    >>> result = delong([0, 0, 1, 1], [1, 3, 2, 4], [1, 3, 2, 4])
    >>> non_inferiority(result, margin=0.02).passes
    True
    """
    _between_0_and_1("confidence", confidence)
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin must be 0 or more, got {margin}.")
    difference = result.difference
    lower = difference - _normal_quantile(confidence) * result.standard_error
    z = _standardise(difference + margin, result.standard_error)
    return NonInferiority(
        passes=lower > -margin,
        difference=difference,
        lower=lower,
        p=1.0 if z == 0 and result.standard_error == 0 else _normal_cdf(-z),
        margin=margin,
        confidence=confidence,
    )


# -- anything -------------------------------------------------------------------------------------


def bootstrap(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    group: ArrayLike | None = None,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Percentile bootstrap of any statistic, resampling whole groups (patients) with replacement.

    Efron & Tibshirani 1993, chapter 13; Field & Welsh 2007 for whole clusters. The number of
    groups drawn is the number there are, so the number of cases varies from draw to draw.

    Parameters
    ----------
    statistic : called with the resampled arrays, returns one number (nan: undefined, left out)
    arrays : one or more, each (n, ...)
    group : (n,) patient of each case, any labels; without it every case is its own
    draws : resamples, at least 1
    seed : of the random draws; the same seed gives the same result
    confidence : of the two-sided interval, in (0, 1)

    Raises
    ------
    DataError
        The arrays are empty or of different lengths, or a group is missing.
    UsageError
        No array, `draws` below 1, or `confidence` not between 0 and 1.

    Examples
    --------
    >>> result = bootstrap(np.mean, [1, 2, 3, 4, 5, 6], group=[0, 0, 1, 1, 2, 2], draws=200)
    >>> result.estimate, result.interval
    (3.5, (1.5, 5.5))
    """
    _between_0_and_1("confidence", confidence)
    if draws < 1:
        raise UsageError(f"draws must be at least 1, got {draws}.")
    if not arrays:
        raise UsageError("bootstrap needs at least one array to resample, got none.")
    columns = [np.asarray(array) for array in arrays]
    shapes = [column.shape for column in columns]
    if any(len(shape) == 0 or shape[0] == 0 or shape[0] != shapes[0][0] for shape in shapes):
        raise DataError(f"arrays must share one length n >= 1, got shapes {shapes}.")
    n = shapes[0][0]
    codes, n_groups = (np.arange(n), n) if group is None else _group_codes(group, n)
    by_group = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(n_groups, size=n_groups)
        length = sizes[drawn]
        before = np.cumsum(length) - length
        rows = by_group[np.repeat(starts[drawn] - before, length) + np.arange(length.sum())]
        values[i] = statistic(*(column[rows] for column in columns))
    kept = values[~np.isnan(values)]
    interval = (_NAN, _NAN)
    if kept.size:
        low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
        interval = (low, high)
    return Bootstrap(
        estimate=float(statistic(*columns)),
        standard_error=float(np.std(kept, ddof=1)) if kept.size > 1 else _NAN,
        interval=interval,
        values=kept,
        undefined=draws - kept.size,
        confidence=confidence,
    )


# -- classifiers, splits, several tests, proportions ----------------------------------------------


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Exact two-sided McNemar test of two classifiers on the same independent cases.

    Under the null each discordant case is a fair coin (McNemar 1947, exact binomial). Cases must be
    independent: one image per patient.

    Parameters
    ----------
    correct_a, correct_b : (n,) bool or 0/1, whether each classifier was right

    Raises
    ------
    DataError
        Shapes do not fit, or an entry is not 0/1.

    Examples
    --------
    >>> mcnemar([1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1])
    McNemar(only_a=0, only_b=6, difference=0.75, p=0.03125)
    """
    from scipy.special import bdtr

    a, b = zero_one("correct_a", correct_a), zero_one("correct_b", correct_b)
    if b.shape != a.shape:
        raise DataError(f"correct_b must have shape {a.shape} like correct_a, got {b.shape}.")
    only_a = int(np.count_nonzero(a & ~b))
    only_b = int(np.count_nonzero(b & ~a))
    tail = float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    return McNemar(only_a, only_b, (only_b - only_a) / a.size, min(1.0, 2 * tail))


def nadeau_bengio(
    differences: ArrayLike, n_train: float, n_test: float, confidence: float = 0.95
) -> NadeauBengio:
    """Corrected resampled t-test on the differences that J random splits of one data set gave.

    t = mean(d) / sqrt((1/J + n_test/n_train) s^2) with J - 1 degrees of freedom (Nadeau & Bengio
    2003, "Inference for the generalization error"): splits overlap, so the plain t-test is far
    too sure. When all differences are the same number, the interval is that point.

    Parameters
    ----------
    differences : (J,) metric of b minus metric of a, one per split, J >= 2
    n_train, n_test : cases (or patients) in each part
    confidence : of the two-sided interval, in (0, 1)

    Raises
    ------
    DataError
        Fewer than two differences, or one is not finite.
    UsageError
        A size is not above 0, or `confidence` is not between 0 and 1.

    Examples
    --------
    >>> result = nadeau_bengio([0.02, 0.01, 0.03, 0.02], n_train=80, n_test=20)
    >>> round(result.mean, 3), round(result.t, 3), result.df, round(result.p, 3)
    (0.02, 3.464, 3, 0.041)
    """
    from scipy.special import stdtr, stdtrit

    _between_0_and_1("confidence", confidence)
    if not (n_train > 0 and n_test > 0):
        raise UsageError(f"n_train and n_test must be above 0, got {n_train} and {n_test}.")
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size < 2:
        raise DataError(f"differences must have shape (J,) with J >= 2, got {d.shape}.")
    wrong = np.flatnonzero(~np.isfinite(d))
    if wrong.size:
        raise DataError(f"differences must be finite, got {d[wrong[0]]} at index {wrong[0]}.")
    df = d.size - 1
    constant = bool(np.all(d == d[0]))  # the mean of equal numbers may round
    mean = float(d[0] if constant else d.mean())
    variance = 0.0 if constant else float(d.var(ddof=1))
    standard_error = math.sqrt((1 / d.size + n_test / n_train) * variance)
    t = _standardise(mean, standard_error)
    half = float(stdtrit(df, (1 + confidence) / 2)) * standard_error
    return NadeauBengio(
        mean=mean,
        interval=(mean - half, mean + half),
        t=t,
        df=df,
        p=2 * float(stdtr(df, -abs(t))),
        confidence=confidence,
    )


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust the p-values of several tests by Holm 1979: reject where the result is below alpha.

    Parameters
    ----------
    p : (m,) p-values in [0, 1]; m may be 0

    Returns
    -------
    (m,) adjusted p-values in the order given, at most 1

    Raises
    ------
    DataError
        A p-value is not in [0, 1].

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1:
        raise DataError(f"p must have shape (m,), got {values.shape}.")
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if wrong.size:
        raise DataError(f"p must lie in 0 to 1, got {values[wrong[0]]} at index {wrong[0]}.")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    factors = np.arange(values.size, 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a proportion, k of n (Clopper & Pearson 1934).

    Parameters
    ----------
    k, n : successes among trials, 0 <= k <= n; with n = 0 the interval is (0, 1)
    confidence : two-sided, in (0, 1)

    Returns
    -------
    lower and upper bound

    Raises
    ------
    DataError
        k is not in 0..n.
    UsageError
        `confidence` is not between 0 and 1.

    Examples
    --------
    >>> [round(bound, 4) for bound in clopper_pearson(0, 59, confidence=0.9)]
    [0.0, 0.0495]
    """
    from scipy.special import betaincinv

    _between_0_and_1("confidence", confidence)
    if not 0 <= k <= n:
        raise DataError(f"k must lie in 0 to n={n}, got {k}.")
    tail = (1 - confidence) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


# -- helpers --------------------------------------------------------------------------------------


def _between_0_and_1(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise UsageError(f"{name} must lie between 0 and 1, got {value}.")


def _group_codes(group: ArrayLike, n: int) -> tuple[NDArray[np.intp], int]:
    """Number the groups 0..G-1; a missing one would merge strangers into one patient."""
    labels: NDArray[Any] = np.asarray(group)
    if labels.shape != (n,):
        raise DataError(f"group must have shape (n,) with n={n}, got {labels.shape}.")
    absent = labels != labels  # nan, and "not a time"
    if labels.dtype.kind in "OU":
        absent |= np.isin(labels, np.array([None, ""], dtype=object))
    missing = np.flatnonzero(absent)
    if missing.size:
        raise DataError(
            f"group must name a group for every case, got {labels[missing].tolist()[0]!r} "
            f"at index {missing[0]}."
        )
    if labels.dtype.kind == "O":  # numbers beside names cannot be sorted
        labels = labels.astype(np.str_)
    known, codes = np.unique(labels, return_inverse=True)
    return codes, known.size


def _bessel(count: int) -> float:
    return count / (count - 1) if count > 1 else _NAN


def _standardise(value: float, standard_error: float) -> float:
    if standard_error != 0:
        return value / standard_error
    return math.copysign(math.inf, value) if value else 0.0


def _clip(value: float, floor: float) -> float:
    return value if math.isnan(value) else min(max(value, floor), 1.0)


def _normal_cdf(z: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(z))


def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))
