"""Probabilities that mean what they say: temperature, and priors for long tails."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError

Floats = NDArray[np.float64]


def softmax(logits: Floats) -> Floats:
    """Turn (n, K) logits into probabilities, without overflow.

    Examples
    --------
    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True))


def tempered(probs: Floats, temperature: float) -> Floats:
    """Divide the logits of probabilities by a temperature.

    Examples
    --------
    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.667, 0.333]]
    """
    return softmax(np.log(np.clip(probs, 1e-12, 1.0)) / temperature)


def log_prior(class_id: NDArray[np.int64], n_classes: int) -> Floats:
    """Log frequency of each class with one pseudo-count, shape (K,)."""
    counts = np.bincount(class_id, minlength=n_classes) + 1.0
    return np.asarray(np.log(counts / counts.sum()))


def adjust_logits(logits: Floats, prior: Floats, *, tau: float = 1.0) -> Floats:
    """Subtract ``tau`` log priors, so that rare classes are not drowned (Menon et al. 2021).

    Examples
    --------
    >>> prior = log_prior(np.array([0, 0, 0, 0, 0, 0, 0, 1]), 2)
    >>> adjust_logits(np.array([[0.5, 0.0]]), prior).argmax()
    np.int64(1)
    """
    return logits - tau * prior


def fit_temperature(probs: Floats, class_id: NDArray[np.int64]) -> float:
    """Find the T in [0.05, 20] for which ``softmax(log(probs) / T)`` is most likely.

    Source: Guo et al. 2017. The probabilities must come from a student that did not see the
    labels (out of fold); otherwise T is too small.

    Parameters
    ----------
    probs : (n, K) float
    class_id : (n,) int

    Raises
    ------
    DataError
        The two do not have the same length.

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1]] * 10)
    >>> round(fit_temperature(probs, np.array([0] * 7 + [1] * 3)), 1)  # 90% said, 70% true
    2.6
    """
    from scipy.optimize import minimize_scalar

    if len(probs) != len(class_id):
        raise DataError(f"probs has {len(probs)} rows, but class_id has {len(class_id)}.")
    logits = np.log(np.clip(probs, 1e-12, 1.0))
    rows = np.arange(len(class_id))

    def loss(log_t: float) -> float:
        return -float(np.log(softmax(logits / np.exp(log_t))[rows, class_id] + 1e-12).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def fit_platt(probs: Floats, there: NDArray[np.bool_]) -> tuple[float, float]:
    """Find slope and shift for which ``sigmoid(slope logit(probs) + shift)`` is most likely.

    Unlike a temperature, the shift moves what counts as more probable than not: a strong penalty
    draws the probabilities of a rare finding below one half, though they rank well.

    Source: Platt 1999, with his smoothed targets. The probabilities must come from a student that
    did not see the labels (out of fold).

    Parameters
    ----------
    probs : (n,) float
        That it is there.
    there : (n,) bool
        Some of both.

    Returns
    -------
    slope : float
        In [0.05, 20].
    shift : float

    Raises
    ------
    DataError
        The two do not have the same length, or all of ``there`` are the same.

    Examples
    --------
    >>> probs = np.array([0.3] * 10 + [0.1] * 90)  # well ranked, and never above one half
    >>> slope, shift = fit_platt(probs, np.arange(100) < 10)
    >>> bool(slope * np.log(0.3 / 0.7) + shift > 0 > slope * np.log(0.1 / 0.9) + shift)
    True
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    if len(probs) != len(there):
        raise DataError(f"probs has {len(probs)} rows, but there has {len(there)}.")
    n_with = int(there.sum())
    n_without = len(there) - n_with
    if not n_with or not n_without:
        raise DataError("there must hold some of both, got one.")
    clipped = np.clip(probs, 1e-6, 1 - 1e-6)
    logit = np.log(clipped) - np.log1p(-clipped)
    target = np.where(there, (n_with + 1) / (n_with + 2), 1 / (n_without + 2))

    def loss(x: Floats) -> tuple[float, Floats]:
        slope = float(np.exp(x[0]))
        moved = slope * logit + x[1]
        off = expit(moved) - target
        value = float((np.logaddexp(0, moved) - target * moved).mean())
        return value, np.array([(off * logit).mean() * slope, off.mean()])

    limits = [(np.log(0.05), np.log(20.0)), (None, None)]
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=limits)
    return float(np.exp(found.x[0])), float(found.x[1])


def moved_by(probs: Floats, slope: float, shift: float) -> Floats:
    """Return ``sigmoid(slope logit(probs) + shift)``, any shape.

    Examples
    --------
    >>> moved_by(np.array([0.2, 0.5]), 1.0, 0.0).round(6).tolist()
    [0.2, 0.5]
    """
    clipped = np.clip(probs, 1e-6, 1 - 1e-6)
    logit = slope * (np.log(clipped) - np.log1p(-clipped)) + shift
    return np.asarray(softmax(np.stack([np.zeros_like(logit), logit], axis=-1))[..., 1])
