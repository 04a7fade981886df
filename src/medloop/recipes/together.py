"""Several findings an image that one student learns at once, such as one network with K outputs.

What ``recipes.several`` asks in K questions, one student after another, is learned together here,
so that a round takes as long for fourteen findings as for one. Halves and thirds of the patients
are the same for all findings, dealt by the whole set that an image holds. All else is each
finding's own, and as it is there: which labels are suspect, the calibration, how far students of
other patients bear the teacher out, and whether the round is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.consistency import Consistency
from medloop.errors import DataError
from medloop.gate import Verdict
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.prepare.split import group_folds
from medloop.presence import present, question, table, whole
from medloop.recipes.correction import (
    ONE_CLASS,
    Bench,
    as_common,
    corroborated_by,
    doubted,
    evidence_of,
    heard,
    one_sided,
    own_of,
    said_of,
    thirds_of,
    unsupported,
)
from medloop.recipes.several import LEAST_OF_EACH, asked, verdict_of
from medloop.students.calibration import fit_platt, moved_by
from medloop.students.logistic import labels_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def step_together(bench: Bench, *, fewest: int = 0) -> Step:
    """Make the step of a loop whose student learns all findings at once.

    A finding that the teacher sees in every image or in none, or in few, is treated as
    :func:`medloop.recipes.several.step_of_each` treats it.

    Parameters
    ----------
    bench : Bench
        ``told`` is the teacher's table of all images, in their order; ``student`` learns tables.
    fewest : int
        Images with a finding, and without it, below which its labels stay the teacher's.

    Raises
    ------
    DataError
        The teacher sees each of the findings in all images or in none.
    """
    shared = _Shared(bench, fewest)
    if not shared.learned.any():
        raise DataError(
            "the teacher sees each finding in every image or in none: there is nothing to learn."
        )
    make = _ours if bench.config.mode == "ours" else _faithful
    return lambda known, before, number: (
        _teacher(shared, known) if before is None else make(shared, known, before, number)
    )


@dataclass(frozen=True, eq=False)
class _Shared:
    """What every step works with; n images, K findings.

    Parameters
    ----------
    bench : Bench
    fewest : int
    judged : dict
        What students of halves said of labels as they are, until it is asked for again: round 1
        judges the labels of round 0 once more.
    """

    bench: Bench
    fewest: int
    judged: dict[bytes, list[Floats]] = field(default_factory=dict)

    @cached_property
    def told(self) -> Floats:
        """Return (n, K) what the teacher says."""
        return self.table(self.bench.told)

    @cached_property
    def learned(self) -> Mask:
        """Tell (K,) which findings the teacher sees in some images and not in others."""
        return _both(self.told > 0.5)

    @cached_property
    def rare(self) -> Mask:
        """Tell (K,) which findings it sees, or does not see, in too few."""
        there = (self.told > 0.5).sum(axis=0)
        return np.asarray(np.minimum(there, len(self.told) - there) < self.fewest)

    @cached_property
    def questions(self) -> list[Bench]:
        """Return a bench for each finding, as if nothing else was asked."""
        told = table(self.bench.dataset.id, self.told)
        return [
            replace(
                self.bench,
                dataset=asked(self.bench.dataset, k),
                told=question(told, k),
                agreed=lambda k=k: self.corroborated(k),  # type: ignore[misc]
            )
            for k in range(self.told.shape[1])
        ]

    @cached_property
    def thirds(self) -> tuple[Ints, Floats]:
        """Return the third of each image, (n,), and what a student of each says, (3, n, K)."""
        calls = self.told > 0.5
        third = thirds_of(whole(calls), self.bench.dataset, seed=self.bench.config.seed)
        alone = Known.of(Labels.empty(), self)
        views = [
            self.said(self.learn(alone, self.told, np.ones_like(calls) & (third == own)[:, None]))
            for own in range(3)
        ]
        return third, np.stack(views)

    def corroborated(self, finding: int) -> Consistency | None:
        """Compare students of one finding; None where the labels of a third say one thing."""
        third, views = self.thirds
        told = self.told[:, finding]
        if one_sided((told > 0.5).astype(np.int64), third):
            return None
        return corroborated_by(views[:, :, finding], third, told)

    def table(self, labels: Labels) -> Floats:
        """Return (n, K) what a table says."""
        images = self.bench.dataset.id
        return present(labels, images, len(self.bench.dataset.classes))

    def half(self, calls: Mask, number: int) -> Ints:
        """Deal the images to halves by patient, for all findings alike."""
        group, seed = self.bench.dataset.group, self.bench.config.seed
        return group_folds(whole(calls), group, folds=2, seed=seed + max(number, 1))

    def said(self, student: Any) -> Floats:
        """Let a student judge all images."""
        return self.table(student.label(self.bench.dataset, progress=self.bench.progress))

    def fit(self, target: Floats, weight: Floats) -> Any:
        """Learn a target for each image and finding, where its weight is above 0."""
        bench = self.bench
        labels = table(bench.dataset.id, target)
        student: Any = bench.student
        return student.fit(
            bench.dataset,
            labels,
            weight=weight.ravel(),
            seed=bench.config.seed,
            progress=bench.progress,
        )

    def learn(self, known: Known, probs: Floats, keep: Mask) -> Any:
        """Learn the kept machine labels, and a person's with more weight."""
        config = self.bench.config
        machine = keep & ~known.rows[:, None]
        weight = machine * (config.trust if known.rows.any() else 1.0)
        calls = (probs > 0.5).astype(np.int64)
        if config.anchor:
            for k, own in enumerate(machine.T):
                if own.any():
                    weight[own, k] *= as_common(calls[own, k], calls[~known.rows, k])
        target = probs if config.soft else calls.astype(np.float64)
        return self.fit(
            np.where(known.rows[:, None], known.there, target),
            np.where(known.rows[:, None], 1.0, weight),
        )

    def judge(
        self, known: Known, probs: Floats, keep: Mask, half: Ints, *, again: bool = False
    ) -> list[Floats]:
        """Let two students that share no patient judge all images: (n, K) by each.

        What will be asked ``again`` is kept until then.
        """
        key = known.rows.tobytes() + probs.tobytes() + keep.tobytes() + half.tobytes()
        if key in self.judged:
            return self.judged.pop(key)
        found = [
            self.said(self.learn(known, probs, keep & (half != own)[:, None])) for own in (0, 1)
        ]
        if again:
            self.judged[key] = found
        return found

    def finished(self, student: Any, probs: Floats, moves: dict[int, tuple[float, float]]) -> Any:
        """Calibrate a student, finding by finding; one of which nothing was learned is a share."""
        slope, shift = np.ones(probs.shape[1]), np.zeros(probs.shape[1])
        for k, (times, plus) in moves.items():
            slope[k], shift[k] = times, plus
        calls = probs > 0.5
        silent = ~(self.learned & _both(calls))
        share = (calls.sum(axis=0) + 0.5) / (len(calls) + 1.0)
        slope[silent] = 0.0
        shift[silent] = (np.log(share) - np.log1p(-share))[silent]
        return student.rescaled(slope, shift)


