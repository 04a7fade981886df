"""How far a teacher and its students bear each other out, where no person labelled anything.

Pure functions of arrays. Agreement is Cohen's kappa: what chance would give counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.checks import probabilities
from medloop.errors import DataError
from medloop.labels import aligned
from medloop.students.calibration import fit_platt, moved_by, softmax

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Two students whose kappa is below this know too little to correct anybody. Of 102 teachers of
#: findings in knees, ears and larynges, from weak to nearly perfect, 38 had such students: `blend`
#: gained .02 of F1 with them and lost .02 at most; with the 13 whose F1 was .9 or more, it lost
#: .004 at most. Without this and `blend`, the worst had lost .59.
_CORROBORATED = 0.5
#: Kappa of a teacher and the truth is never taken to lie outside these.
_UNSURE, _SURE = 0.02, 0.99
#: Logits beyond this are no surer.
_CERTAIN = 6.0
#: With fewer answers of one kind, a calibration says more about chance.
_LEAST_OF_EACH = 5


@dataclass(frozen=True, slots=True)
class Consistency:
    """Whether two students of one teacher agree with each other as they do with it.

    Parameters
    ----------
    between : float
        Kappa of the two students; nan where all labels are of one class.
    first, second : float
        Kappa of each student and the teacher.
    images : int
    passes : bool
    sentence : str
    """

    between: float
    first: float
    second: float
    images: int
    passes: bool
    sentence: str

    @property
    def reliability(self) -> float:
        """Kappa of the teacher and the truth, were the errors of all three independent.

        The share of the truth that two of them have in common is the product of what each has of
        it, so that three agreements tell what each has (Platanios, Blum & Mitchell 2014).

        Examples
        --------
        >>> round(Consistency(0.5, 0.4, 0.4, 90, True, "").reliability, 3)
        0.566
        """
        if not self.between > 0:
            return _SURE
        product = max(self.first, 0.0) * max(self.second, 0.0) / self.between
        return float(np.clip(np.sqrt(product), _UNSURE, _SURE))


def agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Return Cohen's kappa (1960) of two labellings: 1 is perfect, 0 what chance would give.

    nan where both give one and the same class to everything.

    Parameters
    ----------
    a, b : (n,) class indices

    Raises
    ------
    DataError
        The lengths differ, or there is nothing to compare.

    Examples
    --------
    >>> agreement([0, 0, 1, 1], [0, 0, 1, 0])
    0.5
    """
    a = aligned("a", a, np.int64, None)
    b = aligned("b", b, np.int64, len(a))
    if len(a) == 0:
        raise DataError("agreement needs at least one label, got none.")
    _, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
    one, other = codes[: len(a)], codes[len(a) :]
    share = [np.bincount(codes_of, minlength=codes.max() + 1) for codes_of in (one, other)]
    # whole numbers, so that nothing rounds where chance alone explains everything
    expected, observed = int(share[0] @ share[1]), int((one == other).sum()) * len(a)
    at_most = len(a) ** 2
    if expected == at_most:
        return float("nan")
    return (observed - expected) / (at_most - expected)


def consistency(first: ArrayLike, second: ArrayLike, teacher: ArrayLike) -> Consistency:
    """Check that two students agree with each other at least as well as either with the teacher.

    Both learned from the teacher's labels, of disjoint halves of the patients. What the teacher
    got wrong at random they did not learn, and there they agree against it; if they agree less
    with each other than with it, they learned noise. On images that one of them learned from, that
    one agrees with the teacher too well, which makes the check harder to pass. It verifies nothing
    against a person: errors that the teacher makes throughout, both students learn.

    Parameters
    ----------
    first, second, teacher : (n, K) float
        Probabilities for the same images; each counts by its most probable class.

    Raises
    ------
    DataError
        Shapes do not fit, or a row is no probability vector.

    Examples
    --------
    >>> sure, unsure = [0.9, 0.1], [0.2, 0.8]
    >>> result = consistency([sure, unsure] * 2, [sure, unsure] * 2, [sure, sure, sure, unsure])
    >>> result.passes, result.between, result.first
    (True, 1.0, 0.5)
    """
    tables = [
        probabilities(name, table)
        for name, table in (("first", first), ("second", second), ("teacher", teacher))
    ]
    shapes = {table.shape for table in tables}
    if len(shapes) > 1:
        raise DataError(
            "first, second and teacher must have one shape, got "
            f"{', '.join(str(table.shape) for table in tables)}."
        )
    one, other, guide = (table.argmax(axis=1) for table in tables)
    between = agreement(one, other)
    with_teacher = agreement(one, guide), agreement(other, guide)
    passes = bool(between >= max(with_teacher))
    if not np.isfinite([between, *with_teacher]).all():
        passes, said = False, "all labels are of one class, so how well they agree is undefined"
    else:
        how = "at least as well as" if passes else "less well than"
        said = (
            f"two students that learned from different patients agree with each other (kappa "
            f"{between:.3f}) {how} with the teacher ({with_teacher[0]:.3f} and "
            f"{with_teacher[1]:.3f})"
        )
    sentence = (
        f"{said[0].upper()}{said[1:]}, on {len(one):,} images. Nothing could be verified against a "
        "person: errors that teacher and students share do not show here."
    )
    return Consistency(between, *with_teacher, len(one), passes, sentence)


