"""A student beside the teacher of several findings, on images of patients it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import UsageError
from medloop.findings.evaluation import aucs, scores
from medloop.labels import aligned
from medloop.prepare.split import group_folds
from medloop.presence import whole
from medloop.progress import Progress, silent
from medloop.report.words import p_words, with_interval
from medloop.stats import holm, nadeau_bengio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A split is some of this many folds by patient, so shares are multiples of 5%.
_FOLDS = 20


def evaluate_finding_splits(
    truth: ArrayLike,
    teacher: ArrayLike,
    labels_of_student: Callable[[Ints], Floats],
    group: ArrayLike,
    *,
    splits: int = 30,
    test_share: float = 0.3,
    seed: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare a student with its teacher on the held-out part of random splits by patient.

    As :func:`medloop.splits.evaluate_splits`, of several findings an image. A split counts for a
    finding where its held-out images have some with it and some without.

    Parameters
    ----------
    truth : (n, K) bool
    teacher : (n, K) float
        Probability of each finding.
    labels_of_student : callable
        ``labels_of_student(train_rows)`` learns the teacher's labels of these rows, and no others,
        and gives the probabilities of all n rows.
    group : (n,) int
    splits : int
        At least 2.
    test_share : float in [0.05, 0.95]
    seed : int
    progress : Progress

    Returns
    -------
    dict
        ``teacher`` and ``student`` hold ``f1`` and ``auc`` (K a split, None where a split does not
        count) and the means ``macro_f1`` and ``mean_auc`` over the findings that count;
        ``difference`` the means of student minus teacher with corrected intervals and p
        (Nadeau & Bengio 2003), None where fewer than two splits count; ``sentence``.

    Raises
    ------
    UsageError
        ``splits`` or ``test_share`` is out of range.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> truth = random.random((200, 2)) < 0.4
    >>> teacher = np.where(random.random((200, 2)) < 0.3, ~truth, truth).astype(float)
    >>> found = evaluate_finding_splits(truth, teacher, lambda rows: truth.astype(float),
    ...                                 np.arange(200), splits=5, seed=0)
    >>> found["student"]["macro_f1"][0], found["difference"]["macro_f1"]["mean"] > 0.1
    (1.0, True)
    """
    if not isinstance(splits, int) or splits < 2:
        raise UsageError(f"splits must be an int of at least 2, got {splits!r}.")
    if not 0.05 <= test_share <= 0.95:
        raise UsageError(f"test_share must lie in [0.05, 0.95], got {test_share}.")
    there = aligned("truth", truth, np.bool_, None, (None,))
    n, k = there.shape
    said = aligned("teacher", teacher, np.float64, n, (k,))
    patient = aligned("group", group, np.int64, n)
    tables: dict[str, dict[str, list[Any]]] = {
        who: {"f1": [], "auc": []} for who in ("teacher", "student")
    }
    sizes = []
    for i, number in enumerate(np.random.default_rng(seed).integers(2**31, size=splits).tolist()):
        fold = group_folds(whole(there), patient, folds=_FOLDS, seed=number)
        made = int(fold.max()) + 1
        count = min(max(round(test_share * made), 1), made - 1)
        held_out = np.isin(fold, np.random.default_rng(number).permutation(made)[:count])
        train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        learned = aligned("labels_of_student(rows)", labels_of_student(train), np.float64, n, (k,))
        counts = there[test].any(axis=0) & ~there[test].all(axis=0)
        for who, probs in (("teacher", said), ("student", learned)):
            f1 = np.array(scores(there[test], probs[test] > 0.5)["f1"])
            tables[who]["f1"].append(np.where(counts, f1, np.nan))
            tables[who]["auc"].append(aucs(there[test], probs[test]))
        sizes.append((len(train), len(test)))
        progress("splits", i + 1, splits)
    n_train, n_test = np.mean(sizes, axis=0).tolist()
    arrays = {who: {name: np.array(rows) for name, rows in tables[who].items()} for who in tables}
    result: dict[str, Any] = {
        "splits": splits,
        "test_share": test_share,
        "seed": seed,
        "images": n,
        "patients": len(np.unique(patient)),
        "train": n_train,
        "test": n_test,
        "difference": {},
    }
    for who, each in arrays.items():
        result[who] = {name: _plain(values) for name, values in each.items()}
        for name, mean in (("f1", "macro_f1"), ("auc", "mean_auc")):
            result[who][mean] = _plain(_means(each[name]))
    for name, mean in (("f1", "macro_f1"), ("auc", "mean_auc")):
        gain = arrays["student"][name] - arrays["teacher"][name]
        result["difference"][mean] = _tested(_means(gain), n_train, n_test)
        rows = [_tested(column, n_train, n_test) for column in gain.T]
        known = [row for row in rows if row is not None]
        if known:
            for row, p in zip(known, holm([row["p"] for row in known]).tolist(), strict=True):
                row["p_holm"] = p
        result["difference"][name] = rows
    return {**result, "sentence": _sentence(result)}


def _means(values: Floats) -> Floats:
    """Return the mean of each split over the findings that count in it; nan for none."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def _tested(values: Floats, n_train: float, n_test: float) -> dict[str, Any] | None:
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return None
    found = nadeau_bengio(known, n_train, n_test)
    return {
        "mean": found.mean,
        "interval": list(found.interval),
        "p": found.p,
        "splits": len(known),
    }


def _plain(values: Floats) -> list[Any]:
    held = values.astype(object)
    held[~np.isfinite(values)] = None
    plain: list[Any] = held.tolist()
    return plain


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is.

    Examples
    --------
    >>> mean_of([0.5, None, 1.0]), mean_of([None])
    (0.75, None)
    """
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _sentence(result: dict[str, Any]) -> str:
    said = (
        f"Over {result['splits']} random splits by patient (about {result['train']:,.0f} images to "
        f"learn from and {result['test']:,.0f} held out)"
    )
    parts = []
    for name, words in (("macro_f1", "mean F1"), ("mean_auc", "mean AUC")):
        found = result["difference"][name]
        mean = {who: mean_of(result[who][name]) for who in ("teacher", "student")}
        if found is None or mean["student"] is None or mean["teacher"] is None:
            continue
        gain = with_interval(found["mean"], found["interval"], 3, sign=True)
        parts.append(
            f"the {words} of the findings was {mean['student']:.3f} for the student and "
            f"{mean['teacher']:.3f} for its teacher, a difference of {gain}, {p_words(found['p'])}"
        )
    if not parts:
        return f"{said} no finding could be judged twice."
    return f"{said} {'; '.join(parts)} (Nadeau-Bengio)."
