"""Regularised logistic regression on features, and labels from its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.engine.threads import one_thread
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.students.calibration import (
    adjust_logits,
    fit_temperature,
    log_prior,
    softmax,
    tempered,
)

Floats = NDArray[np.float64]

#: Inverse strengths of the penalty that are compared by cross-validation, for features of a mean
#: norm of 10. Below them little is left but the intercept, and the commonest class takes all.
PENALTIES = tuple(float(10**e) for e in np.arange(-2, 1.1, 0.5))
#: Few labels are dealt to folds twice, as one deal says little.
_FEW = 400


@dataclass(frozen=True, eq=False)
class Line:
    """A fitted regression.

    Parameters
    ----------
    weights : (K, d) float
    bias : (K,) float
    prior : (K,) float
        Log frequency of each class among the labels that it learned from.
    penalty : float
    several : bool
        Whether each of the K is there or not on its own, instead of one of them.
    """

    weights: Floats
    bias: Floats
    prior: Floats
    penalty: float
    several: bool = False

    def probs(self, x: Any, *, tau: float, temperature: float) -> Floats:
        """Return (n, K) probabilities of (n, d) features."""
        logits = np.asarray(x @ self.weights.T) + self.bias
        if self.several:
            return softmax(np.stack([np.zeros_like(logits), logits / temperature], axis=-1))[..., 1]
        return softmax(adjust_logits(logits, self.prior, tau=tau) / temperature)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name, for safetensors."""
        arrays = {"weights": self.weights, "bias": self.bias, "prior": self.prior}
        return arrays | ({"several": np.ones(1)} if self.several else {})

    @staticmethod
    def restore(arrays: dict[str, NDArray[Any]], penalty: float | None) -> Line | None:
        """Put ``arrays`` together again; None where they hold no regression."""
        several = "several" in arrays  # learned one by one, with a penalty each
        if "weights" not in arrays or (penalty is None and not several):
            return None
        strength = float("nan") if penalty is None else penalty
        return Line(arrays["weights"], arrays["bias"], arrays["prior"], strength, several)

    @staticmethod
    def joined(parts: Sequence[Line | float]) -> Line:
        """Join regressions of two classes, without and with a finding; a number is its share.

        Examples
        --------
        >>> one = Line(np.array([[0.0], [2.0]]), np.array([0.0, -1.0]), np.zeros(2), 1.0)
        >>> line = Line.joined([one, 0.25])
        >>> x = np.array([[0.5], [1.0]])
        >>> line.probs(x, tau=0.0, temperature=1.0).round(3).tolist()
        [[0.5, 0.25], [0.731, 0.25]]
        """
        width = next(part.weights.shape[1] for part in parts if isinstance(part, Line))
        weights, bias = np.zeros((len(parts), width)), np.zeros(len(parts))
        for k, part in enumerate(parts):
            if isinstance(part, Line):
                weights[k] = part.weights[1] - part.weights[0]
                bias[k] = part.bias[1] - part.bias[0]
            else:
                bias[k] = np.log(part) - np.log1p(-part)
        return Line(weights, bias, np.zeros(len(parts)), float("nan"), several=True)


def fit_line(
    x: Any,
    labels: Labels,
    *,
    n_classes: int,
    weight: Floats | None,
    group: NDArray[np.int64],
    penalty: float | None,
    seed: int,
) -> Line:
    """Fit a regression to labels, or to their probabilities where they have them.

    Parameters
    ----------
    x : (m, d) array or sparse matrix
        Features, aligned with ``labels``.
    labels : Labels
    n_classes : int
    weight : (m,) float, optional
    group : (m,) int
    penalty : float, optional
        Chosen by cross-validation over groups where not given.
    seed : int

    Raises
    ------
    DataError
        Fewer than two classes are labelled.
    """
    target = np.eye(n_classes)[labels.class_id] if labels.probs is None else labels.probs
    weight = np.ones(len(labels)) if weight is None else np.asarray(weight, float)
    mass = (target * weight[:, None]).sum(axis=0)
    if (mass > 0).sum() < 2:
        raise DataError("a student needs labels of at least two classes.")
    if penalty is None:
        penalty = choose_penalty(x, target, weight, group, seed=seed)
    weights, bias = logistic(x, target, weight, penalty=penalty)
    counted = np.repeat(np.arange(n_classes), np.rint(mass).astype(np.int64))
    return Line(weights, bias, log_prior(counted, n_classes), penalty)


