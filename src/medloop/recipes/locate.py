"""Boxes and classes from classes of whole images.

The published method (DCLNet; larynx; headline: accuracy 82.60 -> 83.15, F .626 -> .704):

1. Train a classifier on the classes; its activation map on images that it gets right tells where.
2. Segment Anything proposes masks from a grid of points; the mask with the highest mean activation
   gives the box, 10% enlarged.
3. Train a detector of one class on these boxes and let it look at every image.
4. Train a detector of all classes, easy images first: four steps, each with a quarter more of the
   images, in the order of the first detector's confidence.
5. Activation maps of that detector and a finer grid give new boxes; four rounds.
6. An image has the class of its surest box.

``faithful`` does just that. ``ours`` changes these things, since the faithful rule favours tiny
masks, and a model is sure of what it learned:

- No box comes from a student that learned from its image: patients are halved.
- Boxes are chosen by the soft overlap of map and mask (or as a few boxes of a person teach it),
  from the classifier's map and the detector's together, and rounds vote.
- Detector and classifier decide the class together, each by how well it does on images that it has
  not seen.
- A round is used only if held-out images do not lose by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from medloop.choose import Choice, Example, choose, resized, tune, vote
from medloop.curriculum import stages, teachers
from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.prepare.split import group_folds
from medloop.progress import Progress, silent
from medloop.proposals import Masks, make_proposer, propose_all
from medloop.recipes.recipe import Recipe
from medloop.students import Student, make_student
from medloop.students.localizer import (
    Localizer,
    best_share,
    box_map,
    maps_of,
    seen,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Points a side of the grid that Segment Anything is asked at, by round.
GRIDS = (6, 8, 10)
#: How boxes are chosen where nobody drew any: by the soft overlap with the peaks of the map.
PEAKS = Choice(rule="soft_iou", power=2.0, quantile=0.8)


class Locate(Recipe):
    """The recipe's own settings, with their defaults."""

    kind: ClassVar[Literal["images", "objects", "places"]] = "places"

    recipe: Literal["locate"] = "locate"
    student: Literal["patches", "network"] = "network"
    boxes: str | None = None
    proposals: Literal["regions", "sam"] = "regions"
    proposal_options: dict[str, Any] = Field(default_factory=dict)
    detector_options: dict[str, Any] = Field(default_factory=dict)
    background: list[str] = Field(default_factory=list)
    rule: Literal["auto", "soft_iou", "faithful", "union", "otsu"] = "auto"
    curriculum: Literal["confidence", "random", "none"] = "confidence"
    rounds: int = Field(default=4, ge=0, le=100)
    gate_margin: float = Field(default=0.02, ge=0, lt=1)
    test_share: float = Field(default=0.2, ge=0, lt=1)
    val_share: float = Field(default=0.15, ge=0, lt=1)
    #: A person's few boxes; filled when they are read.
    _few: Labels | None = PrivateAttr(default=None)

    def steps(
        self,
        dataset: Dataset,
        known: Labels,
        student: Student,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Step:
        """Make the step: boxes of the next round from those of the last.

        Parameters
        ----------
        dataset : Dataset
            The training split.
        known : Labels
            (n,) One class an image of it.
        student : Student
            The classifier, prepared, not fitted.
        folder : Path, optional
            Where masks are kept.
        progress : Progress

        Raises
        ------
        DataError
            An unknown background class, or nothing but background.
        """
        for name in self.background:
            if name not in dataset.classes:
                raise DataError(
                    f"background class {name!r} is none of {', '.join(dataset.classes)}."
                )
        background = tuple(dataset.classes.index(name) for name in self.background)
        shown = known[~np.isin(known.class_id, background)]
        if len(shown) == 0:
            raise DataError("every image is of a background class: there is nothing to locate.")
        bench = Bench(
            self,
            dataset,
            known,
            shown,
            student,
            make_student("detector", self.detector_options),
            Labels.empty() if self._few is None else self._few,
            background,
            folder,
            progress,
        )
        make = _ours if self.mode == "ours" else _faithful
        return lambda chain, before, number: make(bench, before, number)

    def with_boxes(self, few: Labels) -> Self:
        """Return the recipe with a person's few boxes, which teach how to choose."""
        copy = self.model_copy()
        copy._few = few
        return copy


@dataclass(frozen=True, eq=False)
class Bench:
    """What every step works with.

    Parameters
    ----------
    config : Locate
    dataset : Dataset
        The training split.
    known, shown : Labels
        The class of each image; and of those whose class shows somewhere.
    student : Student
        The classifier, not fitted.
    detector : Detector
        Not fitted.
    few : Labels
        A person's boxes.
    background : tuple of int
    folder : Path, optional
    progress : Progress
    """

    config: Locate
    dataset: Dataset
    known: Labels
    shown: Labels
    student: Student
    detector: Any
    few: Labels
    background: tuple[int, ...]
    folder: Path | None
    progress: Progress

    def localizer(self, classifier: Student, choice: Choice, number: int) -> Localizer:
        """Make the student of a round, so far without a detector."""
        return Localizer(
            classifier=classifier,
            choice=choice,
            proposals=self.config.proposals,
            proposal_options=self.options(number),
            background=self.background,
            fine=self.config.mode == "ours",
        )

    def options(self, number: int) -> dict[str, Any]:
        """Return the proposer's settings in a round: a grid that grows finer, for ``sam``."""
        own = dict(self.config.proposal_options)
        if self.config.proposals == "sam" and "points" not in own:
            own["points"] = GRIDS[min(number, len(GRIDS) - 1)]
        return own

    def masks(self, number: int) -> Callable[[int], Masks]:
        """Propose the masks of all images that show something, or read them back."""
        proposer = make_proposer(self.config.proposals, self.options(number))
        part = self.dataset.where(images=self.shown.image)
        folder = None if self.folder is None else self.folder / "masks"
        masks, _ = propose_all(proposer, part, folder=folder, progress=self.progress)
        return masks


# -- the published way -----------------------------------------------------------------------------


def _faithful(bench: Bench, before: Proposal | None, number: int) -> Proposal:
    """Boxes of the last round train a detector of one class, then easy to hard one of all."""
    config, dataset = bench.config, bench.dataset
    choice = Choice(rule="faithful" if config.rule == "auto" else config.rule)
    if before is None:
        classifier = bench.student.fit(dataset, bench.known, seed=config.seed)
        said = classifier.label(dataset).of(bench.shown.image)
        rows, _ = teachers(said.class_id, bench.shown.class_id, len(dataset.classes))
        right = bench.shown[rows]
        maps = maps_of(classifier, dataset.where(images=right.image), right.class_id, fine=False)
        boxes = _chosen(bench, right, maps, choice, 0)
        return Proposal(bench.localizer(classifier, choice, 0), boxes, kept=0)
    had: Localizer = before.student  # type: ignore[assignment]
    boxes = _drawn(before.labels)
    one = _single_class(bench, boxes, bench.detector)
    found = one.label(_unclassed(dataset.where(images=bench.shown.image)))
    boxes = _surest(found, bench.shown)
    detector = _curriculum(bench, boxes, bench.detector, number)
    seen_in = detector.label(dataset.where(images=bench.shown.image), progress=bench.progress)
    maps = _detector_maps(bench, seen_in, bench.shown)
    new = _chosen(bench, bench.shown, maps, choice, number)
    student = replace(had, detector=detector, share=1.0, proposal_options=bench.options(number))
    return Proposal(student, new, kept=len(boxes))


def _single_class(bench: Bench, boxes: Labels, detector: Any) -> Any:
    """Train a detector that only knows that there is something."""
    dataset = _unclassed(bench.dataset.where(images=boxes.looked_at))
    plain = boxes.with_(class_id=np.zeros(len(boxes), np.int64), probs=None)
    return detector.fit(dataset, plain, seed=bench.config.seed, progress=bench.progress)


def _unclassed(dataset: Dataset) -> Dataset:
    return replace(dataset, classes=("object",))


def _curriculum(bench: Bench, boxes: Labels, detector: Any, number: int) -> Any:
    """Train a detector of all classes on growing parts of the boxes, each step from the last."""
    config = bench.config
    steps = stages(boxes.score, order=config.curriculum, steps=4, seed=config.seed)
    share = replace(
        detector,
        epochs=max(1, detector.epochs // len(steps)),
        min_steps=max(1, detector.min_steps // len(steps)),
    )
    made = None
    for step, rows in enumerate(steps):
        part = boxes[rows]
        part = part.with_(looked_at=np.unique(part.image))
        made = share.fit(
            bench.dataset,
            part,
            seed=config.seed + 10 * number + step,
            start=made,
            progress=bench.progress,
        )
    return made


# -- ours ------------------------------------------------------------------------------------------


def _ours(bench: Bench, before: Proposal | None, number: int) -> Proposal:
    """Choose boxes out of fold, by classifier and detector together, and let rounds vote."""
    config, dataset = bench.config, bench.dataset
    class_of = np.full(len(dataset), -1)
    class_of[dataset.position(bench.known.image)] = bench.known.class_id
    half = group_folds(class_of, dataset.group, folds=2, seed=config.seed)
    if before is None:
        maps, probs = _cross_maps(bench, half)
        classifier = bench.student.fit(dataset, bench.known, seed=config.seed)
        choice = _choice(bench, maps)
        boxes = _chosen(bench, bench.shown, maps, choice, 0)
        boxes = boxes.with_(probs=probs[dataset.position(boxes.image)])
        return Proposal(bench.localizer(classifier, choice, 0), boxes, kept=0)
    had: Localizer = before.student  # type: ignore[assignment]
    boxes = before.labels
    found, opinions = [], np.zeros((len(dataset), len(dataset.classes)))
    for own in (0, 1):
        learned, mine = dataset.id[half != own], dataset[half == own]
        detector = bench.detector.fit(
            dataset,
            _lessons(bench, boxes, learned),
            seed=config.seed + 2 * number + own,
            progress=bench.progress,
        )
        found.append(detector.label(mine, progress=bench.progress))
        opinions[half == own] = seen(found[-1], mine, len(dataset.classes))
    maps, probs = _cross_maps(bench, half)
    both = Labels.concat(found)
    drawn = _detector_maps(bench, both, bench.shown)
    shape = (drawn.shape[1], drawn.shape[2])
    joined = (np.stack([resized(one, shape) for one in maps]) + drawn) / 2
    new = _chosen(bench, bench.shown, joined, had.choice, number)
    voted = _voted(bench, new, boxes, both)
    voted = voted.with_(probs=probs[dataset.position(voted.image)])
    everything = _lessons(bench, voted, dataset.id)
    detector = bench.detector.fit(
        dataset, everything, seed=config.seed + number, progress=bench.progress
    )
    order = dataset.position(bench.known.image)
    share = best_share(probs[order], opinions[order], bench.known.class_id)
    student = replace(had, detector=detector, share=share)
    return Proposal(student, voted, kept=len(everything))


def _cross_maps(bench: Bench, half: Ints) -> tuple[Floats, Floats]:
    """Maps of the true class (of ``shown``), and probabilities, by classifiers of the other half.

    Returns
    -------
    maps : (s, h, w) float
    probs : (n, K) float
        Of the whole data set.
    """
    dataset = bench.dataset
    probs = np.zeros((len(dataset), len(dataset.classes)))
    maps: dict[int, Floats] = {}
    for own in (0, 1):
        others = dataset.id[half != own]
        classifier = bench.student.fit(dataset, bench.known.of(others), seed=bench.config.seed)
        mine = dataset[half == own]
        probs[half == own] = classifier.label(mine).probs
        shown = bench.shown.of(mine.id)
        shown = shown[np.argsort(dataset.position(shown.image), kind="stable")]
        part = dataset.where(images=shown.image)
        if len(part):
            made = maps_of(classifier, part, shown.class_id, fine=True, progress=bench.progress)
            maps |= dict(zip(part.id.tolist(), made, strict=True))
    return np.stack([maps[image] for image in bench.shown.image.tolist()]), probs


def _choice(bench: Bench, maps: Floats) -> Choice:
    """Take the rule that was asked for, or the one that a few boxes of a person teach."""
    config = bench.config
    if config.rule != "auto":
        return Choice(rule=config.rule)
    few = bench.few.of(bench.shown.image)
    if len(few) == 0:
        return PEAKS
    masks = bench.masks(0)
    examples = [
        Example(
            map=maps[row],
            masks=masks(image),
            image=bench.dataset.image(image),
            box=few.of([image]).boxes,
        )
        for row, image in enumerate(bench.shown.image.tolist())
        if image in few.image
    ]
    return tune(examples, start=PEAKS).choice


def _voted(bench: Bench, new: Labels, had: Labels, found: Labels) -> Labels:
    """Let the box of this round, of the round before, and of the detector vote in each image."""
    box = new.boxes.copy()
    sure = found[found.score >= 0.3]
    for row, (image, k) in enumerate(zip(new.image.tolist(), new.class_id.tolist(), strict=True)):
        votes = [new.boxes[row]]
        weight = [1.0]
        earlier = had.boxes[had.image == image]
        if len(earlier):
            votes.append(earlier[0])
            weight.append(1.0)
        mine = sure[(sure.image == image) & (sure.class_id == k)]
        if len(mine):
            votes.append(mine.boxes[np.argmax(mine.score)])
            weight.append(1.0 + float(mine.score.max()))
        box[row] = vote(votes, weight)
    return new.with_(box=box.astype(np.float32).astype(np.float64))


# -- what both use ---------------------------------------------------------------------------------


def _chosen(bench: Bench, labels: Labels, maps: Floats, choice: Choice, number: int) -> Labels:
    """Choose the box of each of these rows by its map; a person's own box stands."""
    masks = bench.masks(number)
    box, score = np.zeros((len(labels), 4)), np.zeros(len(labels))
    for row, image in enumerate(labels.image.tolist()):
        one = choose(maps[row], masks(image), choice, image=bench.dataset.image(image))
        box[row], score[row] = one.box[0], one.score[0]
        given = bench.few.of([image])
        if len(given):
            box[row], score[row] = given.boxes[0], 1.0
        bench.progress("choosing boxes", row + 1, len(labels))
    return Labels(
        image=labels.image,
        class_id=labels.class_id,
        score=np.clip(score, 0, 1).astype(np.float32).astype(np.float64),
        box=box.astype(np.float32).astype(np.float64),
        looked_at=bench.dataset.id,
    )


def _detector_maps(bench: Bench, found: Labels, labels: Labels) -> Floats:
    """Draw what the detector saw of the class of each row."""
    drawn = []
    for image, k in zip(labels.image.tolist(), labels.class_id.tolist(), strict=True):
        mine = found[(found.image == image) & (found.class_id == k)]
        h, w = bench.dataset.image(image).shape[:2]
        drawn.append(box_map(mine.boxes, mine.score, (h, w)))
    return np.stack(drawn)


def _drawn(labels: Labels) -> Labels:
    """Return the rows that have a box, of the images that were looked at."""
    there = (labels.boxes[:, 2] > labels.boxes[:, 0]) & (labels.boxes[:, 3] > labels.boxes[:, 1])
    kept = labels[there].with_(probs=None)
    return kept.with_(looked_at=np.unique(kept.image))


def _lessons(bench: Bench, boxes: Labels, images: Ints) -> Labels:
    """Return the boxes of these images; those of a background class hold nothing."""
    empty = bench.known.image[np.isin(bench.known.class_id, bench.background)]
    kept = _drawn(boxes).of(images)
    return kept.with_(looked_at=np.union1d(kept.image, np.intersect1d(empty, images)))


def _surest(found: Labels, labels: Labels) -> Labels:
    """Return the surest finding of each image, with the class that a person gave the image."""
    order = np.lexsort((-found.score, found.image))
    first = order[np.unique(found.image[order], return_index=True)[1]]
    one = found[first]
    class_of = dict(zip(labels.image.tolist(), labels.class_id.tolist(), strict=True))
    classes = np.array([class_of[image] for image in one.image.tolist()], np.int64)
    return one.with_(class_id=classes, probs=None, looked_at=one.image)