def corroboration(first: ArrayLike, second: ArrayLike, teacher: ArrayLike) -> Consistency:
    """Check that two students of one finding know something of it: that they agree with each other.

    They learned disjoint thirds of the patients, and are asked about images that neither learned
    from. A student may contradict a nearly perfect teacher because it cannot learn the finding from
    so few images, or at all. Then another student contradicts the teacher elsewhere, so that the
    two hardly agree. Each calls the finding as often as the teacher does, as few examples shift
    what lies above one half.

    Parameters
    ----------
    first, second, teacher : (n,) float
        Probability that the finding is there.

    Raises
    ------
    DataError
        Shapes do not fit, or there is no image.

    Examples
    --------
    >>> some, others = [0.9] * 5 + [0.1] * 5, [0.9, 0.1] * 5
    >>> corroboration(some, some, others).passes, corroboration(some, others, some).passes
    (True, False)
    """
    guide: Floats = aligned("teacher", teacher, np.float64, None)
    share = float((guide > 0.5).mean()) if len(guide) else 0.0
    called = [guide > 0.5]
    for name, given in (("first", first), ("second", second)):
        probs: Floats = aligned(name, given, np.float64, len(guide))
        called.append(probs > np.quantile(probs, 1 - share) if len(probs) else probs > 0.5)
    told, one, other = (each.astype(np.int64) for each in called)
    between = agreement(one, other)
    with_teacher = agreement(one, told), agreement(other, told)
    passes = bool(between >= _CORROBORATED)
    said = (
        f"Two students that learned from different patients agree with each other (kappa "
        f"{between:.3f}; needed: {_CORROBORATED:g}), on {len(told):,} images."
    )
    return Consistency(between, *with_teacher, len(told), passes, said)


def blend(teacher: ArrayLike, student: ArrayLike, *, reliability: float) -> Floats:
    """Join what a teacher and its student say of one finding.

    The student is calibrated to what the teacher calls (Platt 1999), so that one which cannot
    foretell it says little; to its logit that of the teacher is added. A teacher's own certainty
    may mean anything: its logits are divided by their mean, and half of what it says counts by
    them, half as much for each image; together as much as its reliability allows.

    Parameters
    ----------
    teacher : (n,) float
        Probability that the finding is there.
    student : (n,) float
        The same, of a student that did not learn the label of the image (out of fold).
    reliability : float
        Kappa of the teacher and the truth, in [0, 1]; see `Consistency.reliability`.

    Returns
    -------
    (n,) float
        The teacher's own, where one of the two calls nearly all images or nearly none.

    Raises
    ------
    DataError
        The shapes differ.

    Examples
    --------
    >>> student = [0.9] * 10 + [0.1] * 10
    >>> teacher = [0.2] + [0.8] * 9 + [0.2] * 9 + [0.8]  # one wrong answer of each kind
    >>> (blend(teacher, student, reliability=0.5) > 0.5).tolist() == [True] * 10 + [False] * 10
    True
    """
    told: Floats = aligned("teacher", teacher, np.float64, None)
    said: Floats = aligned("student", student, np.float64, len(told))
    calls = told > 0.5
    if np.bincount(calls, minlength=2).min() < _LEAST_OF_EACH:
        return told
    said = moved_by(said, *fit_platt(said, calls))
    if np.bincount(said > 0.5, minlength=2).min() < _LEAST_OF_EACH:
        return told
    kappa = min(max(reliability, _UNSURE), _SURE)
    own = np.clip(_logit(told), -_CERTAIN, _CERTAIN)
    certainty = own / abs(own).mean() + np.where(calls, 1.0, -1.0)
    joined = _logit(said) + np.log((1 + kappa) / (1 - kappa)) * certainty / 2
    return softmax(np.column_stack([np.zeros_like(joined), joined]))[:, 1]


def _logit(probs: Floats) -> Floats:
    inside = np.clip(probs, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(inside) - np.log1p(-inside))