def labels_of(dataset: Dataset, probs: Floats) -> Labels:
    """Turn (n, K) probabilities into one label an image.

    Probabilities are rounded to single precision, as they are stored: a run that was killed and
    resumed sees the same numbers as one that was not.
    """
    probs = np.asarray(probs, np.float32).astype(np.float64)
    class_id = probs.argmax(axis=1)
    score = np.clip(probs[np.arange(len(probs)), class_id], 0, 1)
    return Labels(image=dataset.id, class_id=class_id, score=score, probs=probs)


def logistic(x: Floats, target: Floats, weight: Floats, *, penalty: float) -> tuple[Floats, Floats]:
    """Fit L2-regularised multinomial logistic regression to soft targets.

    Parameters
    ----------
    x : (n, d) float
    target : (n, K) float
        Rows sum to one.
    weight : (n,) float
    penalty : float
        Inverse strength: the loss is ``penalty * sum of weighted losses + |w|^2 / 2``.

    Returns
    -------
    weights (K, d), bias (K,)
        A class without any mass gets a bias of -30.
    """
    from sklearn.linear_model import LogisticRegression

    mass = target * weight[:, None]
    row, column = np.nonzero(mass > 1e-6)
    with one_thread():
        basis = None
        if isinstance(x, np.ndarray) and len(x) < x.shape[1]:
            # The penalised weights lie in the span of the rows: fewer columns, the same answer.
            basis = np.linalg.qr(x.T)[0]
            x = x @ basis
        model = LogisticRegression(C=penalty, max_iter=5000, tol=1e-5)
        model.fit(x[row], column, sample_weight=mass[row, column])
    coefficients = model.coef_ if basis is None else model.coef_ @ basis.T
    k = target.shape[1]
    weights, bias = np.zeros((k, coefficients.shape[1])), np.full(k, -30.0)
    if len(model.classes_) == 2:
        weights[model.classes_[1]], bias[model.classes_[1]] = coefficients[0], model.intercept_[0]
        bias[model.classes_[0]] = 0.0
    else:
        weights[model.classes_], bias[model.classes_] = coefficients, model.intercept_
    return weights, bias


def choose_penalty(
    x: Any, target: Floats, weight: Floats, group: NDArray[np.int64], *, seed: int
) -> float:
    """Choose the penalty whose held-out likelihood over patients is best once it is calibrated.

    Without the calibration, a strong penalty wins by saying little rather than by ranking well.
    Where there are fewer than four patients, the penalty in the middle is taken.
    """
    from medloop.prepare.split import group_folds

    if len(np.unique(group)) < 4:
        return PENALTIES[len(PENALTIES) // 2]
    class_id = target.argmax(axis=1)
    losses = np.zeros(len(PENALTIES))
    for repeat in range(2 if len(class_id) < _FEW else 1):
        fold = group_folds(class_id, group, folds=5, seed=seed + repeat)
        probs = np.full((len(PENALTIES), *target.shape), 1 / target.shape[1])
        for held_out in np.unique(fold):
            train, test = fold != held_out, fold == held_out
            if len(np.unique(class_id[train])) < 2:
                continue
            for i, penalty in enumerate(PENALTIES):
                weights, bias = logistic(x[train], target[train], weight[train], penalty=penalty)
                probs[i, test] = softmax(np.asarray(x[test] @ weights.T) + bias)
        for i in range(len(PENALTIES)):
            said = tempered(probs[i], fit_temperature(probs[i], class_id))
            loss = -(target * np.log(np.clip(said, 1e-12, 1))).sum(axis=1)
            losses[i] += float((loss * weight).sum())
    return PENALTIES[int(np.argmin(losses))]
