"""How a round of ``zero-shot`` corrects the labels of the round before it, and what judges that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medloop.consistency import Consistency, agreement, blend, consistency, corroboration
from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.filters import not_human
from medloop.gate import Verdict
from medloop.labelers.zero_shot import prior_shift
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.noise import propagate, small_loss_weight, suspects
from medloop.prepare.split import group_folds
from medloop.progress import Progress, silent
from medloop.recipes.recipe import taught
from medloop.recipes.several import calibrated
from medloop.students import Student
from medloop.students.calibration import softmax
from medloop.students.logistic import labels_of

if TYPE_CHECKING:
    from medloop.recipes.zero_shot import ZeroShotRecipe

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: By how much a round may agree less with the teacher than the one before (kappa). Rounds that took
#: noise out of the labels lost up to .06, rounds that ran away .1 and more.
_DRIFT = 0.08
#: The round before left one class in a half of the images: there is nothing to tell apart.
ONE_CLASS = Verdict(
    False, "harm", float("nan"), float("nan"), 0, 0, "Refused: the labels have one class left."
)


@dataclass(frozen=True, eq=False)
class Bench:
    """What every step works with.

    Parameters
    ----------
    config : ZeroShotRecipe
    dataset : Dataset
        The training split.
    told : Labels
        The teacher's label of every image, in its order.
    student : Student
        Prepared, and settled on the teacher's labels; adapted to the pool in our mode.
    near : (n, d) float, optional
        Embedding of each image, where labels listen to their neighbours.
    progress : Progress
    agreed : callable, optional
        Returns what ``corroborated`` is, where the students that it needs learn more than this.
    """

    config: ZeroShotRecipe
    dataset: Dataset
    told: Labels
    student: Student
    near: Floats | None = None
    progress: Progress = silent
    agreed: Callable[[], Consistency | None] | None = None

    @cached_property
    def corroborated(self) -> Consistency | None:
        """Whether students that share no patient agree with each other; None: nobody can say.

        Three learn a third of the teacher's labels each, so that two judge every image that have
        not learned from it. Asked of the teacher's own labels, and once: labels made anew from what
        students said would let them agree with themselves.
        """
        if self.agreed is not None:
            return self.agreed()
        third = thirds_of(self.told.class_id, self.dataset, seed=self.config.seed)
        if self.told.probs is None or one_sided(self.told.class_id, third):
            return None
        said = [
            _learned_as_is(self, self.told[third == own]).label(
                self.dataset, progress=self.progress
            )
            for own in range(3)
        ]
        if any(labels.probs is None for labels in said):
            raise DataError("the student gave labels without probs.")
        views = np.stack([labels.probs[:, 1] for labels in said if labels.probs is not None])
        return corroborated_by(views, third, self.told.probs[:, 1])


def thirds_of(classes: Ints, dataset: Dataset, *, seed: int) -> Ints:
    """Deal images to thirds by patient, each with as much of every class; (n,)."""
    return group_folds(classes, dataset.group, folds=3, seed=seed)


def one_sided(classes: Ints, third: Ints) -> bool:
    """Tell whether the labels of a third are of one class, so that nothing is learned from them."""
    return any(len(np.unique(classes[third == own])) < 2 for own in range(3))


def corroborated_by(views: Floats, third: Ints, teacher: Floats) -> Consistency:
    """Compare what students of thirds say of images that neither of two has learned from.

    Parameters
    ----------
    views : (3, n) float
        Probability of the finding by the student of each third.
    third : (n,) int
    teacher : (n,) float
    """
    rows = np.arange(len(third))
    first, second = views[(third + 1) % 3, rows], views[(third + 2) % 3, rows]
    return corroboration(first, second, teacher)


def step_of(bench: Bench) -> Step:
    """Make the step of one question: one class an image, or one finding."""
    make = _ours if bench.config.mode == "ours" else _faithful
    return lambda known, before, number: (
        _teacher(bench, known) if before is None else make(bench, known, before.labels, number)
    )


def _teacher(bench: Bench, known: Labels) -> Proposal:
    """Round 0: the teacher's labels, and for new images the student that learned them as is."""
    return Proposal(as_it_is(bench, known, bench.told), bench.told, kept=0)