@dataclass(frozen=True, eq=False)
class Known:
    """What a person said.

    Parameters
    ----------
    rows : (n,) bool
        Whose images a person decided.
    there : (n, K) float
        Which findings they hold.
    """

    rows: Mask
    there: Floats

    @staticmethod
    def of(labels: Labels, shared: _Shared) -> Known:
        """Read a person's table of some of the images."""
        dataset = shared.bench.dataset
        rows = np.isin(dataset.id, labels.image)
        there = np.zeros((len(dataset), len(dataset.classes)))
        there[rows] = present(labels, dataset.id[rows], len(dataset.classes))
        return Known(rows, there)


def _teacher(shared: _Shared, known: Labels) -> Proposal:
    """Round 0: the teacher's labels, and for new images the student that learned them as is."""
    person, told = Known.of(known, shared), shared.told
    everything = np.ones_like(told, bool)
    fitted = shared.learn(person, told, everything)
    moves = {}
    if shared.bench.config.mode == "ours":
        calls = told > 0.5
        half = shared.half(calls, 0)
        again = shared.bench.config.rounds > 0
        judged = shared.judge(person, told, everything, half, again=again)
        moves = _moves(own_of(judged, half), calls, everything, half)
    return Proposal(shared.finished(fitted, told, moves), shared.bench.told, kept=0)


def _faithful(shared: _Shared, known: Labels, before: Proposal, number: int) -> Proposal:
    """Train on every label, wrong ones included."""
    person, probs = Known.of(known, shared), shared.table(before.labels)
    target = np.where(person.rows[:, None], person.there, probs > 0.5)
    fitted = shared.finished(shared.fit(target, np.ones_like(target)), probs, {})
    said = np.where(shared.learned, shared.said(fitted), probs)
    kept = int((~person.rows).sum() * shared.learned.sum())
    return Proposal(fitted, table(shared.bench.dataset.id, said), kept)


