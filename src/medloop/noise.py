"""Learning from a noisy teacher: which labels to doubt, which to learn from, what neighbours say.

Pure functions of arrays: ``labels (n,)`` are the class indices that a teacher gave, ``probs
(n, K)`` what somebody thinks of the same images. They find, score and weigh; they delete nothing.
Probabilities must be out of fold: who learned a label cannot be asked whether it is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.engine.threads import one_thread
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.labels import aligned
from medloop.students.calibration import fit_platt, moved_by, softmax

__all__ = [
    "Consistency",
    "agreement",
    "blend",
    "confident_joint",
    "consistency",
    "corroboration",
    "propagate",
    "rank",
    "small_loss_weight",
    "suspects",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: What half-precision softmax leaves behind.
_ROW_SUM = 1e-3
#: The mean of equal numbers may round above them.
_ROUNDING = 1e-9
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


# -- confident learning ---------------------------------------------------------------------------


def confident_joint(labels: ArrayLike, probs: ArrayLike) -> Ints:
    """Count the images by their label (row) and by the class that they are confidently of (column).

    Confident learning (Northcutt, Jiang & Chuang 2021): t_j is the mean of p(j | x) over the x
    labelled j, and x is confidently of the most probable class among {j : p(j | x) >= t_j}. An
    image that reaches no threshold is not counted. Nothing is confidently of a class that labels
    no image.

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, K) probabilities by a model that did not learn the label of the image (out of fold)

    Returns
    -------
    (K, K) counts

    Raises
    ------
    DataError
        Shapes do not fit, a class index is not in 0..K-1, or a row is no probability vector.

    Examples
    --------
    >>> probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]]
    >>> confident_joint([0, 0, 0, 1, 1], probs).tolist()
    [[2, 1], [0, 1]]
    """
    labels, probs = _labels_and_probs(labels, probs)
    sure = _confident_class(labels, probs)
    k = probs.shape[1]
    rows = sure >= 0
    return np.bincount(labels[rows] * k + sure[rows], minlength=k * k).reshape(k, k)


def suspects(labels: ArrayLike, probs: ArrayLike) -> Mask:
    """Tell which images are confidently of another class than their label; see `confident_joint`.

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, K) probabilities out of fold

    Returns
    -------
    (n,) bool
        As many as the confident joint has off its diagonal.

    Raises
    ------
    DataError
        As `confident_joint`.

    Examples
    --------
    >>> probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7]]
    >>> suspects([0, 0, 0, 1, 1], probs).tolist()
    [False, False, True, False, False]
    """
    labels, probs = _labels_and_probs(labels, probs)
    sure = _confident_class(labels, probs)
    return np.asarray((sure >= 0) & (sure != labels))


def rank(
    labels: ArrayLike,
    probs: ArrayLike,
    *,
    method: Literal["self_confidence", "margin"] = "self_confidence",
) -> Floats:
    """Score how well each label fits, in [0, 1]; the lower, the likelier it is wrong.

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, K) probabilities out of fold
    method : str
        ``"self_confidence"`` is the probability of the label; ``"margin"`` how far it lies above
        the most probable other class, (difference + 1) / 2.

    Raises
    ------
    DataError
        As `confident_joint`.
    UsageError
        There is no such method.

    Examples
    --------
    >>> probs = [[0.75, 0.25], [0.25, 0.75]]
    >>> rank([0, 0], probs).tolist(), rank([0, 0], probs, method="margin").tolist()
    ([0.75, 0.25], [0.75, 0.25])
    """
    methods = ("self_confidence", "margin")
    if method not in methods:
        raise UsageError(f"unknown method {method!r}.{did_you_mean(method, methods)}")
    labels, probs = _labels_and_probs(labels, probs)
    rows = np.arange(len(labels))
    own = probs[rows, labels]
    if method == "margin":
        others = probs.copy()
        others[rows, labels] = -1
        own = (own - others.max(axis=1, initial=-1) + 1) / 2
    return np.asarray(np.clip(own, 0, 1))


def small_loss_weight(
    labels: ArrayLike, probs: ArrayLike, *, noise: ArrayLike | None = None
) -> Floats:
    """Weigh each label by whether its loss is among the small ones of its class: 1 or 0.

    Models fit clean labels before they fit wrong ones, so those of small loss are mostly clean
    (Han et al. 2018, "Co-teaching"). Of the n_k labels of class k, the floor(noise_k n_k) whose
    class is least probable get 0; labels that tie with the last one kept are kept too, and at
    least one label of a class is, so that a hard class does not vanish. Class by class, because a
    common limit would drop the hard classes and keep the easy ones, wrong labels included.

    Parameters
    ----------
    labels : (n,) class indices
    probs : (n, K) probabilities out of fold
    noise : float or (K,) float in [0, 1], optional
        Share of the labels of a class that are wrong; where not given, the share that the
        confident joint has off its diagonal in the row of that class.

    Returns
    -------
    (n,) float

    Raises
    ------
    DataError
        As `confident_joint`, or a share does not lie in [0, 1].

    Examples
    --------
    >>> probs = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]]
    >>> small_loss_weight([0, 0, 0, 1], probs, noise=0.34).tolist()
    [1.0, 1.0, 0.0, 1.0]
    """
    labels, probs = _labels_and_probs(labels, probs)
    k = probs.shape[1]
    if noise is None:
        joint = confident_joint(labels, probs)
        share = 1 - np.diag(joint) / np.maximum(joint.sum(axis=1), 1)
        share[joint.sum(axis=1) == 0] = 0.0  # nobody is sure of anything: no reason to doubt
    else:
        share = np.broadcast_to(np.asarray(noise, np.float64), k) if np.ndim(noise) == 0 else noise
        share = aligned("noise", share, np.float64, k)
        if not ((share >= 0) & (share <= 1)).all():
            raise DataError(f"noise must lie in [0, 1], got {share.tolist()}.")
    own = probs[np.arange(len(labels)), labels]
    weight = np.zeros(len(labels))
    for each in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == each)
        # 0.3 * 10 may be 3.0000000000000004 or 2.9999999999999996
        dropped = min(int(share[each] * len(rows) + _ROUNDING), len(rows) - 1)
        least = np.sort(own[rows])[dropped]
        weight[rows] = own[rows] >= least
    return weight


def _confident_class(labels: Ints, probs: Floats) -> Ints:
    """Return the class that each image is confidently of; -1 where it is of none."""
    k = probs.shape[1]
    count = np.bincount(labels, minlength=k)
    own = np.bincount(labels, probs[np.arange(len(labels)), labels], minlength=k)
    threshold = np.full(k, np.inf)
    threshold[count > 0] = own[count > 0] / count[count > 0]
    reached = np.where(probs >= threshold - _ROUNDING, probs, -1.0)
    best = reached.argmax(axis=1)
    return np.where(reached.max(axis=1, initial=-1.0) >= 0, best, -1)


# -- what neighbours say --------------------------------------------------------------------------


def propagate(
    features: ArrayLike,
    probs: ArrayLike,
    *,
    neighbours: int = 10,
    alpha: float = 0.8,
    steps: int = 20,
    clamp: ArrayLike | None = None,
) -> Floats:
    """Let each image listen to its nearest neighbours, again and again.

    F <- alpha S F + (1 - alpha) Y, where Y is ``probs`` and S = D^-1/2 W D^-1/2 (Zhou et al. 2004,
    "Learning with local and global consistency"). W joins each image with its nearest neighbours,
    both ways, by exp(-d^2 / (s_i s_j)), where s_i is the distance from i to the last of its own
    (Zelnik-Manor & Perona 2004), so that no width has to be chosen. Neighbours are exact; the graph
    is sparse and memory grows with n, time with n^2. One thread: the same bytes on any machine.

    Parameters
    ----------
    features : (n, d) float
        Euclidean distances between them must mean something.
    probs : (n, K) float
        What is known at the beginning; rows sum to one.
    neighbours : int
        Of each image; all others where there are fewer.
    alpha : float
        How much the neighbours count, in [0, 1); 0 changes nothing.
    steps : int
        What a step more would change falls by ``alpha`` with each.
    clamp : (n,) bool, optional
        Rows that keep their ``probs``, such as labels of a person.

    Returns
    -------
    (n, K) float
        Rows sum to one.

    Raises
    ------
    DataError
        Shapes do not fit, a value is not finite, or a row of ``probs`` is no probability vector.
    UsageError
        ``neighbours``, ``alpha`` or ``steps`` is out of range.

    Examples
    --------
    >>> features = [[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]]
    >>> probs = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9]]
    >>> propagate(features, probs, neighbours=2).argmax(axis=1).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    if not isinstance(neighbours, int) or neighbours < 1:
        raise UsageError(f"neighbours must be an int of at least 1, got {neighbours!r}.")
    if not 0 <= alpha < 1:
        raise UsageError(f"alpha must lie in [0, 1), got {alpha}.")
    if not isinstance(steps, int) or steps < 0:
        raise UsageError(f"steps must be an int of at least 0, got {steps!r}.")
    known = _probabilities("probs", probs)
    n = len(known)
    x = aligned("features", features, np.float64, n, (None,))
    fixed = np.zeros(n, bool) if clamp is None else aligned("clamp", clamp, np.bool_, n)
    if n < 2 or alpha == 0 or steps == 0:
        return np.array(known)
    graph = _graph(x, min(neighbours, n - 1))
    heard = np.array(known)
    for _ in range(steps):
        heard = alpha * (graph @ heard) + (1 - alpha) * known
        heard[fixed] = known[fixed]
    return np.asarray(heard / heard.sum(axis=1, keepdims=True))