def as_it_is(bench: Bench, known: Labels, labels: Labels) -> Student:
    """Learn every label as it is."""
    everything = np.ones(len(labels), bool)
    fitted = _learn(bench, known, labels, everything)
    if not bench.config.multi_label or bench.config.mode != "ours":
        return fitted
    half = group_folds(labels.class_id, bench.dataset.group, folds=2, seed=bench.config.seed)
    if any(len(np.unique(labels.class_id[half != own])) < 2 for own in (0, 1)):
        return fitted
    judged = _judge(bench, known, labels, everything, half)
    moved: Student = calibrated(judged, own_of(judged, half), labels, everything, fitted)[1]
    return moved


def _faithful(bench: Bench, known: Labels, before: Labels, number: int) -> Proposal:
    """Train on every label, wrong ones included."""
    pool = before[not_human(before, known)].with_(probs=None)
    hard = Labels.concat([known, pool])
    fitted = bench.student.fit(bench.dataset, hard, seed=bench.config.seed, progress=bench.progress)
    return Proposal(fitted, fitted.label(bench.dataset, progress=bench.progress), kept=len(pool))


def _ours(bench: Bench, known: Labels, before: Labels, number: int) -> Proposal:
    """Judge every label out of fold, leave the suspects out, and judge again."""
    half = group_folds(
        before.class_id, bench.dataset.group, folds=2, seed=bench.config.seed + number
    )
    everything = np.ones(len(before), bool)
    if any(len(np.unique(before.class_id[half != own])) < 2 for own in (0, 1)):
        fitted = _learn(bench, known, bench.told, everything)
        return Proposal(fitted, before, kept=len(before), evidence=ONE_CLASS)
    if bench.config.multi_label and len(known) == 0:
        found = bench.corroborated
        if found is None or not found.passes:
            return Proposal(bench.student, before, kept=0, evidence=unsupported(found))
    before = heard(bench, known, before)
    first = _judge(bench, known, before, everything, half)
    bad = doubted(bench, before, own_of(first, half))
    left = [before.class_id[~bad & (half != own)] for own in (0, 1)]
    if any(len(np.unique(classes)) < 2 for classes in left):
        bad = ~everything  # leaving them out would leave one class
    judged = _judge(bench, known, before, ~bad, half)
    final = _learn(bench, known, before, ~bad)
    if bench.config.multi_label:
        judged, final = calibrated(judged, own_of(judged, half), before, ~bad, final)
    labels = labels_of(bench.dataset, said_of(bench, own_of(judged, half)))
    kept = int((~bad & not_human(before, known)).sum())
    # what explained the teacher's labels before this round: at first, all of them as they are
    then = own_of(first, half).argmax(axis=1) if number == 1 else before.class_id
    evidence = evidence_of(bench, judged, then, labels.class_id)
    return Proposal(final, labels, kept=kept, evidence=evidence)


def heard(bench: Bench, known: Labels, before: Labels) -> Labels:
    """Let every image listen to its nearest neighbours, where that was asked for."""
    if bench.near is None or before.probs is None:
        return before
    certain = ~not_human(before, known)
    probs = propagate(bench.near, before.probs, neighbours=bench.config.neighbours, clamp=certain)
    return labels_of(bench.dataset, probs)


def doubted(bench: Bench, before: Labels, probs: Floats) -> Mask:
    """Say which labels are not learned from, judged by probabilities out of fold."""
    if bench.config.drop == "suspects":
        return suspects(before.class_id, probs)
    if bench.config.drop == "large_loss":
        return np.asarray(small_loss_weight(before.class_id, probs) == 0)
    return np.zeros(len(before), bool)


def said_of(bench: Bench, own: Floats) -> Floats:
    """Say what the images hold: what students say out of fold, of findings beside the teacher."""
    if not bench.config.multi_label or bench.told.probs is None:
        return _anchored(bench, own)
    found = bench.corroborated
    sure = 1.0 if found is None else found.reliability
    there = blend(bench.told.probs[:, 1], own[:, 1], reliability=sure)
    return _anchored(bench, np.column_stack([1 - there, there]))


