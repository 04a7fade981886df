"""Some objects carry keypoints, others in the same images were never labelled: find those.

The published method (faces; headline: 4,437 -> 6,240 labels, +40.6%):

1. Train a pose model on the labelled objects.
2. It predicts on the training images, with a confidence of at least .7.
3. A prediction whose box overlaps a label by more than .3 is dropped; the others are appended, and
   stay. What people labelled always stays.
4. Train on from the last weights, on the enlarged set; four times.

``faithful`` does just that, but for images with nothing labelled, which the authors' code drops:
they gain labels too. There the error grows with the labels, since wrong ones are permanent and the
model predicts on what it learned. ``ours`` changes five things:

- An image is labelled by the best student that has not learned from it: in round 0 the one that
  knows every label, where an image has none; else one that learned from other images only. A label
  of the round before, which was made the same way, stays where the new student sees it too.
- New labels that overlap each other by points are suppressed, and the score falls where points, or
  the sides of boxes, move when the image is mirrored or scaled.
- The score from which an object is believed is chosen for each class on the ``val`` split: the
  lowest from which a share ``precision`` of what is found there is right (:func:`marks_of`). What
  students that learned from different images place alike by points is no error there, but an
  object that nobody labelled.
- Where the machine sees something and is not sure, nothing is taught, neither object nor
  background.
- A round is used only if a person's held-out objects are found as well as before, and no more is
  seen there that is no object.

Where the machine would place a person's points elsewhere it says so; the label stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from medloop.dataset import Dataset
from medloop.gate import least_sure
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.matching import match, object_area
from medloop.overlap import iou, oks, suppress
from medloop.prepare.split import group_folds
from medloop.progress import Progress, silent
from medloop.recipes.recipe import ObjectRecipe

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: How far points, or the sides of boxes, move when the image is mirrored and scaled until the score
#: is halved, as a share of the object's size. Of most faces they moved .01, of what was none .04.
STEADY = {"pose": 0.025, "detector": 0.15}
#: Share of what is found in held-out images that is right, from the score that is chosen.
PRECISION = {"pose": 0.95, "detector": 0.95}
#: The same where nobody can say which findings are objects that were left out: of faces that were
#: none by the labels half were such.
_UNASKED = {"pose": 0.9, "detector": 0.95}
#: With fewer objects of a class in ``val`` than this no score is chosen by them.
FEWEST = 20
#: Of ours no object is believed below.
_LOWEST = 0.4
#: A machine's object is a person's where their boxes overlap as much, and disagrees with it where
#: their points are less similar.
_SAME, _OTHER = 0.5, 0.5


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images that no student learns from, and a person's objects in them.

    Parameters
    ----------
    dataset : Dataset
        Images with a person's objects; they are taken to be labelled completely.
    truth : Labels
    """

    dataset: Dataset
    truth: Labels


