"""Everything that looks at a round from outside: held-out labels, the test split, the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.evaluation import Judged, evaluate, judge
from medloop.gate import Gate, Verdict, do_no_harm
from medloop.labels import MODEL, Labels
from medloop.loop import Proposal, Round, flips
from medloop.prepare.split import group_folds
from medloop.progress import Progress, silent
from medloop.recipes import Recipe
from medloop.rounds import save_round
from medloop.store.workspace import Workspace
from medloop.students.calibration import fit_temperature, tempered
from medloop.students.logistic import labels_of
from medloop.students.student import Model

Ints = NDArray[np.int64]

#: With fewer held-out labels a temperature says more about chance than about the student.
_LEAST_FOR_TEMPERATURE = 20


class Judges:
    """Everything that looks at a round from outside: held-out labels, the test, the log."""

    def __init__(
        self, workspace: Workspace, dataset: Dataset, given: Labels, config: Recipe
    ) -> None:
        self.workspace, self.dataset, self.given, self.config = workspace, dataset, given, config
        self.val = dataset.where(split="val", images=given.image)
        self.test = dataset.where(split="test", images=given.image)
        self.pool = dataset.where(split="train")
        self.known = given.of(self.pool.id)
        group = dataset.group[dataset.position(self.known.image)]
        self.fold: Ints | None = None
        #: What the student has to know of the labels besides its own settings: nothing.
        self.options: dict[str, Any] = {}
        #: Told how far the students are with held-out images.
        self.progress: Progress = silent
        if len(self.val) == 0 and config.mode == "ours" and len(np.unique(group)) > 1:
            folds = folds_of(config)
            self.fold = group_folds(self.known.class_id, group, folds=folds, seed=config.seed)

    def held_out(self, made: Round) -> Judged:
        """Judge a round by labels that none of its chains has seen."""
        if len(self.val):
            labels = self.look(made.best.student, self.val)
        elif self.fold is None:
            labels = Labels.empty().with_(probs=np.empty((0, len(self.dataset.classes))))
        else:
            parts = [
                proposal.labels.of(self.known.image[self.fold == held_out])
                for held_out, proposal in zip(np.unique(self.fold), made.proposals[1:], strict=True)
            ]
            labels = Labels.concat(parts)
        return judge(self.dataset, self.given, labels)

    def changed(self, before: Labels, after: Labels) -> int:
        """Count the images whose class changed."""
        return flips(before, after)

    def compare(self, before: Round, after: Round) -> Verdict:
        """Ask the gate."""
        gate = Gate(self.config.gate_margin, self.config.gate_confidence)
        old, new = self.held_out(before), self.held_out(after)
        if len(old) == 0 and after.best.evidence is not None:
            return after.best.evidence
        return do_no_harm(
            gate,
            old.truth,
            old.probs,
            new.probs,
            old.group,
            seed=self.config.seed,
            machine_taught=after.best.kept > 0,
        )

    def record(self, made: Round) -> None:
        """Calibrate, judge, write to disk, and then to the log, which makes it count."""
        classes, seed = self.dataset.classes, self.config.seed
        held_out = self.held_out(made)
        temperature = 1.0
        if len(held_out) >= _LEAST_FOR_TEMPERATURE:
            temperature = fit_temperature(held_out.probs, held_out.truth)
            held_out = replace(held_out, probs=tempered(held_out.probs, temperature))
        student = made.best.student.with_temperature(temperature)
        best = replace(made.best, student=student)
        made = replace(made, proposals=[best, *made.proposals[1:]])
        test = judge(self.dataset, self.given, self.look(student, self.test))
        about = {
            "number": made.number,
            "kept": made.best.kept,
            "flipped": made.flipped,
            "temperature": temperature,
            "verdict": made.verdict.to_json(),
            "held_out": evaluate(held_out, classes, seed=seed),
            "test": evaluate(test, classes, seed=seed),
        }
        payload = save_round(self.workspace, made, about, {"held_out": held_out, "test": test})
        if not made.verdict.passes:
            op = operation(self.workspace, f"refused-{made.number}")
            self.workspace.log.append(op, "refused", payload=payload, round=made.number)
            return
        labels = self.delivered(best, temperature)
        labels = labels.with_(round=np.full(len(labels), made.number))
        self.workspace.log.append(
            operation(self.workspace, f"round-{made.number}"),
            "round",
            labels=labels,
            payload=payload,
            actor=f"{MODEL}:{self.config.student}",
            round=made.number,
        )

    def look(self, student: Model, part: Dataset) -> Labels:
        """Label images to be judged by their classes alone."""
        return student.label(part, progress=self.progress)

    def delivered(self, best: Proposal, temperature: float) -> Labels:
        """Return the labels of a round: of every image that no person labelled."""
        rest = self.dataset.where(split="val"), self.dataset.where(split="test")
        labels = Labels.concat(
            [
                labels_of(self.pool, tempered(_probs(best.labels), temperature)),
                *(best.student.label(part, progress=self.progress) for part in rest if len(part)),
            ]
        )
        return labels.of(np.setdiff1d(labels.image, self.given.image))


def folds_of(config: Recipe) -> int:
    """Return how many chains leave labels out; a student that trains for long has few."""
    return config.folds or (5 if config.student == "patches" else 2)


def _probs(labels: Labels) -> NDArray[np.float64]:
    if labels.probs is None:
        raise DataError("a round needs labels with probs.")
    return labels.probs


def operation(workspace: Workspace, name: str) -> str:
    """Name a write so that it counts once, until a rollback makes room for it again."""
    return f"{name}-{workspace.log.epoch}"
