"""What a network is asked of an image: which one of the classes it shows, or which findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.presence import table
from medloop.students.calibration import log_prior, softmax
from medloop.students.logistic import labels_of
from medloop.students.training import weighted_targets

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is learned of n images.

    Parameters
    ----------
    image : (n,) int
        Ids of the images.
    target : (n, D) float
        What the loss takes of each; linear in the labels and their weights, so that two images may
        be mixed.
    kind : (n,) int
        Kinds of images, drawn equally often where sampling is balanced.
    prior : (K,) float
        Logit of each class before an image is seen, but for a number added to all.
    """

    image: Ints
    target: Floats
    kind: Ints
    prior: Floats


class Output(Protocol):
    """One meaning of the K logits of a network."""

    def lesson(
        self, dataset: Dataset, labels: Labels, weight: Floats | None, smoothing: float
    ) -> Lesson:
        """Make of labels and their weights what the loss takes.

        Raises
        ------
        DataError
            There is nothing to learn, or labels or weights do not fit the data set.
        """
        ...

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch: (n, K) logits, (n, D) targets of a lesson."""
        ...

    def probs(self, logits: Floats) -> Floats:
        """Turn (n, K) logits into probabilities."""
        ...

    def labels(self, dataset: Dataset, logits: Floats) -> Labels:
        """Say what (n, K) logits mean, in the order of the data set."""
        ...


class OneClass:
    """An image shows one of the classes: softmax, and cross-entropy."""

    def lesson(
        self, dataset: Dataset, labels: Labels, weight: Floats | None, smoothing: float
    ) -> Lesson:
        """Take one label an image, or its ``probs``."""
        rows, target, class_id = weighted_targets(dataset, labels, weight, smoothing)
        prior = log_prior(class_id, len(dataset.classes))
        return Lesson(labels.image[rows], target, class_id, prior)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy."""
        import torch

        return -(target * torch.log_softmax(logits, dim=1)).sum(1).mean()

    def probs(self, logits: Floats) -> Floats:
        """Return rows that sum to one."""
        return softmax(logits)

    def labels(self, dataset: Dataset, logits: Floats) -> Labels:
        """Return one label an image, with ``probs``."""
        return labels_of(dataset, softmax(logits))


class Findings:
    """Each class is a finding that is there or not: K sigmoids, and K binary cross-entropies.

    Labels are a table, see :mod:`medloop.presence`: a row says how probable one finding is in one
    image. A finding without a row, or of weight 0, is not learned in that image.
    """

    def lesson(
        self, dataset: Dataset, labels: Labels, weight: Floats | None, smoothing: float
    ) -> Lesson:
        """Take the rows of a table; ``target`` is (n, 2 K): weighted targets, then weights.

        Weights are divided by their mean over all images and findings, so that those without a
        label count as 0 and the loss is the weighted mean over those with one.
        """
        k = len(dataset.classes)
        image, score, mass = _dense(labels, k, _weight(labels, weight))
        wanted = (1 - smoothing) * score + smoothing / 2
        there = ((wanted > 0.5) & (mass > 0)).sum(axis=0)
        shown = mass.sum(axis=0)
        share = ((mass * score).sum(axis=0) + 1.0) / (shown + 2.0)
        mass = mass / mass.mean()
        return Lesson(
            image,
            np.hstack([mass * wanted, mass]),
            _rarest((wanted > 0.5) & (mass > 0), there),
            np.asarray(np.log(share) - np.log1p(-share)),
        )

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean of the weighted binary cross-entropies; its gradient is exact."""
        from torch.nn import functional

        wanted, mass = target.chunk(2, dim=1)
        return (mass * functional.softplus(logits) - wanted * logits).mean()

    def probs(self, logits: Floats) -> Floats:
        """Return the probability of each finding on its own."""
        return softmax(np.stack([np.zeros_like(logits), logits], axis=-1))[..., 1]

    def labels(self, dataset: Dataset, logits: Floats) -> Labels:
        """Return a row for every image and finding."""
        return table(dataset.id, self.probs(logits))


def output_of(several: bool) -> Output:
    """Return what the logits of a network mean.

    Examples
    --------
    >>> output_of(True).probs(np.zeros((1, 3))).tolist()
    [[0.5, 0.5, 0.5]]
    """
    return Findings() if several else OneClass()


def moved_head(
    state: Mapping[str, torch.Tensor], slope: Floats, shift: Floats
) -> dict[str, torch.Tensor]:
    """Multiply each logit, and then shift it, in the weights of the head.

    Parameters
    ----------
    state : mapping of str to tensor
        Of a ``Classifier``.
    slope, shift : (K,) float
    """
    import torch

    weight, bias = state["head.weight"].double(), state["head.bias"].double()
    # copies: an array may be read-only
    times, plus = torch.tensor(slope.copy()), torch.tensor(shift.copy())
    moved = {
        "head.weight": (weight * times[:, None]).float(),
        "head.bias": (bias * times + plus).float(),
    }
    return {**state, **moved}


def _weight(labels: Labels, weight: Floats | None) -> Floats:
    m = len(labels)
    weight = np.ones(m) if weight is None else np.asarray(weight, np.float64)
    if weight.shape != (m,):
        raise DataError(f"weight must have shape (m,) with m={m}, got {weight.shape}.")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise DataError("weight must be finite and 0 or more.")
    if not (weight > 0).any():
        raise DataError(f"no label to learn from: got {m} rows, none with a weight above 0.")
    return weight


def _dense(labels: Labels, k: int, weight: Floats) -> tuple[Ints, Floats, Floats]:
    """Return the images with a label that counts, and (n, K) scores and weights of each finding."""
    rows = np.flatnonzero(weight > 0)
    finding = labels.class_id[rows]
    if finding.max() >= k:
        raise DataError(f"class_id must be below the {k} classes, got {finding.max()}.")
    image, at = np.unique(labels.image[rows], return_inverse=True)
    cell = at * k + finding
    if len(np.unique(cell)) < len(cell):
        raise DataError("a table must have one row for each image and finding, and has more.")
    score, mass = np.zeros((2, len(image) * k))
    score[cell], mass[cell] = labels.score[rows], weight[rows]
    return image, score.reshape(-1, k), mass.reshape(-1, k)


def _rarest(there: NDArray[np.bool_], count: Ints) -> Ints:
    """Number each image by the rarest finding that it holds; one number for those without any."""
    rank = np.where(there, count, np.iinfo(np.int64).max)
    kind = np.where(there.any(axis=1), rank.argmin(axis=1) + 1, 0)
    return np.asarray(np.unique(kind, return_inverse=True)[1].reshape(-1), np.int64)
