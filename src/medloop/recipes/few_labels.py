"""A small labelled set labels a large one, and a final model learns from both.

The published method (knee radiographs; headline: weighted AUC .857 -> .903):

1. Train a labeler on the labelled images, or on their report text where there is some.
2. It labels the rest.
3. Train the final classifier on manual and machine labels together.
4. Test on patients of their own.

``faithful`` does just that. ``ours`` scores every image out of fold, takes the surest of each
class as soft labels, makes them anew every round, and keeps a round only if held-out labels show
that it does no harm.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medloop.dataset import Dataset
from medloop.filters import not_human, surest_of_each_class
from medloop.labelers.text import Text
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.prepare.split import group_folds
from medloop.progress import Progress, silent
from medloop.students.student import Student


class FewLabels(BaseModel):
    """Every knob of the recipe, with its default."""

    model_config = ConfigDict(extra="forbid")

    recipe: Literal["few-labels"] = "few-labels"
    images: str
    labels: str | None = None
    classes: list[str] | None = None
    student: Literal["patches", "network"] = "patches"
    labeler: Literal["auto", "image", "text"] = "auto"
    text_model: str = "tfidf"
    mode: Literal["ours", "faithful"] = "ours"
    rounds: int = Field(3, ge=0, le=100)
    seed: int = Field(0, ge=0)
    folds: int | None = Field(None, ge=2, le=50)
    share: float = Field(1.0, gt=0, le=1)
    trust: float = Field(1.0, gt=0, le=1)
    gate_margin: float = Field(0.03, ge=0, lt=1)
    gate_confidence: float = Field(0.95, gt=0.5, lt=1)
    allow_leak: bool = False
    student_options: dict[str, Any] = Field(default_factory=dict)


def steps(
    config: FewLabels,
    dataset: Dataset,
    known: Labels,
    student: Student,
    *,
    progress: Progress = silent,
) -> Step:
    """Make the step of the loop: labels of the next round from those of the last.

    Parameters
    ----------
    config : FewLabels
    dataset : Dataset
        The training split: labelled images and the pool.
    known : Labels
        A person's labels of it.
    student : Student
        Prepared on that split, not fitted.
    progress : Progress
    """
    student = student.settle(dataset, known, seed=config.seed)
    text = None
    if config.labeler == "text" or (config.labeler == "auto" and "text" in dataset.columns):
        text = Text(model=config.text_model).prepare(dataset)
    make = _faithful if config.mode == "faithful" else _ours

    def step(known: Labels, before: Labels | None, number: int) -> Proposal:
        if before is None:
            fitted = student.fit(dataset, known, seed=config.seed, progress=progress)
            reader = fitted if text is None else text.fit(dataset, known, seed=config.seed)
            return Proposal(fitted, reader.label(dataset), kept=0)
        return make(config, dataset, student, known, before[not_human(before, known)], number)

    return step


def _faithful(
    config: FewLabels,
    dataset: Dataset,
    student: Student,
    known: Labels,
    pool: Labels,
    number: int,
) -> Proposal:
    """Train on manual and machine labels, one as good as the other."""
    hard = Labels.concat([known, pool]).with_(probs=None)
    fitted = student.fit(dataset, hard, seed=config.seed)
    return Proposal(fitted, fitted.label(dataset), kept=len(pool))


def _ours(
    config: FewLabels,
    dataset: Dataset,
    student: Student,
    known: Labels,
    pool: Labels,
    number: int,
) -> Proposal:
    """Learn from soft labels of the surest, and score no image by what learned its own label."""
    kept = pool[surest_of_each_class(pool, share=config.share)]
    sides = group_folds(
        pool.class_id,
        dataset.group[dataset.position(pool.image)],
        folds=2,
        seed=config.seed + number,
    )
    side = dict(zip(pool.image.tolist(), sides.tolist(), strict=True))
    side_of = np.array([side.get(int(image), 0) for image in dataset.id])
    kept_side = side_of[dataset.position(kept.image)]
    parts = []
    for held_out in (0, 1):
        fitted = _learn(config, dataset, student, known, kept[kept_side != held_out])
        parts.append(fitted.label(dataset[side_of == held_out]))
    both = Labels.concat(parts)
    labels = both[np.argsort(dataset.position(both.image), kind="stable")]
    final = _learn(config, dataset, student, known, kept)
    return Proposal(final, labels, kept=len(kept))


def _learn(
    config: FewLabels, dataset: Dataset, student: Student, known: Labels, kept: Labels
) -> Student:
    certain = np.eye(len(dataset.classes))[known.class_id]
    taught = Labels.concat([known.with_(probs=certain), kept])
    weight = np.concatenate([np.ones(len(known)), np.full(len(kept), config.trust)])
    return student.fit(dataset, taught, weight=weight, seed=config.seed)
