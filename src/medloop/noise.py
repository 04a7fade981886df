"""Learning from a noisy teacher: which labels to doubt, which to learn from, what neighbours say.

Pure functions of arrays: ``labels (n,)`` are the class indices that a teacher gave, ``probs
(n, K)`` what somebody thinks of the same images. They find, score and weigh; they delete nothing.
Probabilities must be out of fold: who learned a label cannot be asked whether it is wrong.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.checks import probabilities
from medloop.engine.threads import one_thread
from medloop.errors import DataError, UsageError, did_you_mean
from medloop.labels import aligned

__all__ = [
    "confident_joint",
    "propagate",
    "rank",
    "small_loss_weight",
    "suspects",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: The mean of equal numbers may round above them.
_ROUNDING = 1e-9


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
    known = probabilities("probs", probs)
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


# -- checks ---------------------------------------------------------------------------------------


def _labels_and_probs(labels: ArrayLike, probs: ArrayLike) -> tuple[Ints, Floats]:
    table = probabilities("probs", probs)
    codes: Ints = aligned("labels", labels, np.int64, len(table))
    fits = (codes >= 0) & (codes < table.shape[1])
    if not fits.all():
        row = int(np.argmin(fits))
        raise DataError(
            f"labels must lie in 0 to {table.shape[1] - 1}, got {codes[row]} in row {row}."
        )
    return codes, table