def _ours(shared: _Shared, known: Labels, before: Proposal, number: int) -> Proposal:
    """Judge every label out of fold, leave the suspects out, and judge again."""
    bench, person = shared.bench, Known.of(known, shared)
    names, alone = bench.dataset.classes, not len(known)
    probs = shared.table(before.labels)
    calls = probs > 0.5
    half = shared.half(calls, number)
    made: list[Proposal | None] = [None for _ in names]
    open_to = []
    for k in np.flatnonzero(shared.learned & ~(shared.rare & alone)).tolist():
        verdict = _before_learning(shared, calls[:, k], half, k, alone=alone)
        if verdict is None:
            open_to.append(k)
        else:
            made[k] = Proposal(before.student, question(before.labels, k), 0, verdict)
    if alone and not open_to:
        said = verdict_of(names, made, [True for _ in names], judged=False)
        return Proposal(before.student, before.labels, 0, said)
    now, learned = probs.copy(), probs.copy()
    for k in open_to:
        told = heard(shared.questions[k], question(known, k), question(before.labels, k))
        learned[:, k] = _there(told)
    keep = np.ones_like(calls)
    first = own_of(shared.judge(person, learned, keep.copy(), half), half)
    whole_table = table(bench.dataset.id, learned)
    for k in open_to:
        labels = question(whole_table, k)
        bad = doubted(shared.questions[k], labels, _pair(first[:, k]))
        if not _lacks(labels.class_id[~bad], half[~bad]):
            keep[:, k] = ~bad
    judged = shared.judge(person, learned, keep, half)
    moves = _moves(own_of(judged, half), learned > 0.5, keep, half)
    used = []
    for k in open_to:
        # what explained the teacher's labels before this round: at first, all of them as they are
        then = (first if number == 1 else learned)[:, k] > 0.5
        kept = int((keep[:, k] & ~person.rows).sum())
        views = [part[:, k] for part in judged]
        one = _answer(shared.questions[k], views, moves.get(k), half, then, kept)
        made[k] = one
        if not alone or one.evidence is None or one.evidence.passes:
            used.append(k)
            now[:, k] = _there(one.labels)
    stays = np.setdiff1d(np.arange(len(names)), used)
    learned[:, stays], keep[:, stays] = probs[:, stays], True
    as_it_was = _moves(first, calls, np.ones_like(calls), half)
    moves = {k: move for k, move in moves.items() if k in used} | {
        k: move for k, move in as_it_was.items() if k not in used
    }
    final = shared.finished(shared.learn(person, learned, keep), learned, moves)
    refused = [one is None or (alone and k not in used) for k, one in enumerate(made)]
    verdict = verdict_of(names, made, refused, judged=not alone)
    taught = sum(one.kept for k, one in enumerate(made) if one is not None and k in used)
    return Proposal(final, table(bench.dataset.id, now), taught, verdict)


def _answer(
    one: Bench,
    views: list[Floats],
    move: tuple[float, float] | None,
    half: Ints,
    then: Mask,
    kept: int,
) -> Proposal:
    """Say what a round makes of one finding, and what speaks for it.

    Parameters
    ----------
    one : Bench
        The question of the finding.
    views : list of (n,) float
        Its probability by the student of each half.
    move : (slope, shift), optional
        Calibrates them.
    half : (n,) int
    then : (n,) bool
        Which images held it before the round.
    kept : int
    """
    pairs = [_pair(view if move is None else moved_by(view, *move)) for view in views]
    labels = labels_of(one.dataset, said_of(one, own_of(pairs, half)))
    evidence = evidence_of(one, pairs, then.astype(np.int64), labels.class_id)
    return Proposal(one.student, labels, kept, evidence)


def _before_learning(
    shared: _Shared, calls: Mask, half: Ints, finding: int, *, alone: bool
) -> Verdict | None:
    """Say why a finding is not asked about in a round; None where it is."""
    if _lacks(calls, half):
        return ONE_CLASS
    if not alone:
        return None
    found = shared.corroborated(finding)
    return None if found is not None and found.passes else unsupported(found)


def _moves(own: Floats, calls: Mask, keep: Mask, half: Ints) -> dict[int, tuple[float, float]]:
    """Fit slope and shift of each finding that can be calibrated, out of fold.

    Parameters
    ----------
    own : (n, K) float
        What is said of each image by the student that did not learn from its half.
    calls, keep : (n, K) bool
        The labels, and which of them are learned from.
    half : (n,) int
    """
    found = {}
    for k in range(own.shape[1]):
        there = calls[keep[:, k], k]
        few = np.bincount(there, minlength=2).min() < LEAST_OF_EACH
        if not few and not _lacks(calls[:, k], half):
            found[k] = fit_platt(own[keep[:, k], k], there)
    return found


def _lacks(classes: NDArray[Any], half: Ints) -> bool:
    """Tell whether the images outside of a half are all of one class."""
    return any(len(np.unique(classes[half != own])) < 2 for own in (0, 1))


def _both(calls: Mask) -> Mask:
    return np.asarray(calls.any(axis=0) & ~calls.all(axis=0))


def _there(labels: Labels) -> Floats:
    if labels.probs is None:
        raise DataError("a question needs labels with probs.")
    return labels.probs[:, 1]


def _pair(there: Floats) -> Floats:
    return np.column_stack([1 - there, there])
