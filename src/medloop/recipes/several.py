"""Several findings an image: every finding is a question of its own, asked in one round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.gate import OPEN, Verdict
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.presence import question, table
from medloop.students.calibration import fit_platt, moved_by

Floats = NDArray[np.float64]

#: Names in a sentence; more are counted.
_NAMED = 6
#: With fewer images with a finding, or without it, by the teacher, nobody corrects the teacher.
FEWEST = 30
#: With fewer images with a finding, or without it, slope and shift say more about chance.
LEAST_OF_EACH = 5


class Labeler(Protocol):
    """Anything that labels without having been trained here."""

    def label(self, dataset: Dataset) -> Labels:
        """Return labels of all images."""
        ...


@dataclass(frozen=True, eq=False)
class Each:
    """A labeler for each finding, which say together what an image holds.

    Parameters
    ----------
    parts : sequence of Labeler
        Each gives (n, 2) ``probs``: without its finding, and with it.
    """

    parts: Sequence[Labeler]

    def label(self, dataset: Dataset) -> Labels:
        """Return a row for every image and finding."""
        found = [_present(part.label(asked(dataset, k))) for k, part in enumerate(self.parts)]
        return table(dataset.id, np.column_stack(found))


def asked(dataset: Dataset, finding: int) -> Dataset:
    """Ask of the images one thing: whether they hold this finding."""
    name = dataset.classes[finding]
    return replace(dataset, classes=(f"no {name}", name))


@dataclass(frozen=True, eq=False)
class Question:
    """How one finding is asked about.

    Parameters
    ----------
    step : Step
        The step of a loop that asks nothing else.
    learn : callable
        ``learn(known, labels)`` returns a student of labels as they are.
    """

    step: Step
    learn: Callable[[Labels, Labels], Any]


def step_of_each(
    dataset: Dataset,
    told: Labels,
    student: Any,
    ask: Callable[[Dataset, Labels], Question],
    *,
    fewest: int = 0,
) -> Step:
    """Make one step of the loop of the steps of all findings.

    A finding that the teacher sees in every image or in none is not learned: it stays as it is.
    One that it sees in few, or does not see in few, is learned for new images, but keeps its
    labels: students of half the patients would have too few to judge it. Where no person's label
    judges a round, a finding whose own evidence is against it keeps the labels of the round before,
    while the others go on.

    Parameters
    ----------
    dataset : Dataset
    told : Labels
        The teacher's table of all images, in their order.
    student : Patches
        Can be ``joined``.
    ask : callable
        ``ask(dataset, told)`` makes one question of the teacher's answers to it.
    fewest : int
        Images with a finding, and without it, below which its labels stay the teacher's.

    Raises
    ------
    DataError
        The teacher sees each of the findings in all images or in none.
    """
    answers = [question(told, k) for k in range(len(dataset.classes))]
    learned = [len(np.unique(labels.class_id)) > 1 for labels in answers]
    if not any(learned):
        raise DataError(
            "the teacher sees each finding in every image or in none: there is nothing to learn."
        )
    questions = [
        ask(asked(dataset, k), labels) if learned[k] else None for k, labels in enumerate(answers)
    ]
    rare = [int(np.bincount(one.class_id, minlength=2).min()) < fewest for one in answers]

    def step(known: Labels, before: Proposal | None, number: int) -> Proposal:
        made: list[Proposal | None] = []
        for k, one in enumerate(questions):
            own = None
            if before is not None:
                own = replace(before, labels=question(before.labels, k), evidence=None)
            skipped = one is None or (rare[k] and own is not None and len(known) == 0)
            made.append(
                None if skipped or one is None else one.step(question(known, k), own, number)
            )
        refused = [
            part is None or (not (part.evidence or OPEN).passes and len(known) == 0)
            for part in made
        ]
        columns: list[Floats] = []
        students: list[Any] = []
        kept = 0
        for k, (part, one) in enumerate(zip(made, questions, strict=True)):
            if part is not None and (before is None or not refused[k]):
                columns.append(_present(part.labels))
                students.append(part.student)
                kept += part.kept
                continue
            was = answers[k] if before is None else question(before.labels, k)
            columns.append(_present(was))
            if one is None or len(np.unique(was.class_id)) < 2:
                students.append((float(was.class_id.sum()) + 0.5) / (len(was) + 1.0))
            else:
                students.append(one.learn(question(known, k), was))
        labels = table(dataset.id, np.column_stack(columns))
        said = verdict_of(dataset.classes, made, refused, judged=len(known) > 0)
        return Proposal(student.joined(students, dataset.classes), labels, kept, said)

    return step


def calibrated(
    judged: list[Floats], own: Floats, before: Labels, keep: NDArray[np.bool_], student: Any
) -> tuple[list[Floats], Any]:
    """Calibrate what is said of one finding, and its student, out of fold.

    Most findings are rare: a student that ranks the images well may hold none of them for more
    probable than not, and the finding would vanish. Slope and shift are fitted to the labels that
    are learned from, by probabilities of students that have not learned them.

    Parameters
    ----------
    judged : list of (n, 2) float
        Probabilities by each of two students.
    own : (n, 2) float
        Of each image, those of the student that did not learn from its half.
    before : Labels
        One row an image.
    keep : (n,) bool
        Which of them are learned from.
    student : Patches
        Learned from all of them.
    """
    there = before.class_id[keep] == 1
    if np.bincount(there, minlength=2).min() < LEAST_OF_EACH:
        return judged, student
    slope, shift = fit_platt(own[keep, 1], there)
    moved = [moved_by(probs[:, 1], slope, shift) for probs in judged]
    return [np.column_stack([1 - p, p]) for p in moved], student.rescaled(slope, shift)


def _present(labels: Labels) -> Floats:
    if labels.probs is None:
        raise DataError("a question needs labels with probs.")
    return labels.probs[:, 1]


def verdict_of(
    classes: Sequence[str], made: list[Proposal | None], refused: list[bool], *, judged: bool
) -> Verdict | None:
    """Say for which findings the evidence is in favour; None where there is none."""
    told = [(name, part.evidence) for name, part in zip(classes, made, strict=True) if part]
    verdicts = [verdict for _, verdict in told if verdict is not None]
    if not verdicts and any(made):
        return None
    if not verdicts:
        nothing = "Kept: the teacher sees no finding in enough images to be corrected."
        return replace(OPEN, sentence=nothing)
    bad = [name for name, verdict in told if verdict is not None and not verdict.passes]
    good = len(verdicts) - len(bad)
    # a person's labels were learned from, so no finding was left behind: then all have to pass
    passes = not bad if judged else good > 0
    said = f"{'Kept' if passes else 'Refused'}: for {good} of {len(verdicts)} findings"
    said += (
        " two students that learned from different patients agree with each other, at least as "
        "well as with the teacher, and its labels are explained as well as before"
    )
    if bad and passes:
        said += (
            f"; {names(bad)} {'keeps' if len(bad) == 1 else 'keep'} the labels of the round before"
        )
    elif bad:
        said += f"; not so for {names(bad)}"
    left = [name for name, part in zip(classes, made, strict=True) if part is None]
    if left:
        said += (
            f". The teacher sees {names(left)} in too few images, or too few without, to be "
            "corrected: its labels stay"
        )
    nan = float("nan")
    said += (
        ". Nothing could be verified against a person: errors that teacher and students share do "
        "not show here."
    )
    return Verdict(passes, "" if passes else "harm", nan, nan, 0, 0, said)


def names(found: Sequence[str]) -> str:
    """Name some findings, and count the others.

    Examples
    --------
    >>> names(["mass"]), names(["mass", "hernia", "nodule"])
    ('mass', 'mass, hernia and nodule')
    >>> names([str(k) for k in range(9)])
    '0, 1, 2, 3, 4, 5 and 3 more'
    """
    shown = list(found[:_NAMED])
    if len(found) > _NAMED:
        return f"{', '.join(shown)} and {len(found) - _NAMED} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