class Landmarks(ObjectRecipe):
    """The recipe's own settings, with their defaults."""

    needs_labels: ClassVar[bool] = True

    recipe: Literal["landmarks"] = "landmarks"
    overlap: float = Field(default=0.3, ge=0, le=1)
    alike: float = Field(default=0.5, ge=0, le=1)
    spread: float | None = Field(default=None, gt=0)
    unsure: float = Field(default=0.1, ge=0, le=1)
    trust: float = Field(default=0.5, gt=0, le=1)
    precision: float | None = Field(default=None, ge=0, le=1)
    invented_margin: float = Field(default=0.1, ge=0)
    _held: HeldOut | None = PrivateAttr(default=None)
    _sigmas: Floats | None = PrivateAttr(default=None)

    @property
    def confidence(self) -> float:
        """Score from which a machine's object can be a label; :func:`marks_of` asks for more."""
        if self.least is None and self.mode == "ours" and not self.plugin:
            return _LOWEST
        return super().confidence

    @property
    def unproved(self) -> float:
        """Score from which it is one where no score could be chosen on held-out images."""
        return super().confidence

    def knowing(self, *, held: HeldOut | None, sigmas: Floats | None) -> Self:
        """Return the recipe with what is known of the data besides the training split.

        Parameters
        ----------
        held : HeldOut, optional
            Objects by which the score is chosen from which a finding is believed.
        sigmas : (P,) float, optional
            Spread of each point; None where objects have no points.
        """
        copy = self.model_copy()
        copy._held, copy._sigmas = held, sigmas
        return copy

    def steps(
        self,
        dataset: Dataset,
        known: Labels,
        student: Any,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Step:
        """Make the step: objects of the next round from those of the last."""
        bench = Bench(self, dataset, student, progress)
        make = _ours if self.mode == "ours" else _faithful
        return lambda chain, before, number: make(bench, chain, before, number)

    def look(
        self, student: Any, dataset: Dataset, known: Labels, *, progress: Progress = silent
    ) -> Labels:
        """Find objects that are not known yet, with scores that fall where they do not hold still.

        Parameters
        ----------
        student : Pose or Detector
        dataset : Dataset
        known : Labels
            What overlaps one of these is left out.
        progress : Progress

        Returns
        -------
        Labels
        """
        return self.steadied(student, dataset, student.label(dataset, progress=progress), known)

    def steadied(self, student: Any, dataset: Dataset, found: Labels, known: Labels) -> Labels:
        """Return what :meth:`look` does, of what the student found."""
        new = found[~_covered(found, known, self.overlap)]
        new = _single(new, self.alike, self.spreads)
        if len(new) == 0:
            return new
        limit = self.spread or STEADY[self.student]
        moved = student.spread(dataset.where(images=new.image), new)
        # rounded as it is stored, so that a resumed run sees the same numbers
        score = np.asarray(new.score / (1 + (moved / limit) ** 4), np.float32)
        # a place where a student was sure is none of which to teach that it is empty
        sure = np.where(new.score >= self.confidence, min(self.unsure, self.confidence), 0.0)
        return new.with_(score=np.maximum(score.astype(np.float64), sure))

    @property
    def spreads(self) -> Floats | None:
        """Spread of each point, as given or as told; None where objects have no points."""
        return self._sigmas if self.sigmas is None else np.array(self.sigmas)

    @property
    def held(self) -> HeldOut | None:
        """What was told of images that no student learns from."""
        return self._held


@dataclass(frozen=True, eq=False)
class Bench:
    """What every step works with.

    Parameters
    ----------
    config : Landmarks
    dataset : Dataset
        The training split: images with and without labelled objects.
    student : Pose or Detector
        Not fitted.
    progress : Progress
    """

    config: Landmarks
    dataset: Dataset
    student: Any
    progress: Progress


def right_of(found: Labels, truth: Labels, sigmas: Floats | None) -> Mask:
    """Say which findings are an object of the truth each: by points, or by boxes alone.

    Examples
    --------
    >>> truth = Labels(image=[0], class_id=[0], box=[[0, 0, 9, 9]])
    >>> twice = Labels(image=[0, 0], class_id=[0, 0], score=[0.5, 0.9],
    ...                box=[[0, 0, 9, 8], [0, 0, 9, 9]])
    >>> right_of(twice, truth, None).tolist()
    [False, True]
    """
    points = sigmas is not None and found.keypoints is not None and truth.keypoints is not None
    by: dict[str, Any] = {"by": "points", "sigmas": sigmas} if points else {}
    return np.asarray(match(found, truth, thresholds=(_SAME,), most=None, **by).truth[0] >= 0)


def marks_of(
    config: Landmarks,
    found: Labels,
    held: HeldOut | None,
    classes: int,
    agreed: Mask | None = None,
) -> Floats:
    """Return (K,) the score from which an object of each class is believed.

    It is the lowest score from which, of all that :meth:`Landmarks.look` finds in held-out images,
    a share ``precision`` is right: meets an object of a person's, each object once. It is never
    below ``confidence``, and infinite where no score is so sure: then no object of the class is
    believed. Where ``precision`` is 0, where there are no held-out images, or fewer than 20 objects
    of the class in them, it is ``unproved``: .4 for objects with points, .7 for boxes alone.

    The share is a point estimate. The images count as completely labelled but for what is
    ``agreed``: where a person missed more objects there, the score becomes higher than it had to
    be. Of what is *added* to images that are labelled in part more is wrong, since the objects that
    a person labelled there are no additions.

    Parameters
    ----------
    config : Landmarks
    found : Labels
        In the held-out images.
    held : HeldOut, optional
    classes : int
        K.
    agreed : (n,) bool, optional
        Findings that are objects though nobody labelled them; disregarded where they are more than
        those that meet an object of a person's, since then the labels are no measure.
    """
    marks = np.full(classes, config.unproved)
    shares = PRECISION if agreed is not None else _UNASKED
    precision = shares[config.student] if config.precision is None else config.precision
    if held is None or precision == 0:
        return marks
    right = right_of(found, held.truth, config.spreads)
    if agreed is not None and agreed.sum() <= right.sum():
        right |= agreed
    believed = found.score >= config.confidence
    sure, right = found[believed], right[believed]
    for k in range(classes):
        rows = sure.class_id == k
        if (held.truth.class_id == k).sum() >= FEWEST:
            lowest = least_sure(sure.score[rows], right[rows], precision=precision)
            marks[k] = max(lowest, config.confidence)
    return marks


def _faithful(bench: Bench, known: Labels, before: Proposal | None, number: int) -> Proposal:
    """Train on everything so far, go on from the last weights, append what is new and sure."""
    had = Labels.empty() if before is None else before.labels
    taught = _seen(Labels.concat([known, had]))
    fitted = bench.student.fit(
        bench.dataset,
        taught,
        seed=bench.config.seed + number,
        start=None if before is None else before.student,
        progress=bench.progress,
    )
    found = fitted.label(bench.dataset, progress=bench.progress)
    sure = found[found.score >= bench.config.confidence]
    new = sure[~_covered(sure, Labels.concat([known, had]), bench.config.overlap)]
    labels = _plain(Labels.concat([had, new]), bench.dataset)
    return Proposal(fitted, labels, kept=len(had))


def _ours(bench: Bench, known: Labels, before: Proposal | None, number: int) -> Proposal:
    """Learn from a person's labels and the last round's, and label every image out of fold."""
    config = bench.config
    had = Labels.empty() if before is None else before.labels
    sure = had[had.score >= config.confidence]
    unsure = had[had.score < config.confidence]
    fitted = _learn(bench, known, sure, unsure, number, None if before is None else before.student)
    parts, doubts, others = [], [], []
    for student, images in _readers(bench, known, sure, unsure, number, fitted):
        if student is not fitted:
            others.append(student)
        found = student.label(images, progress=bench.progress)
        doubts.append(_doubts(found[found.score >= config.confidence], known, config.spreads))
        parts.append(config.steadied(student, images, found, known))
    seen = Labels.concat(parts)
    found = Labels.concat([_marked(bench, fitted, others, seen), _seen_again(sure, seen, config)])
    found = found[found.score >= min(config.unsure, config.confidence)]
    labels = _plain(_single(found, config.alike, config.spreads), bench.dataset)
    return Proposal(fitted, labels, kept=len(sure), doubts=Labels.concat(doubts))


def _learn(
    bench: Bench, known: Labels, sure: Labels, unsure: Labels, number: int, start: Any = None
) -> Any:
    """Fit to a person's labels and, with less weight, to the machine's; skip what is unsure."""
    taught = _seen(Labels.concat([known, sure]))
    weight = np.concatenate([np.ones(len(known)), np.full(len(sure), bench.config.trust)])
    return bench.student.fit(
        bench.dataset,
        taught,
        weight=weight,
        ignore=unsure.of(taught.looked_at),
        seed=bench.config.seed + number,
        start=start,
        progress=bench.progress,
    )


def _readers(
    bench: Bench, known: Labels, sure: Labels, unsure: Labels, number: int, fitted: Any
) -> Iterator[tuple[Any, Dataset]]:
    """Yield students, and the images that each labels, from which it has not learned.

    Images of which nothing is known are labelled in round 0 by the student that knows every label;
    all others by a student that learned from the other folds of the images alone.
    """
    dataset, config = bench.dataset, bench.config
    stated = np.isin(dataset.id, known.image)
    rest = np.ones(len(dataset), bool)
    if number == 0:
        rest = stated
        if not stated.all():
            yield fitted, dataset[~stated]
    # folds are the same in every round: a student never meets its own labels by way of another
    fold = group_folds(
        stated.astype(np.int64), dataset.group, folds=config.folds or 2, seed=config.seed
    )
    for own in range(int(fold.max()) + 1):
        if (rest & (fold == own)).any():
            others = dataset.id[fold != own]
            student = _learn(
                bench, known.of(others), sure.of(others), unsure.of(others), 2 * number + own
            )
            yield student, dataset[rest & (fold == own)]


def _seen_again(sure: Labels, found: Labels, config: Landmarks) -> Labels:
    """Return the labels of the round before that are found again; they keep their score.

    They reached the mark of their round. That of a later one is no better judge of them: a student
    that has learned to see what people left out sees it in held-out images too, where it counts as
    wrong, and the mark rises.
    """
    if len(sure) == 0 or len(found) == 0:
        return sure[:0]
    return sure[best_like(found, sure, config.spreads) >= config.alike]


def _marked(bench: Bench, fitted: Any, others: list[Any], found: Labels) -> Labels:
    """Hold scores below ``confidence`` where they do not reach the mark of their class."""
    config, held = bench.config, bench.config.held
    seen, agreed = found[:0], None
    if held is not None:
        seen = config.look(fitted, held.dataset, Labels.empty())
        agreed = _agreed(config, seen, others, held)
    marks = marks_of(config, seen, held, len(bench.dataset.classes), agreed)
    below = np.minimum(found.score, np.nextafter(np.float32(config.confidence), np.float32(0)))
    return found.with_(score=np.where(found.score >= marks[found.class_id], found.score, below))


def _agreed(config: Landmarks, found: Labels, others: list[Any], held: HeldOut) -> Mask:
    """Say which findings are objects that nobody labelled.

    Students that learned from different images all place their points alike, away from what a
    person labelled. Boxes prove nothing: they agree on whatever looks like an object.
    """
    agreed = np.zeros(len(found), bool)
    if config.spreads is None or found.keypoints is None or len(others) < 2:
        return agreed
    agreed |= ~_covered(found, held.truth, config.overlap)
    for student in others:
        seen = config.look(student, held.dataset, Labels.empty())
        seen = seen[seen.score >= config.confidence]
        agreed &= best_like(seen, found, config.spreads) >= _SAME
    return agreed


def best_like(found: Labels, truth: Labels, sigmas: Floats | None) -> Floats:
    """Return (n,) the similarity of each object of the truth with the best finding of its class.

    Of points where there are some, of boxes otherwise; 0 where nothing was found.

    Examples
    --------
    >>> truth = Labels(image=[0, 1], class_id=[0, 0], box=[[0, 0, 10, 10], [0, 0, 10, 10]])
    >>> found = Labels(image=[0], class_id=[0], box=[[0, 0, 10, 5]])
    >>> best_like(found, truth, None).tolist()
    [0.5, 0.0]
    """
    best = np.zeros(len(truth))
    area = object_area(truth)
    for image in np.intersect1d(truth.image, found.image):
        rows, there = np.flatnonzero(truth.image == image), np.flatnonzero(found.image == image)
        one, other = found[there], truth[rows]
        if sigmas is not None and one.keypoints is not None and other.keypoints is not None:
            like = oks(one.keypoints, other.keypoints, area[rows], sigmas)
        else:
            like = iou(one.boxes, other.boxes)
        best[rows] = (like * (one.class_id[:, None] == other.class_id[None, :])).max(axis=0)
    return best


def _covered(labels: Labels, known: Labels, most: float) -> Mask:
    """Say which rows overlap a known object of their image by more than ``most``."""
    covered = np.zeros(len(labels), bool)
    for image in np.intersect1d(labels.image, known.image):
        rows, there = np.flatnonzero(labels.image == image), known.image == image
        like = iou(labels.boxes[rows], known.boxes[there])
        covered[rows] = like.max(axis=1) > most
    return covered


def _single(labels: Labels, alike: float, sigmas: Floats | None) -> Labels:
    """Keep the surest of those that are one object by their points, or by their boxes."""
    if sigmas is None or labels.keypoints is None:
        group = np.column_stack([labels.image, labels.class_id])
        return labels[suppress(labels.boxes, labels.score, alike, group=group)]
    kept = suppress(
        labels.keypoints,
        labels.score,
        alike,
        group=labels.image,
        area=object_area(labels),
        sigmas=sigmas,
    )
    return labels[kept]


def _doubts(found: Labels, known: Labels, sigmas: Floats | None) -> Labels:
    """Return the machine's points of a person's objects where the two disagree."""
    if sigmas is None or found.keypoints is None or known.keypoints is None:
        return Labels.empty()
    chosen = []
    area = object_area(known)
    for image in np.intersect1d(found.image, known.image):
        rows, there = np.flatnonzero(found.image == image), np.flatnonzero(known.image == image)
        overlap = iou(found.boxes[rows], known.boxes[there])
        like = oks(found.keypoints[rows], known.keypoints[there], area[there], sigmas)
        best = overlap.argmax(axis=0)
        for column, row in enumerate(best.tolist()):
            if overlap[row, column] >= _SAME and like[row, column] < _OTHER:
                chosen.append(int(rows[row]))
    return found[np.array(sorted(set(chosen)), np.int64)]


def _seen(labels: Labels) -> Labels:
    """Learn only from images with something labelled: in others all may have been missed."""
    return labels.with_(looked_at=np.unique(labels.image))


def _plain(labels: Labels, dataset: Dataset) -> Labels:
    """Return objects in the order of their images, of which all were looked at."""
    order = np.argsort(labels.image, kind="stable")
    return labels[order].with_(looked_at=dataset.id)
