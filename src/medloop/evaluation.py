"""How good the labels of a round are, where a person's labels can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.metrics import summary
from medloop.roc import roc_curve, weighted_auc
from medloop.stats import bootstrap, delong, holm, mcnemar

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Points of a ROC curve that a report draws; more cannot be told apart.
_CURVE = 200


@dataclass(frozen=True, eq=False)
class Judged:
    """A person's labels and a student's probabilities of the same images.

    Parameters
    ----------
    image, truth, group : (n,) int
    probs : (n, K) float
    """

    image: Ints
    truth: Ints
    probs: Floats
    group: Ints

    def __len__(self) -> int:
        return len(self.image)


def judge(dataset: Dataset, truth: Labels, labels: Labels) -> Judged:
    """Bring a person's labels and a student's together, image by image, in order of the ids.

    Raises
    ------
    DataError
        The student's labels have no ``probs``.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> dataset = Dataset(pixels=ArrayPixels({}), file=["a", "b"], classes=["no", "yes"])
    >>> person = Labels(image=[1], class_id=[0])
    >>> student = Labels(image=[0, 1], class_id=[1, 0], probs=[[0.2, 0.8], [0.7, 0.3]])
    >>> judge(dataset, person, student).probs.tolist()
    [[0.7, 0.3]]
    """
    image, person, student = np.intersect1d(truth.image, labels.image, return_indices=True)
    if labels.probs is None:
        raise DataError("labels can only be judged by their probs, which these do not have.")
    group = dataset.group[dataset.position(image)]
    return Judged(image, truth.class_id[person], labels.probs[student], group)


def evaluate(judged: Judged, classes: tuple[str, ...], *, seed: int) -> dict[str, Any] | None:
    """Return every figure with its interval, ready for JSON; None where nothing was judged.

    Intervals: clustered DeLong for the AUC of a class, patient bootstrap (2,000 draws) for the
    weighted AUC and the accuracy.
    """
    if len(judged) == 0:
        return None
    figures = summary(judged.truth, judged.probs, classes)
    figures["patients"] = len(np.unique(judged.group))
    for k, row in enumerate(figures["per_class"]):
        positive = judged.truth == k
        row["auc_interval"], row["roc"] = None, None
        if positive.any() and not positive.all():
            one = delong(positive, judged.probs[:, k], group=judged.group)
            row["auc_interval"] = finite(one.interval)
            row["roc"] = curve_of(positive, judged.probs[:, k])
    drawn = bootstrap(weighted_auc, judged.truth, judged.probs, group=judged.group, seed=seed)
    figures["weighted_auc_interval"] = finite(drawn.interval)
    right = judged.probs.argmax(axis=1) == judged.truth
    share = bootstrap(lambda r: float(r.mean()), right, group=judged.group, seed=seed)
    figures["accuracy_interval"] = finite(share.interval)
    return figures


def compare_aucs(
    questions: Mapping[str, tuple[Mask, Floats, Floats]], group: Ints
) -> list[dict[str, Any]]:
    """Compare the AUC of two scores for each question: DeLong by patient, corrected by Holm.

    Parameters
    ----------
    questions : mapping of str to ((n,) bool, (n,) float, (n,) float)
        Which images are positive, and the score before and after; by the name of a class.
        One without positives or without negatives is left out.
    group : (n,) int
    """
    rows: list[dict[str, Any]] = []
    for name, (positive, before, after) in questions.items():
        if not positive.any() or positive.all():
            continue
        tested = delong(positive, before, after, group=group)
        rows.append(
            {
                "class": name,
                "before": tested.aucs[0],
                "after": tested.aucs[1],
                "difference": tested.difference,
                "interval": finite(tested.interval),
                "p": number(tested.p),
            }
        )
    if rows and all(row["p"] is not None for row in rows):
        for row, p in zip(rows, holm([row["p"] for row in rows]).tolist(), strict=True):
            row["p_holm"] = p
    return rows


def compare(
    before: Judged, after: Judged, classes: tuple[str, ...], *, seed: int
) -> dict[str, Any]:
    """Compare two students on the same images: DeLong a class with Holm, McNemar, bootstrap."""
    rows = compare_aucs(
        {
            name: (before.truth == k, before.probs[:, k], after.probs[:, k])
            # the AUC of one of two classes is that of the other
            for k, name in enumerate(classes)
            if not (len(classes) == 2 and k == 0)
        },
        before.group,
    )
    drawn = bootstrap(
        lambda t, a, b: weighted_auc(t, b) - weighted_auc(t, a),
        before.truth,
        before.probs,
        after.probs,
        group=before.group,
        seed=seed,
    )
    paired = mcnemar(
        before.probs.argmax(axis=1) == before.truth, after.probs.argmax(axis=1) == after.truth
    )
    return {
        "delong": rows,
        "weighted_auc_difference": number(drawn.estimate),
        "weighted_auc_interval": finite(drawn.interval),
        "mcnemar": {"only_before": paired.only_a, "only_after": paired.only_b, "p": paired.p},
    }


def curve_of(positive: NDArray[np.bool_], score: Floats) -> dict[str, list[float]]:
    """Return the points of a ROC curve that a report draws."""
    fpr, tpr, _ = roc_curve(positive, score)
    picked = np.unique(np.linspace(0, len(fpr) - 1, min(_CURVE, len(fpr))).round().astype(int))
    return {"fpr": fpr[picked].round(5).tolist(), "tpr": tpr[picked].round(5).tolist()}


def number(value: float) -> float | None:
    """Return None for nan, which JSON does not have."""
    return None if value != value else float(value)


def finite(interval: tuple[float, float]) -> list[float | None]:
    """Return both ends, None for nan."""
    return [number(float(end)) for end in interval]
