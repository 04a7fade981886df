"""What looks at a round of findings from outside: held-out images, the test split, the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.findings.evaluation import (
    JudgedFindings,
    Presence,
    evaluate_findings,
    gain_kept,
    judge_findings,
)
from medloop.gate import Gate, Verdict
from medloop.judges import Judges, folds_of, operation
from medloop.labels import MODEL, Labels
from medloop.loop import Proposal, Round
from medloop.prepare.split import group_folds
from medloop.presence import found, present, table, whole
from medloop.recipes import Recipe
from medloop.rounds import save_round
from medloop.store.workspace import Workspace
from medloop.students.calibration import fit_temperature, tempered

Floats = NDArray[np.float64]

#: With fewer held-out images, or fewer of them with a finding or without it, a temperature says
#: more about chance than about the student.
_LEAST, _LEAST_OF_EACH = 20, 5


class FindingJudges(Judges):
    """Everything that looks at a round from outside, where images may hold several findings.

    ``given``, ``known`` and the labels of proposals are tables, see :mod:`medloop.presence`.
    """

    def __init__(
        self, workspace: Workspace, dataset: Dataset, given: Labels, config: Recipe
    ) -> None:
        # without rows there is nothing to deal to folds by class
        super().__init__(workspace, dataset, Labels.empty(), config)
        self.given = given
        self.val = dataset.where(split="val", images=given.image)
        self.test = dataset.where(split="test", images=given.image)
        self.known = given.of(self.pool.id)
        self.fold = None
        images = np.unique(self.known.image)
        group = dataset.group[dataset.position(images)]
        if len(self.val) == 0 and config.mode == "ours" and len(np.unique(group)) > 1:
            sets = whole(present(self.known, images, len(dataset.classes)) > 0.5)
            fold = group_folds(sets, group, folds=folds_of(config), seed=config.seed)
            self.fold = fold[np.searchsorted(images, self.known.image)]

    def judged(self, made: Round) -> JudgedFindings:
        """Judge a round by images that none of its chains has seen."""
        if len(self.val):
            labels = self.look(made.best.student, self.val)
        elif self.fold is None:
            labels = Labels.empty()
        else:
            labels = Labels.concat(
                [
                    proposal.labels.of(self.known.image[self.fold == held_out])
                    for held_out, proposal in zip(
                        np.unique(self.fold), made.proposals[1:], strict=True
                    )
                ]
            )
        return judge_findings(self.dataset, self.given, labels)

    def changed(self, before: Labels, after: Labels) -> int:
        """Count the images of which a finding came or went."""
        images, k = np.unique(after.image), len(self.dataset.classes)
        one, other = (present(labels, images, k) > 0.5 for labels in (before, after))
        return int((one != other).any(axis=1).sum())

    def compare(self, before: Round, after: Round) -> Verdict:
        """Ask the gate."""
        old, new = self.judged(before), self.judged(after)
        if len(old) == 0 and after.best.evidence is not None:
            return after.best.evidence
        return gain_kept(
            Gate(self.config.gate_margin, self.config.gate_confidence),
            old,
            new,
            seed=self.config.seed,
            machine_taught=after.best.kept > 0,
        )

    def record(self, made: Round) -> None:
        """Calibrate, judge, write to disk, and then to the log, which makes it count."""
        classes, seed = self.dataset.classes, self.config.seed
        held_out = self.judged(made)
        temperature = np.array([_temperature(held_out, k) for k in range(len(classes))])
        held_out = replace(held_out, probs=_tempered(held_out.probs, temperature))
        student: Any = made.best.student
        best = replace(made.best, student=student.calibrated(temperature))
        made = replace(made, proposals=[best, *made.proposals[1:]])
        test = judge_findings(self.dataset, self.given, self.look(best.student, self.test))
        labels = self.all_findings(best, temperature)
        about = {
            "number": made.number,
            "kept": made.best.kept,
            "flipped": made.flipped,
            "temperature": temperature.tolist(),
            "verdict": made.verdict.to_json(),
            "held_out": evaluate_findings(held_out, classes, seed=seed),
            "test": evaluate_findings(test, classes, seed=seed),
        }
        images = np.unique(labels.image)
        judged: dict[str, JudgedFindings | Presence] = {
            "held_out": held_out,
            "test": test,
            "delivered": Presence(images, present(labels, images, len(classes))),
        }
        payload = save_round(self.workspace, made, about, judged)
        if not made.verdict.passes:
            op = operation(self.workspace, f"refused-{made.number}")
            self.workspace.log.append(op, "refused", payload=payload, round=made.number)
            return
        there = found(labels)
        self.workspace.log.append(
            operation(self.workspace, f"round-{made.number}"),
            "round",
            labels=there.with_(round=np.full(len(there), made.number)),
            payload=payload,
            actor=f"{MODEL}:{self.config.student}",
            round=made.number,
        )

    def all_findings(self, best: Proposal, temperature: Floats) -> Labels:
        """Return the table of a round: of every image that no person decided."""
        k = len(self.dataset.classes)
        probs = present(best.labels, self.pool.id, k)
        rest = self.dataset.where(split="val"), self.dataset.where(split="test")
        labels = Labels.concat(
            [
                table(self.pool.id, _tempered(probs, temperature)),
                *(best.student.label(part, progress=self.progress) for part in rest if len(part)),
            ]
        )
        return labels.of(np.setdiff1d(labels.image, self.given.image))


def _temperature(judged: JudgedFindings, finding: int) -> float:
    truth, score = judged.truth[:, finding], judged.probs[:, finding]
    counts = np.bincount(truth, minlength=2)
    if len(truth) < _LEAST or counts.min() < _LEAST_OF_EACH:
        return 1.0
    return fit_temperature(np.column_stack([1 - score, score]), truth)


def _tempered(probs: Floats, temperature: Floats) -> Floats:
    """Divide the logits of each finding; those of temperature 1 stay as they are."""
    moved = probs.copy()
    for k in np.flatnonzero(temperature != 1):
        moved[:, k] = tempered(np.column_stack([1 - probs[:, k], probs[:, k]]), temperature[k])[
            :, 1
        ]
    return moved