def _anchored(bench: Bench, probs: Floats) -> Floats:
    """Keep each class as common as the teacher has it: rounds would let the rare ones vanish."""
    if not bench.config.anchor:
        return probs
    count = np.bincount(bench.told.class_id, minlength=probs.shape[1]) + 0.5
    logits = np.log(np.clip(probs, 1e-12, None))
    return np.asarray(softmax(logits + prior_shift(logits, count / count.sum())))


def _judge(
    bench: Bench, known: Labels, before: Labels, keep: Mask, half: NDArray[np.int64]
) -> list[Floats]:
    """Let two students that share no patient judge all images: (n, K) by each."""
    found = []
    for own in (0, 1):
        fitted = _learn(bench, known, before, keep & (half != own))
        probs = fitted.label(bench.dataset, progress=bench.progress).probs
        if probs is None:
            raise DataError("the student gave labels without probs.")
        found.append(probs)
    return found


def own_of(judged: list[Floats], half: NDArray[np.int64]) -> Floats:
    """Take for every image what the student says that did not learn from its half."""
    return np.where((half == 0)[:, None], judged[0], judged[1])


def _learned_as_is(bench: Bench, labels: Labels) -> Student:
    return _learn(bench, Labels.empty(), labels, np.ones(len(labels), bool))


def _learn(bench: Bench, known: Labels, before: Labels, keep: Mask) -> Student:
    """Fit to the kept machine labels, and to a person's labels with more weight."""
    machine = before[keep & not_human(before, known)]
    classes = len(bench.dataset.classes)
    taken = machine if bench.config.soft else machine.with_(probs=np.eye(classes)[machine.class_id])
    trust = bench.config.trust if len(known) else 1.0
    labels, weight = taught(known, taken, classes=classes, trust=trust)
    if bench.config.anchor and len(machine):
        whole = before[not_human(before, known)]
        weight[len(known) :] *= as_common(machine.class_id, whole.class_id)
    return bench.student.fit(
        bench.dataset, labels, weight=weight, seed=bench.config.seed, progress=bench.progress
    )


def as_common(kept: Ints, whole: Ints) -> Floats:
    """Weigh labels so that each class is as common among those kept as among all; (m,).

    Examples
    --------
    >>> as_common(np.array([0, 1]), np.array([0, 1, 1, 1])).tolist()
    [0.5, 1.5]
    """
    classes = int(whole.max()) + 1
    share = np.bincount(whole) / np.maximum(np.bincount(kept, minlength=classes), 1)
    return np.asarray(share[kept] * len(kept) / len(whole))


def unsupported(found: Consistency | None) -> Verdict:
    """Refuse to correct a teacher whose students know too little."""
    nan = float("nan")
    why = "too few patients show each answer" if found is None else found.sentence
    return Verdict(False, "harm", nan, nan, 0, 0, f"Refused: {why}")


def evidence_of(bench: Bench, judged: list[Floats], then: Ints, now: Ints) -> Verdict:
    """Say what stands in for a gate where no person labelled anything.

    Labels that are made anew from themselves drift. The teacher's labels, wrong ones included, are
    the only outside view: a round that explains them worse than the round before is refused.
    """
    if bench.told.probs is None:
        raise DataError("the teacher gave labels without probs.")
    found = consistency(judged[0], judged[1], bench.told.probs)
    before, after = (agreement(labels, bench.told.class_id) for labels in (then, now))
    drifts = after < before - _DRIFT
    passes = found.passes and not drifts
    said = f"{'Kept' if passes else 'Refused'}: {found.sentence}"
    if drifts:
        said += (
            f" The labels drift away from the teacher's: agreement (kappa) {before:.2f} before, "
            f"{after:.2f} now."
        )
    nan = float("nan")
    return Verdict(passes, "" if passes else "harm", nan, nan, 0, 0, said)
