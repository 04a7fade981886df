"""How good the findings of a round are, where a person's labels can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.evaluation import compare_aucs, curve_of, finite, number
from medloop.gate import LEAST_GROUPS, LEAST_OF_A_CLASS, Gate, Verdict
from medloop.labels import Labels
from medloop.metrics import calibration_error
from medloop.presence import present
from medloop.roc import auc
from medloop.stats import bootstrap, delong

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JudgedFindings:
    """A person's findings and a student's probabilities of the same images.

    Parameters
    ----------
    image, group : (n,) int
    truth : (n, K) int
        1 where a person sees the finding, 0 where not.
    probs : (n, K) float
    """

    image: Ints
    truth: Ints
    probs: Floats
    group: Ints

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, eq=False)
class Presence:
    """Probabilities of the findings of some images.

    Parameters
    ----------
    image : (n,) int
    probs : (n, K) float
    """

    image: Ints
    probs: Floats


def judge_findings(dataset: Dataset, truth: Labels, labels: Labels) -> JudgedFindings:
    """Bring a person's table and a student's together, in order of the ids.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> from medloop.presence import table
    >>> dataset = Dataset(pixels=ArrayPixels({}), file=["a", "b"], classes=["mass", "node"])
    >>> judged = judge_findings(dataset, table([1], [[0, 1]]), table([0, 1], [[0.1, 1], [0.5, 0]]))
    >>> judged.truth.tolist(), judged.probs.tolist()
    ([[0, 1]], [[0.5, 0.0]])
    """
    k = len(dataset.classes)
    image = np.intersect1d(truth.image, labels.image)
    group = dataset.group[dataset.position(image)]
    there = present(truth, image, k) > 0.5
    return JudgedFindings(image, there.astype(np.int64), present(labels, image, k), group)


def evaluate_findings(
    judged: JudgedFindings, classes: tuple[str, ...], *, seed: int
) -> dict[str, Any] | None:
    """Return every figure with its interval, ready for JSON; None where nothing was judged.

    ``mean_auc`` is the mean over the findings that some images hold and others do not; ``whole``
    the share of images of which every finding is right. Intervals: clustered DeLong for one AUC,
    patient bootstrap (2,000 draws) for the others.
    """
    if len(judged) == 0:
        return None
    truth, given = judged.truth == 1, judged.probs > 0.5
    rows = []
    for k, name in enumerate(classes):
        positive, score = truth[:, k], judged.probs[:, k]
        row: dict[str, Any] = {"class": name, "support": int(positive.sum())}
        row |= {"auc": None, "auc_interval": None, "roc": None}
        if positive.any() and not positive.all():
            one = delong(positive, score, group=judged.group)
            row |= {"auc": auc(positive, score), "auc_interval": finite(one.interval)}
            row["roc"] = curve_of(positive, score)
        both = np.column_stack([1 - score, score])
        row["calibration_error"] = number(calibration_error(judged.truth[:, k], both))
        rows.append(row | {name: value[k] for name, value in scores(truth, given).items()})
    figures: dict[str, Any] = {
        "n": len(judged),
        "patients": len(np.unique(judged.group)),
        "classes": list(classes),
        "per_class": rows,
    }
    for name, statistic, values in (
        ("mean_auc", mean_auc, (truth, judged.probs)),
        ("macro_f1", macro_f1, (truth, given)),
        ("whole", _share, ((truth == given).all(axis=1),)),
    ):
        drawn = bootstrap(statistic, *values, group=judged.group, seed=seed)
        figures[name] = number(drawn.estimate)
        figures[f"{name}_interval"] = finite(drawn.interval)
    return figures


def compare_findings(
    before: JudgedFindings, after: JudgedFindings, classes: tuple[str, ...], *, seed: int
) -> dict[str, Any]:
    """Compare two students on the same images: DeLong a finding with Holm, and the mean AUC."""
    there = before.truth == 1
    rows = compare_aucs(
        {
            name: (there[:, k], before.probs[:, k], after.probs[:, k])
            for k, name in enumerate(classes)
        },
        before.group,
    )
    drawn = bootstrap(_gained, there, before.probs, after.probs, group=before.group, seed=seed)
    return {
        "delong": rows,
        "mean_auc_difference": number(drawn.estimate),
        "mean_auc_interval": finite(drawn.interval),
    }


def gain_kept(
    gate: Gate,
    before: JudgedFindings,
    after: JudgedFindings,
    *,
    seed: int,
    machine_taught: bool,
) -> Verdict:
    """Test that ``after`` is not worse than ``before``: `do_no_harm` for several findings.

    Judged is the mean AUC over the findings, by patient bootstrap (2,000 draws): it must gain, and
    where the round learned from machine labels its loss must be shown to stay below the margin.
    """
    truth, n_groups = before.truth == 1, len(np.unique(before.group))
    counts = np.minimum(truth.sum(axis=0), (~truth).sum(axis=0))
    difference = lower = float("nan")
    if n_groups >= LEAST_GROUPS and (counts >= LEAST_OF_A_CLASS).any():
        drawn = bootstrap(_gained, truth, before.probs, after.probs, group=before.group, seed=seed)
        difference = drawn.estimate
        lower = float(np.quantile(drawn.values, 1 - gate.confidence))
    about = f"{len(before)} held-out images of {n_groups} patients"
    if not np.isfinite([difference, lower]).all():
        nan, reason = float("nan"), "too_few" if machine_taught else ""
        said = (
            f"{'Refused' if machine_taught else 'Kept unverified'}: {about} are too few to show "
            "that the round does no harm."
        )
        return Verdict(not machine_taught, reason, nan, nan, len(before), n_groups, said)
    reason = ""
    if machine_taught and not lower > -gate.margin:
        reason = "harm"
    elif not difference > 0:
        reason = "no_gain"
    needed = f"above {-gate.margin:+.3f}, and a gain" if machine_taught else "a gain"
    said = (
        f"{'Refused' if reason else 'Kept'}: the mean AUC of the findings on {about} changed by "
        f"{difference:+.3f}; with {gate.confidence:.0%} confidence the change is above "
        f"{lower:+.3f} (needed: {needed})."
    )
    return Verdict(not reason, reason, difference, lower, len(before), n_groups, said)


# -- figures of arrays --------------------------------------------------------------------------


def scores(truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Return precision, recall and F1 of each finding; 0 where nothing was given, or is there.

    Examples
    --------
    >>> scores(np.array([[True], [True], [False]]), np.array([[True], [False], [False]]))["f1"]
    [0.6666666666666666]
    """
    hits, called, support = (x.sum(axis=0) for x in (truth & given, given, truth))
    return {
        "precision": (hits / np.maximum(called, 1)).tolist(),
        "recall": (hits / np.maximum(support, 1)).tolist(),
        "f1": (2 * hits / np.maximum(called + support, 1)).tolist(),
    }


def aucs(truth: NDArray[np.bool_], probs: Floats) -> Floats:
    """Return (K,) the AUC of each finding; nan where all images hold it, or none.

    Examples
    --------
    >>> aucs(np.array([[True, True], [False, True]]), np.array([[0.9, 0.1], [0.2, 0.3]])).tolist()
    [1.0, nan]
    """
    found = np.full(truth.shape[1], np.nan)
    for k in range(truth.shape[1]):
        if truth[:, k].any() and not truth[:, k].all():
            found[k] = auc(truth[:, k], probs[:, k])
    return found


def mean_auc(truth: NDArray[np.bool_], probs: Floats) -> float:
    """Return the mean AUC over the findings that have one; nan where none has."""
    found = aucs(truth, probs)
    known = found[np.isfinite(found)]
    return float(known.mean()) if len(known) else float("nan")


def macro_f1(truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    """Return the mean F1 over the findings that are there or were given; nan for none."""
    known = truth.any(axis=0) | given.any(axis=0)
    return float(np.mean(scores(truth[:, known], given[:, known])["f1"])) if known.any() else np.nan


def _gained(truth: NDArray[np.bool_], before: Floats, after: Floats) -> float:
    return mean_auc(truth, after) - mean_auc(truth, before)


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean())
