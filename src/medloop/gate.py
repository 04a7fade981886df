"""The do-no-harm gate: a round is used only if it is shown not to be worse than the last."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import UsageError
from medloop.roc import weighted_auc
from medloop.stats import bootstrap, delong, non_inferiority

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Fewer patients than this, or images of one class, and no test says anything.
LEAST_GROUPS = 6
LEAST_OF_A_CLASS = 3


@dataclass(frozen=True)
class Gate:
    """A one-sided non-inferiority test on images that no round trained on.

    Parameters
    ----------
    margin : float
        Loss of weighted AUC that would still be accepted, in [0, 1).
    confidence : float
        Of the one-sided test.
    """

    margin: float = 0.03
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise UsageError(f"gate margin must lie in [0, 1), got {self.margin}.")
        if not 0.5 < self.confidence < 1:
            raise UsageError(f"gate confidence must lie in (0.5, 1), got {self.confidence}.")


@dataclass(frozen=True)
class Verdict:
    """What the gate saw.

    Parameters
    ----------
    passes : bool
    reason : str
        Why not: ``"harm"``, ``"no_gain"`` or ``"too_few"``; empty where it passes.
    difference, lower : float
        Change of the weighted AUC, and its lower one-sided bound; nan where nothing was tested.
    n_images, n_groups : int
        Held-out images with a person's label, and their patients.
    sentence : str
    """

    passes: bool
    reason: str
    difference: float
    lower: float
    n_images: int
    n_groups: int
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return every field, None for nan."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


OPEN = Verdict(True, "", float("nan"), float("nan"), 0, 0, "Nothing was tested.")


def do_no_harm(
    gate: Gate,
    truth: Ints,
    before: Floats,
    after: Floats,
    group: Ints,
    *,
    seed: int,
    machine_taught: bool = True,
) -> Verdict:
    """Test that ``after`` is not worse than ``before``.

    Every round must gain on the held-out labels. A round that learned from machine labels may
    confirm its own errors, so it must also be shown not to be worse by more than the margin
    (one-sided non-inferiority), and is refused where the labels are too few to show anything. One
    that learned from no machine label is then kept, with words that say so.

    Two classes: clustered DeLong difference of the AUC. More: patient bootstrap (2,000 draws) of
    the difference of the weighted AUC. The precondition is that neither ``before`` nor ``after``
    was trained on these labels.

    Parameters
    ----------
    gate : Gate
    truth : (n,) int
    before, after : (n, K) float
        Probabilities by the round that is in use, and by the one that wants to be.
    group : (n,) int
        Patient of each image.
    seed : int
    machine_taught : bool
        Whether ``after`` learned from machine labels.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> truth, noise = np.arange(200) % 2, random.random(200)
    >>> weak, good = (np.clip(truth * share + noise * (1 - share), 0, 1) for share in (0.1, 0.3))
    >>> before, after = (np.column_stack([1 - p, p]) for p in (weak, good))
    >>> do_no_harm(Gate(), truth, before, after, np.arange(200), seed=0).passes
    True
    >>> do_no_harm(Gate(), truth, after, before, np.arange(200), seed=0).reason
    'harm'
    >>> do_no_harm(Gate(), truth, after, after, np.arange(200), seed=0).reason
    'no_gain'
    """
    n_groups = len(np.unique(group))
    counts = np.bincount(truth, minlength=before.shape[1])
    difference = lower = float("nan")
    if n_groups >= LEAST_GROUPS and (counts >= LEAST_OF_A_CLASS).sum() >= 2:
        difference, lower = _interval(gate, truth, before, after, group, seed)
    if not np.isfinite([difference, lower]).all():  # also where one patient holds a whole class
        said = (
            f"{'Refused' if machine_taught else 'Kept unverified'}: {len(truth)} held-out labels "
            f"of {n_groups} patients are too few to show that the round does no harm."
        )
        reason = "too_few" if machine_taught else ""
        nan = float("nan")
        return Verdict(not machine_taught, reason, nan, nan, len(truth), n_groups, said)
    reason = ""
    if machine_taught and not lower > -gate.margin:
        reason = "harm"
    elif not difference > 0:
        reason = "no_gain"
    said = (
        f"{'Refused' if reason else 'Kept'}: the weighted AUC on {len(truth)} held-out labels of "
        f"{n_groups} patients changed by {difference:+.3f}; with {gate.confidence:.0%} confidence "
        f"the change is above {lower:+.3f}"
        + (
            f" (needed: above {-gate.margin:+.3f}, and a gain)."
            if machine_taught
            else " (needed: a gain)."
        )
    )
    return Verdict(not reason, reason, difference, lower, len(truth), n_groups, said)


def _interval(
    gate: Gate, truth: Ints, before: Floats, after: Floats, group: Ints, seed: int
) -> tuple[float, float]:
    """Change of the weighted AUC, and its one-sided lower bound."""
    if before.shape[1] == 2:
        result = delong(truth == 1, before[:, 1], after[:, 1], group=group)
        tested = non_inferiority(result, margin=gate.margin, confidence=gate.confidence)
        return tested.difference, tested.lower
    drawn = bootstrap(
        lambda t, a, b: weighted_auc(t, b) - weighted_auc(t, a),
        truth,
        before,
        after,
        group=group,
        seed=seed,
    )
    return drawn.estimate, float(np.quantile(drawn.values, 1 - gate.confidence))


def quality_kept(
    gate: Gate,
    before: Floats,
    after: Floats,
    group: Ints,
    *,
    seed: int,
    what: str,
    things: str = "objects",
) -> Verdict:
    """Test that a person's held-out objects are found as well ``after`` as ``before``.

    One-sided non-inferiority of the mean quality by patient bootstrap (2,000 draws). A round adds
    labels, which is what it is for: it need not raise the quality, only not lower it by the margin.

    Parameters
    ----------
    gate : Gate
        Its margin is a share of the quality.
    before, after : (n,) float
        Quality in [0, 1] of each object that a person labelled, 0 where it was not found; by
        students that have not seen the labels.
    group : (n,) int
        Patient of each object.
    seed : int
    what, things : str
        The quality, and what has it, in words.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> old = random.random(100)
    >>> better, worse = np.clip(old + 0.05, 0, 1), np.clip(old - 0.2, 0, 1)
    >>> each = np.arange(100)
    >>> [quality_kept(Gate(), old, new, each, seed=0, what="overlap").passes
    ...  for new in (better, worse)]
    [True, False]
    """
    n_groups = len(np.unique(group))
    if n_groups < LEAST_GROUPS:
        said = (
            f"Refused: {len(before)} held-out {things} of {n_groups} patients are too few to show "
            "that the round does no harm."
        )
        nan = float("nan")
        return Verdict(False, "too_few", nan, nan, len(before), n_groups, said)
    drawn = bootstrap(lambda a, b: float((b - a).mean()), before, after, group=group, seed=seed)
    lower = float(np.quantile(drawn.values, 1 - gate.confidence))
    passes = lower > -gate.margin
    said = (
        f"{'Kept' if passes else 'Refused'}: the mean {what} of {len(before)} held-out {things} of "
        f"{n_groups} patients changed by {drawn.estimate:+.3f}; with {gate.confidence:.0%} "
        f"confidence the change is above {lower:+.3f} (needed: above {-gate.margin:+.3f})."
    )
    return Verdict(
        passes, "" if passes else "harm", drawn.estimate, lower, len(before), n_groups, said
    )


def few_invented(
    gate: Gate,
    before: NDArray[Any],
    after: NDArray[Any],
    objects: NDArray[Any],
    group: Ints,
    *,
    seed: int,
    margin: float,
) -> Verdict:
    """Test that a round sees no more objects that are not there than the round before.

    What is tested is the rise of the false findings for each object of a person's, on held-out
    images: ``(sum(after) - sum(before)) / sum(objects)``. Its one-sided upper bound by patient
    bootstrap (2,000 draws) must lie below the margin. Objects that a person missed count as false
    findings too, in both rounds: the rate itself says little, its rise does.

    Parameters
    ----------
    gate : Gate
        Only its confidence is used.
    before, after : (n,) int
        Findings in each held-out image that meet no object of a person's, by students that have
        not seen these labels.
    objects : (n,) int
        A person's objects in each image.
    group : (n,) int
        Patient of each image.
    seed : int
    margin : float
        False findings for each object that would still be accepted.

    Examples
    --------
    >>> none, some = np.zeros(40, int), np.arange(40) % 4 == 0
    >>> one = np.ones(40, int)
    >>> [few_invented(Gate(), none, after, one, np.arange(40), seed=0, margin=0.1).passes
    ...  for after in (none, some)]
    [True, False]
    """
    n_groups = len(np.unique(group))
    if n_groups < LEAST_GROUPS or not (objects > 0).any():
        said = (
            f"Refused: {len(before)} held-out images of {n_groups} patients are too few to show "
            "that the round invents nothing."
        )
        nan = float("nan")
        return Verdict(False, "too_few", nan, nan, len(before), n_groups, said)
    drawn = bootstrap(
        lambda a, b, all_of: float((b - a).sum() / all_of.sum()) if all_of.any() else float("nan"),
        np.asarray(before, np.float64),
        np.asarray(after, np.float64),
        np.asarray(objects, np.float64),
        group=group,
        seed=seed,
    )
    upper = float(np.nanquantile(drawn.values, gate.confidence))
    passes = upper < margin
    said = (
        f"{'Kept' if passes else 'Refused'}: false findings for each of {int(objects.sum())} "
        f"held-out objects changed by {drawn.estimate:+.3f}; with {gate.confidence:.0%} confidence "
        f"the change is below {upper:+.3f} (needed: below {margin:+.3f})."
    )
    return Verdict(
        passes, "" if passes else "harm", -drawn.estimate, -upper, len(before), n_groups, said
    )


def both(first: Verdict, second: Verdict) -> Verdict:
    """Join two verdicts of one round: it is used only if both pass.

    Each test alone lets a harmful round through with at most 1 - confidence, so both together do.
    The numbers are those of the first that refuses, or of the first; the sentence has both.

    Examples
    --------
    >>> kept = Verdict(True, "", 0.1, 0.0, 9, 9, "Kept: all found.")
    >>> harm = Verdict(False, "harm", -0.2, -0.3, 9, 9, "Refused: one invented.")
    >>> both(kept, harm).sentence
    'Refused: one invented. All found.'
    """
    order = (second, first) if first.passes and not second.passes else (first, second)
    told = order[1].sentence.partition(": ")[2]
    return replace(order[0], sentence=f"{order[0].sentence} {told[:1].upper()}{told[1:]}")


def least_sure(score: Floats, right: NDArray[np.bool_], *, precision: float) -> float:
    """Return the lowest score from which at least a share of the findings is right.

    Of the findings with this score or more, ``precision`` or more are right; with any lower score
    of a finding, fewer are. Infinite where no score is so sure.

    Parameters
    ----------
    score : (n,) float
    right : (n,) bool
    precision : float

    Examples
    --------
    >>> score, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True])
    >>> [least_sure(score, right, precision=share) for share in (0.75, 0.9)]
    [0.6, 0.8]
    >>> least_sure(score, ~right, precision=0.9)
    inf
    """
    order = np.argsort(-score, kind="stable")
    level, hits = score[order], np.cumsum(right[order])
    last = np.append(np.diff(level) != 0, True)[: len(level)]  # equal scores stand together
    sure = last & (hits >= precision * np.arange(1, len(level) + 1) - 1e-9)
    return float(level[sure][-1]) if sure.any() else float("inf")
