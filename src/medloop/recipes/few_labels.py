"""A small labelled set labels a large one, and a final model learns from both.

The published method (knee radiographs; headline: weighted AUC .857 -> .903):

1. Train a labeler on the labelled images, or on their report text where there is some.
2. It labels the rest.
3. Train the final classifier on manual and machine labels together.
4. Test on patients of their own.

``faithful`` does just that. ``ours`` adds three things:

- Round 1 learns from the pool, without a label, what may change in an image while its label stays
  (see ``medloop.students.space``). The student ``network``, which has no such space, learns in
  round 1 from the soft labels of the student ``patches`` in that space.
- Later rounds add soft labels of the surest of each class, scored out of fold and made anew every
  round, weighted below a person's.
- A round is used only if held-out labels of a person say so (see ``medloop.gate``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.filters import not_human, surest_of_each_class
from medloop.labelers.text import Text
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.prepare.split import group_folds
from medloop.progress import Progress, silent
from medloop.recipes.recipe import Recipe, taught
from medloop.students import Student, make_student
from medloop.students.logistic import labels_of


class FewLabels(Recipe):
    """The recipe's own settings, with their defaults."""

    recipe: Literal["few-labels"] = "few-labels"
    student: Literal["patches", "network"] = "patches"
    labeler: Literal["auto", "image", "text"] = "auto"
    text_model: str = "tfidf"
    share: float = Field(default=0.5, gt=0, le=1)
    trust: float = Field(default=0.3, gt=0, le=1)

    def steps(
        self,
        dataset: Dataset,
        known: Labels,
        student: Student,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Step:
        """Settle and adapt the student, prepare the labeler, and make the step."""
        seed, ours = self.seed, self.mode == "ours" and self.rounds > 0
        text = None
        told = any(dataset.columns.get("text", ()))
        if self.labeler == "text" or (self.labeler == "auto" and told):
            text = Text(model=self.text_model).prepare(dataset)
        teacher = None
        if ours and text is None and self.student == "network":
            teacher = make_student("patches", {}).prepare(dataset, seed=seed, progress=progress)
            teacher = teacher.remember(dataset, folder=folder, progress=progress)

        def adapt(one: Student) -> Student:
            learned = one.adapt(dataset, seed=seed, folder=folder, progress=progress)
            return learned.settle(dataset, known, seed=seed)

        bench = Bench(
            self,
            dataset,
            student.settle(dataset, known, seed=seed),
            adapt(student) if ours else student,
            adapt(teacher) if teacher is not None else None,
            text,
            len(known),
            progress,
        )
        make = _ours if self.mode == "ours" else _faithful
        return lambda chain, before, number: (
            _baseline(bench, chain) if before is None else make(bench, chain, before.labels, number)
        )


@dataclass(frozen=True, eq=False)
class Bench:
    """What every step works with.

    Parameters
    ----------
    config : FewLabels
    dataset : Dataset
        The training split: labelled images and the pool.
    student : Student
        Prepared on that split, and settled; not fitted.
    adapted : Student
        The same after it has learned from the pool; ``student`` itself in faithful mode.
    teacher : Student, optional
        Labels the pool for a student that cannot adapt.
    text : Text, optional
        Labels the images that have report text.
    everyone : int
        Number of known labels; a chain that knows fewer only judges.
    progress : Progress
    """

    config: FewLabels
    dataset: Dataset
    student: Student
    adapted: Student
    teacher: Student | None
    text: Text | None
    everyone: int
    progress: Progress = silent

    def learn(
        self, student: Student, labels: Labels, weight: NDArray[np.float64] | None = None
    ) -> Student:
        """Fit a student to labels of images of the split."""
        seed, progress = self.config.seed, self.progress
        return student.fit(self.dataset, labels, weight=weight, seed=seed, progress=progress)

    def read(self, fitted: Student, dataset: Dataset | None = None) -> Labels:
        """Label the split, or some of its images."""
        return fitted.label(self.dataset if dataset is None else dataset, progress=self.progress)


def _baseline(bench: Bench, known: Labels) -> Proposal:
    """Round 0: the student learns from a person's labels alone, and labels the pool."""
    fitted = bench.learn(bench.student, known)
    return Proposal(fitted, _read(bench, known, bench.read(fitted)), kept=0)


def _faithful(bench: Bench, known: Labels, before: Labels, number: int) -> Proposal:
    """Train on manual and machine labels, one as good as the other."""
    pool = before[not_human(before, known)]
    hard = Labels.concat([known, pool]).with_(probs=None)
    fitted = bench.learn(bench.student, hard)
    return Proposal(fitted, _read(bench, known, bench.read(fitted)), kept=len(pool))


def _ours(bench: Bench, known: Labels, before: Labels, number: int) -> Proposal:
    """Learn in the space of the pool, from round 2 on also from the surest machine labels."""
    if number == 1 and bench.text is None:
        first = bench.teacher or bench.adapted
        fitted = bench.learn(first, known)
        labels = bench.read(fitted)
        if bench.teacher is None:
            return Proposal(fitted, labels, kept=0)
        before = labels
    pool = before[not_human(before, known)]
    kept = pool[surest_of_each_class(pool, share=1.0 if number == 1 else bench.config.share)]
    final = _learn(bench, known, kept)
    if len(known) < bench.everyone:
        labels = bench.read(final)  # a chain that only judges delivers no label
    else:
        labels = _out_of_fold(bench, known, pool, kept, number)
    return Proposal(final, _read(bench, known, labels), kept=len(kept))


def _out_of_fold(bench: Bench, known: Labels, pool: Labels, kept: Labels, number: int) -> Labels:
    """Score each half of the pool by a student that learned no machine label of that half."""
    dataset = bench.dataset
    group = dataset.group[dataset.position(pool.image)]
    half = group_folds(pool.class_id, group, folds=2, seed=bench.config.seed + number)
    side = np.zeros(len(dataset), np.int64)
    side[dataset.position(pool.image)] = half
    kept_side = side[dataset.position(kept.image)]
    parts = [
        bench.read(_learn(bench, known, kept[kept_side != held_out]), dataset[side == held_out])
        for held_out in (0, 1)
    ]
    both = Labels.concat(parts)
    return both[np.argsort(dataset.position(both.image), kind="stable")]


def _learn(bench: Bench, known: Labels, kept: Labels) -> Student:
    classes, trust = len(bench.dataset.classes), bench.config.trust
    labels, weight = taught(known, kept, classes=classes, trust=trust)
    return bench.learn(bench.adapted, labels, weight)


def _read(bench: Bench, known: Labels, seen: Labels) -> Labels:
    """Let the report text, where an image of the pool has one, decide over what was seen."""
    if bench.text is None:
        return seen
    text = bench.text.fit(bench.dataset, known, seed=bench.config.seed)
    told = (bench.dataset.columns["text"] != "") & not_human(seen, known)
    read, looked = text.label(bench.dataset).probs, seen.probs
    if read is None or looked is None:
        raise DataError("labels can only be brought together by their probs.")
    return labels_of(bench.dataset, np.where(told[:, None], read, looked))