def _graph(x: Floats, neighbours: int) -> Any:
    """Return S, the normalised graph of nearest neighbours, as a sparse (n, n) matrix."""
    from scipy.sparse import csr_matrix, diags_array
    from sklearn.neighbors import NearestNeighbors

    n = len(x)
    # distances come from products, which lose digits far from the origin
    x = x - x.mean(axis=0)
    with one_thread():
        search = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(x)
        distance, near = search.kneighbors()
    width = distance[:, -1]
    scale = width[:, None] * width[near]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = distance**2 / scale
    ratio[distance == 0] = 0.0  # copies of one image, whose width may be 0
    weight = np.exp(-ratio)
    start = np.arange(0, near.size + 1, neighbours)
    one_way = csr_matrix((weight.ravel(), near.ravel(), start), shape=(n, n))
    both = one_way.maximum(one_way.T)
    degree = np.asarray(both.sum(axis=1)).ravel()
    shrink = np.zeros(n)
    shrink[degree > 0] = degree[degree > 0] ** -0.5
    root = diags_array(shrink)
    return (root @ both @ root).tocsr()


# -- do two agree ---------------------------------------------------------------------------------


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
        _probabilities(name, table)
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


# -- checks ---------------------------------------------------------------------------------------


def _probabilities(name: str, probs: ArrayLike) -> Floats:
    table: Floats = aligned(name, probs, np.float64, None, (None,))
    if table.shape[1] < 2:
        raise DataError(f"{name} must have shape (n, K) with K >= 2, got {table.shape}.")
    fits = (table >= 0).all(axis=1) & (abs(table.sum(axis=1) - 1) <= _ROW_SUM)
    if not fits.all():
        row = int(np.argmin(fits))
        raise DataError(
            f"{name} must be 0 or more and sum to 1 in each row, got {table[row].tolist()} "
            f"in row {row}."
        )
    return table


def _labels_and_probs(labels: ArrayLike, probs: ArrayLike) -> tuple[Ints, Floats]:
    table = _probabilities("probs", probs)
    codes: Ints = aligned("labels", labels, np.int64, len(table))
    fits = (codes >= 0) & (codes < table.shape[1])
    if not fits.all():
        row = int(np.argmin(fits))
        raise DataError(
            f"labels must lie in 0 to {table.shape[1] - 1}, got {codes[row]} in row {row}."
        )
    return codes, table
