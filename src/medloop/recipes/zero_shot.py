"""Class names alone: a teacher's labels train a student that corrects them.

The published method (chest and breast images; headline: +6 and +8 points of F1 over CLIP):

1. Zero-shot CLIP labels every image, from an ensemble of prompts made of the class names.
2. These labels, wrong ones included, train a classifier.
3. Student and teacher are compared on held-out images against the truth, over 30 random splits.

Round 0 delivers the teacher's labels. ``faithful`` then trains the student on all of them as they
are. ``ours`` learns in the space of the pool, scores every image out of fold (no image is judged by
a student that learned its label), leaves out the labels that confident learning suspects, learns
again without them, and repeats from its own labels. Asked for, it learns from soft labels, leaves
out the labels of large loss instead, lets every image listen to its nearest neighbours, or keeps
each class as common as the teacher has it (``soft``, ``drop=large_loss``, ``neighbours``,
``anchor``); none of these gained on the sets that settings were chosen on.

A handful of a person's labels is learned from too, and judges every round. Without any, two
students that share no patient must agree with each other at least as well as with the teacher, and
a round must explain the teacher's labels as well as the round before; that verifies nothing, and
the output says so.

An image may hold several findings (``multi_label``), or none: then each finding is a question of
its own, and all that is said here holds for each (see ``medloop.recipes.several``). Most findings
are rare, so ``ours`` calibrates each out of fold, and leaves the rarest as the teacher has them.
Teachers may know one finding nearly perfectly of which a student learns little: so a finding is
touched only where students that share no patient agree about it, and what is delivered joins what
teacher and student say, each weighed by how far the others bear it out (``consistency.blend``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from medloop.consistency import Consistency, agreement, blend, consistency, corroboration
from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.filters import not_human
from medloop.gate import Verdict
from medloop.labelers.zero_shot import prior_shift
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.noise import propagate, small_loss_weight, suspects
from medloop.prepare.split import group_folds
from medloop.presence import question
from medloop.progress import Progress, silent
from medloop.recipes.recipe import Recipe, taught
from medloop.recipes.several import (
    FEWEST,
    Each,
    Labeler,
    Question,
    asked,
    calibrated,
    step_of_each,
)
from medloop.students import Student
from medloop.students.calibration import softmax
from medloop.students.logistic import labels_of

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


class ZeroShotRecipe(Recipe):
    """The recipe's own settings, with their defaults."""

    needs_labels: ClassVar[bool] = False

    recipe: Literal["zero-shot"] = "zero-shot"
    student: Literal["patches", "network"] = "patches"
    clip: str = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    prompts: str | None = None
    teacher: str | None = None
    #: Whether an image may hold none, one or several of the classes, which are findings then.
    multi_label: bool = False
    prior: Literal["none", "uniform"] = "none"
    trust: float = Field(default=0.3, gt=0, le=1)
    drop: Literal["suspects", "large_loss", "none"] = "suspects"
    soft: bool = False
    anchor: bool = False
    neighbours: int = Field(default=0, ge=0, le=100)

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``multi_label`` out where it is not asked for: older workspaces do not name it."""
        said: dict[str, Any] = dump(self)
        if not self.multi_label:
            said.pop("multi_label", None)
        return said

    def steps(
        self,
        dataset: Dataset,
        known: Labels,
        student: Student,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Step:
        """Make the step of the loop; see :func:`steps`."""
        teacher = self.labeler(dataset, known, folder=folder, progress=progress)
        return steps(self, dataset, teacher, student, folder=folder, progress=progress)

    def labeler(
        self, dataset: Dataset, known: Labels, *, folder: Path | None, progress: Progress
    ) -> Labeler:
        """Prepare the teacher: a CLIP-like model, a table of probabilities, or report text.

        Raises
        ------
        UsageError, DataError, MissingError
            Whatever the table, the prompts or the model do not allow.
        """
        other_clip = self.clip != type(self).model_fields["clip"].default
        if self.teacher is not None and (self.prompts is not None or other_clip):
            raise UsageError("--teacher takes the place of --clip and --prompts: name one of them.")
        if self.teacher == "text":
            from medloop.labelers.text import Text

            if len(np.unique(known.class_id)) < len(dataset.classes):
                raise UsageError("--teacher text learns to read: --labels must label every class.")
            text = Text().prepare(dataset)
            if not self.multi_label:
                return text.fit(dataset, known, seed=self.seed)
            said = [question(known, k) for k in range(len(dataset.classes))]
            for name, labels in zip(dataset.classes, said, strict=True):
                if len(np.unique(labels.class_id)) < 2:
                    raise UsageError(
                        f"--teacher text learns to read: --labels must hold images with and "
                        f"without {name!r}."
                    )
            return Each(
                [
                    text.fit(asked(dataset, k), labels.with_(probs=None), seed=self.seed)
                    for k, labels in enumerate(said)
                ]
            )
        if self.teacher is not None:
            from medloop.labelers.teacher import Teacher

            return Teacher(path=self.teacher, multi_label=self.multi_label).prepare(dataset)
        from medloop.labelers.zero_shot import ZeroShot, prompts_of

        prompts = prompts_of(dataset.classes, self.prompts)
        clip = ZeroShot(
            model=self.clip, prompts=prompts, prior=self.prior, multi_label=self.multi_label
        )
        return clip.prepare(dataset, folder=folder, progress=progress)


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
    """

    config: ZeroShotRecipe
    dataset: Dataset
    told: Labels
    student: Student
    near: Floats | None = None
    progress: Progress = silent

    @cached_property
    def corroborated(self) -> Consistency | None:
        """Whether students that share no patient agree with each other; None: nobody can say.

        Three learn a third of the teacher's labels each, so that two judge every image that have
        not learned from it. Asked of the teacher's own labels, and once: labels made anew from what
        students said would let them agree with themselves.
        """
        classes, seed = self.told.class_id, self.config.seed
        third = group_folds(classes, self.dataset.group, folds=3, seed=seed)
        parts = [self.told[third == own] for own in range(3)]
        if self.told.probs is None or any(len(np.unique(part.class_id)) < 2 for part in parts):
            return None
        said = [
            _learned_as_is(self, part).label(self.dataset, progress=self.progress).probs
            for part in parts
        ]
        if any(probs is None for probs in said):
            raise DataError("the student gave labels without probs.")
        views = np.stack([probs[:, 1] for probs in said if probs is not None])
        rows = np.arange(len(third))
        first, second = views[(third + 1) % 3, rows], views[(third + 2) % 3, rows]
        return corroboration(first, second, self.told.probs[:, 1])


def steps(
    config: ZeroShotRecipe,
    dataset: Dataset,
    teacher: Labeler,
    student: Student,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Step:
    """Make the step of the loop: labels of the next round from those of the last.

    Parameters
    ----------
    config : ZeroShotRecipe
    dataset : Dataset
        The training split.
    teacher : Labeler
    student : Student
        Prepared on that split, not fitted.
    folder : Path, optional
        Where what is learned from the pool is kept for a resumed run.
    progress : Progress

    Raises
    ------
    DataError
        The teacher gives all images one class.
    """
    told = teacher.label(dataset)
    if not config.multi_label and len(np.unique(told.class_id)) < 2:
        name = dataset.classes[int(told.class_id[0])]
        raise DataError(f"the teacher labels every image {name!r}: there is nothing to learn.")
    if config.mode == "ours" and config.rounds > 0:
        student = student.adapt(dataset, seed=config.seed, folder=folder, progress=progress)
    near = _embedding(teacher, student, dataset) if config.neighbours else None

    def bench_of(dataset: Dataset, told: Labels) -> Bench:
        settled = student.settle(dataset, told, seed=config.seed)
        return Bench(config, dataset, told, settled, near, progress)

    if not config.multi_label:
        return _step(bench_of(dataset, told))

    def ask(dataset: Dataset, told: Labels) -> Question:
        bench = bench_of(dataset, told)
        return Question(_step(bench), lambda known, labels: _as_it_is(bench, known, labels))

    fewest = FEWEST if config.mode == "ours" else 0
    return step_of_each(dataset, told, student, ask, fewest=fewest)


def _step(bench: Bench) -> Step:
    make = _ours if bench.config.mode == "ours" else _faithful
    return lambda known, before, number: (
        _teacher(bench, known) if before is None else make(bench, known, before.labels, number)
    )


def several(config: Recipe) -> bool:
    """Tell whether a recipe's images may hold several findings, or none."""
    return isinstance(config, ZeroShotRecipe) and config.multi_label


def _teacher(bench: Bench, known: Labels) -> Proposal:
    """Round 0: the teacher's labels, and for new images the student that learned them as is."""
    return Proposal(_as_it_is(bench, known, bench.told), bench.told, kept=0)


def _as_it_is(bench: Bench, known: Labels, labels: Labels) -> Student:
    """Learn every label as it is."""
    everything = np.ones(len(labels), bool)
    fitted = _learn(bench, known, labels, everything)
    if not bench.config.multi_label or bench.config.mode != "ours":
        return fitted
    half = group_folds(labels.class_id, bench.dataset.group, folds=2, seed=bench.config.seed)
    if any(len(np.unique(labels.class_id[half != own])) < 2 for own in (0, 1)):
        return fitted
    judged = _judge(bench, known, labels, everything, half)
    moved: Student = calibrated(judged, _own(judged, half), labels, everything, fitted)[1]
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
            return Proposal(bench.student, before, kept=0, evidence=_unsupported(found))
    before = _heard(bench, known, before)
    first = _judge(bench, known, before, everything, half)
    bad = _doubted(bench, before, _own(first, half))
    left = [before.class_id[~bad & (half != own)] for own in (0, 1)]
    if any(len(np.unique(classes)) < 2 for classes in left):
        bad = ~everything  # leaving them out would leave one class
    judged = _judge(bench, known, before, ~bad, half)
    final = _learn(bench, known, before, ~bad)
    if bench.config.multi_label:
        judged, final = calibrated(judged, _own(judged, half), before, ~bad, final)
    labels = labels_of(bench.dataset, _said(bench, _own(judged, half)))
    kept = int((~bad & not_human(before, known)).sum())
    # what explained the teacher's labels before this round: at first, all of them as they are
    then = _own(first, half).argmax(axis=1) if number == 1 else before.class_id
    evidence = _evidence(bench, judged, then, labels.class_id)
    return Proposal(final, labels, kept=kept, evidence=evidence)


def _embedding(teacher: Labeler, student: Student, dataset: Dataset) -> Floats:
    """Return (n, d) features whose distances mean something: the teacher's, or the student's."""
    for one, name in ((teacher, "embeddings"), (student, "embed")):
        embed = getattr(one, name, None)
        if embed is not None:
            return np.asarray(embed(dataset), np.float64)
    raise UsageError(
        "neighbours needs features to compare images by: a CLIP-like teacher, or student patches."
    )


def _heard(bench: Bench, known: Labels, before: Labels) -> Labels:
    """Let every image listen to its nearest neighbours, where that was asked for."""
    if bench.near is None or before.probs is None:
        return before
    certain = ~not_human(before, known)
    probs = propagate(bench.near, before.probs, neighbours=bench.config.neighbours, clamp=certain)
    return labels_of(bench.dataset, probs)


def _doubted(bench: Bench, before: Labels, probs: Floats) -> Mask:
    """Say which labels are not learned from, judged by probabilities out of fold."""
    if bench.config.drop == "suspects":
        return suspects(before.class_id, probs)
    if bench.config.drop == "large_loss":
        return np.asarray(small_loss_weight(before.class_id, probs) == 0)
    return np.zeros(len(before), bool)


def _said(bench: Bench, own: Floats) -> Floats:
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


def _own(judged: list[Floats], half: NDArray[np.int64]) -> Floats:
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
        share = np.bincount(whole.class_id, minlength=classes) / np.maximum(
            np.bincount(machine.class_id, minlength=classes), 1
        )
        weight[len(known) :] *= share[machine.class_id] * len(machine) / len(whole)
    return bench.student.fit(
        bench.dataset, labels, weight=weight, seed=bench.config.seed, progress=bench.progress
    )


def _unsupported(found: Consistency | None) -> Verdict:
    """Refuse to correct a teacher whose students know too little."""
    nan = float("nan")
    why = "too few patients show each answer" if found is None else found.sentence
    return Verdict(False, "harm", nan, nan, 0, 0, f"Refused: {why}")


def _evidence(bench: Bench, judged: list[Floats], then: Ints, now: Ints) -> Verdict:
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
