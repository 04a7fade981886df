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

- No box comes from a detector that learned a box of its image: patients are halved.
- Where some classes are background, the map is that of a classifier of something against nothing:
  what tells one lesion from another is not where the lesion is.
- Boxes are chosen by the soft overlap of mask and peaks of the map, or as a few boxes of a person
  teach it; from the second round on the classifier's map, the map and the detector together, and
  the detector alone vote.
- Detector and classifier decide the class together, each by how well it does on images that it has
  not seen.
- A round is used only if held-out images are classified as well as before, and its boxes are shown
  to stand out more from what is beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from medloop.choose import Choice, Example, choose, self_taught, tune
from medloop.curriculum import stages, teachers
from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.loop import Proposal, Step
from medloop.overlap import area
from medloop.prepare.split import group_folds
from medloop.progress import Note, Progress, silent
from medloop.proposals import Masks, make_proposer, propose_all
from medloop.read.image import shown
from medloop.recipes.recipe import Recipe
from medloop.students import Student, make_student
from medloop.students.localizer import (
    Localizer,
    best_share,
    box_map,
    fused,
    maps_of,
    place,
    pointed,
    seen,
    seen_in,
    single,
    somewhere,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Points a side of the grid that Segment Anything is asked at, by round.
GRIDS = (6, 8, 10)
#: Names of classes of which nothing shows, and how others of them begin.
NOTHING = tuple("normal negative none nothing healthy background control no without".split())
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
    detector: Literal["detector", "transformer_detector", "ultralytics"] = "detector"
    detector_options: dict[str, Any] = Field(default_factory=dict)
    background: list[str] | None = None
    rule: Literal["auto", "soft_iou", "faithful", "union", "otsu"] = "auto"
    curriculum: Literal["confidence", "random", "none"] = "confidence"
    rounds: int = Field(default=4, ge=0, le=100)
    gate_margin: float = Field(default=0.02, ge=0, lt=1)
    test_share: float = Field(default=0.2, ge=0, lt=1)
    val_share: float = Field(default=0.15, ge=0, lt=1)
    #: A person's few boxes; filled when they are read.
    _few: Labels | None = PrivateAttr(default=None)
    _note: Note | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _settings_of_ours(self) -> Self:
        """Ask for two rounds of ours, as the third hardly moves a box, and for good maps.

        Maps are a thirty-second of the image wide in their coarsest layer, so that small images
        point nowhere. Rare classes are seen as often as others, and certainty is not asked for: a
        network that is certain has stopped to learn where to look. Three detectors are
        trained a round, small and short: those of ``docs/results.md`` saw 200 steps at 128 pixels.
        """
        if self.mode == "ours":
            if "rounds" not in self.model_fields_set:
                self.rounds = 2
            if self.student == "network":
                looking = {"size": 160, "sampling": "balanced", "label_smoothing": 0.05}
                self.student_options = looking | self.student_options
            if self.detector == "detector":
                own = self.detector_options
                long = own.keys() & {"epochs", "min_steps", "max_steps"}
                self.detector_options = {"size": 128, **({} if long else {"max_steps": 400}), **own}
        return self

    def settled(self, classes: Sequence[str], *, points: bool, note: Note) -> Self:
        """Take classes for background whose names say that nothing shows: ``no finding``.

        Only ours does, where nobody named the background, and where a class remains to be located.

        Examples
        --------
        >>> given = {"points": False, "note": lambda sentence: None}
        >>> Locate(images="").settled(["Normal", "no_polyp", "noma"], **given).background
        ['Normal', 'no_polyp']
        """
        if self.mode != "ours" or self.background is not None:
            return self
        found = [name for name in classes if re.split(r"[\W_]", name.lower())[0] in NOTHING]
        if not found or len(found) == len(classes):
            return self
        which = "class {}, by its name" if len(found) == 1 else "classes {}, by their names"
        note(
            f"Nothing is drawn in images of the {which.format(', '.join(found))}; "
            "with --set background=[] it is."
        )
        return self.model_copy(update={"background": found})

    def teaching_files(self) -> set[str]:
        """Name the files in which a person drew boxes."""
        if self.boxes is None:
            return set()
        from medloop.read.coco import read_coco

        read = read_coco(Path(self.boxes))
        return set(read.file[np.unique(read.labels.image)].tolist())

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
        named = self.background or []
        for name in named:
            if name not in dataset.classes:
                raise DataError(
                    f"background class {name!r} is none of {', '.join(dataset.classes)}."
                )
        background = tuple(dataset.classes.index(name) for name in named)
        shown = known[~np.isin(known.class_id, background)]
        if len(shown) == 0:
            raise DataError("every image is of a background class: there is nothing to locate.")
        detector = make_student(self.detector, self.detector_options)
        bench = Bench(
            config=self,
            dataset=dataset,
            known=known,
            shown=shown,
            student=student,
            detector=detector,
            few=Labels.empty() if self._few is None else self._few,
            background=background,
            folder=folder,
            progress=progress,
            note=self._note,
            said=list(getattr(detector, "notices", ())),
        )
        make = _ours if self.mode == "ours" else _faithful
        return lambda chain, before, number: make(bench, before, number)

    def with_boxes(self, few: Labels, *, note: Note | None = None) -> Self:
        """Return the recipe with a person's few boxes, which teach how to choose.

        ``note`` is told what a person should know of how boxes are made.
        """
        copy = self.model_copy()
        copy._few, copy._note = few, note
        return copy


@dataclass(frozen=True, eq=False, kw_only=True)
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
    note : callable, optional
        Told what a person should know.
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
    note: Note | None = None
    said: list[str] = field(default_factory=list)
    _proposed: dict[str, tuple[Callable[[int], Masks], set[str]]] = field(default_factory=dict)
    _sights: list[Sight] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        """Tell a person something, once."""
        if sentence not in self.said:
            self.said.append(sentence)
            if self.note is not None:
                self.note(sentence)

    def localizer(
        self, classifier: Student, choice: Choice, number: int, *, pointer: Any = None
    ) -> Localizer:
        """Make the student of a round, so far without a detector."""
        return Localizer(
            classifier=classifier,
            pointer=pointer,
            choice=choice,
            proposals=self.config.proposals,
            proposal_options=self.options(number),
            background=self.background,
            fine=self.config.mode == "ours",
            said=tuple(self.said),
        )

    def options(self, number: int) -> dict[str, Any]:
        """Return the proposer's settings in a round: a grid that grows finer, for ``sam``."""
        own = dict(self.config.proposal_options)
        if self.config.proposals == "sam" and "points" not in own:
            own["points"] = GRIDS[min(number, len(GRIDS) - 1)]
        return own

    def masks(self, number: int, *, beside: Ints | None = None) -> Callable[[int], Masks | None]:
        """Propose masks where something shows, or read them back; None for an image without any.

        ``beside`` are images of a background class that are wanted too.
        """
        options = self.options(number)
        images = self.shown.image if beside is None else np.union1d(self.shown.image, beside)
        key = json.dumps([options, len(images)], sort_keys=True, default=str)
        if key not in self._proposed:
            folder = None if self.folder is None else self.folder / "masks"
            masks_of, refused = propose_all(
                make_proposer(self.config.proposals, options),
                self.dataset.where(images=images),
                folder=folder,
                progress=self.progress,
            )
            if refused:
                self.say(
                    f"{len(refused):,} images got no box, as no region could be proposed in them, "
                    f"such as {shown(refused[0][0])}: {refused[0][1]}"
                )
            self._proposed[key] = (masks_of, {file for file, _ in refused})
        masks_of, bad = self._proposed[key]
        file = dict(zip(self.dataset.id.tolist(), self.dataset.file.tolist(), strict=True))
        return lambda image: None if str(file[image]) in bad else masks_of(image)

    def half(self) -> Ints:
        """Return the half of each image: no patient is in both."""
        class_of = np.full(len(self.dataset), -1)
        class_of[self.dataset.position(self.known.image)] = self.known.class_id
        return group_folds(class_of, self.dataset.group, folds=2, seed=self.config.seed)

    def sight(self, had: Localizer | None = None) -> Sight:
        """Fit the classifiers and look at every image; the same in every round.

        ``had`` is the student of a round that was read back: its classifiers need no new fit.
        """
        if not self._sights:
            self._sights.append(_look(self, had))
        return self._sights[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sight:
    """What classifiers say of all images, and where they look.

    Parameters
    ----------
    classifier : Student
        Fitted to all classes.
    pointer : Student, optional
        Fitted to something against nothing; None where the classifier itself tells that, or where
        something shows in every image.
    maps : dict of int to (h, w) float
        Of each image whose class is known, by its id: of its class; of a background class, of
        what is likeliest of the others.
    probs : (n, K) float
        Of all images, by classifiers that have not learned from them.
    """

    classifier: Student
    pointer: Student | None
    maps: dict[int, Floats]
    probs: Floats


# -- the published way -----------------------------------------------------------------------------


def _faithful(bench: Bench, before: Proposal | None, number: int) -> Proposal:
    """Boxes of the last round train a detector of one class, then easy to hard one of all."""
    config, dataset = bench.config, bench.dataset
    choice = Choice(rule="faithful" if config.rule == "auto" else config.rule)
    if before is None:
        classifier = bench.student.fit(
            dataset, bench.known, seed=config.seed, progress=bench.progress
        )
        said = classifier.label(dataset, progress=bench.progress).of(bench.shown.image)
        rows, lost = teachers(said.class_id, bench.shown.class_id, len(dataset.classes))
        for k in lost.tolist():
            bench.say(
                f"The classifier got no image of class {dataset.classes[k]!r} right: the maps of "
                "all its images are used, and may point anywhere."
            )
        right = bench.shown[rows]
        maps = maps_of(classifier, dataset.where(images=right.image), right.class_id, fine=False)
        boxes = _chosen(bench, right, maps, choice, 0)
        return Proposal(bench.localizer(classifier, choice, 0), boxes, kept=0)
    had: Localizer = before.student  # type: ignore[assignment]
    boxes = _drawn(before.labels)
    one = _single_class(bench, boxes, bench.detector)
    found = one.label(_unclassed(dataset.where(images=bench.shown.image)))
    if len(found) == 0:
        raise DataError(
            "the detector found nothing in any image after it had learned the first boxes: give it "
            "more steps (min_steps in detector_options), or a lower score to answer from (least)."
        )
    boxes = _surest(found, bench.shown)
    detector = _curriculum(bench, boxes, bench.detector, number)
    seen_in = detector.label(dataset.where(images=bench.shown.image), progress=bench.progress)
    maps = _detector_maps(bench, seen_in, bench.shown)
    new = _chosen(bench, bench.shown, maps, choice, number)
    student = replace(
        had,
        detector=detector,
        share=1.0,
        proposal_options=bench.options(number),
        temperature=1.0,  # that of the round before was fitted to another student
    )
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
    """Choose boxes out of fold, by classifier and detector together."""
    config, dataset = bench.config, bench.dataset
    had: Any = None if before is None else before.student
    sight, order = bench.sight(had), bench.dataset.position(bench.known.image)
    if before is None:
        choice = _choice(bench, sight)
        boxes = _placed(bench, sight, choice, 0, None)
        student = bench.localizer(sight.classifier, choice, 0, pointer=sight.pointer)
        return Proposal(student, boxes.with_(probs=sight.probs[order]), kept=0)
    half = bench.half()
    found, opinions = [], np.zeros((len(dataset), len(dataset.classes)))
    for own in (0, 1):
        detector = bench.detector.fit(
            dataset,
            _lessons(bench, before.labels, dataset.id[half != own]),
            seed=config.seed + 2 * number + own,
            progress=bench.progress,
        )
        mine = dataset[half == own]
        found.append(detector.label(mine, progress=bench.progress))
        opinions[half == own] = seen(found[-1], mine, len(dataset.classes))
    boxes = _placed(bench, sight, had.choice, number, Labels.concat(found))
    lessons = _lessons(bench, boxes, dataset.id)
    detector = bench.detector.fit(
        dataset, lessons, seed=config.seed + number, progress=bench.progress
    )
    probs, opinions = sight.probs[order], opinions[order]
    share = best_share(probs, opinions, bench.known.class_id)
    student = replace(
        had,
        detector=detector,
        share=share,
        proposal_options=bench.options(number),
        temperature=1.0,  # that of the round before was fitted to another student
    )
    return Proposal(student, boxes.with_(probs=fused(probs, opinions, share)), kept=len(lessons))


def _look(bench: Bench, had: Localizer | None) -> Sight:
    """Classify out of fold, and point by a classifier of all images.

    A map answers no question that it was taught the answer of: its classifier learned the image's
    class, which a person gave, and no box. One that has seen the image points better.
    """
    dataset, known = bench.dataset, bench.known
    told: dict[str, Any] = {"seed": bench.config.seed, "progress": bench.progress}
    probs = np.zeros((len(dataset), len(dataset.classes)))
    half = bench.half()
    for own in (0, 1):
        others, mine = known.of(dataset.id[half != own]), dataset[half == own]
        for k in np.setdiff1d(known.of(mine.id).class_id, others.class_id).tolist():
            bench.say(
                f"All images of class {dataset.classes[k]!r} are of patients of one half: no model "
                "that has not learned from them knows the class, and none can judge them."
            )
        probs[half == own] = bench.student.fit(dataset, others, **told).label(mine).probs
    classifier = bench.student.fit(dataset, known, **told) if had is None else had.classifier
    pointer = None if had is None else had.pointer
    if had is None and bench.background and len(dataset.classes) > len(bench.background) + 1:
        shows = (~np.isin(known.class_id, bench.background)).astype(np.int64)
        pointer = bench.student.fit(somewhere(dataset), known.with_(class_id=shows), **told)
    part = dataset.where(images=known.image)
    likely = probs[dataset.position(part.id)]
    likely[:, list(bench.background)] = -1.0
    class_of = dict(zip(known.image.tolist(), known.class_id.tolist(), strict=True))
    wanted = np.array([class_of[image] for image in part.id.tolist()], np.int64)
    wanted = np.where(np.isin(wanted, bench.background), likely.argmax(axis=1), wanted)
    made = pointed(classifier, pointer, part, wanted, fine=True, progress=bench.progress)
    maps = dict(zip(part.id.tolist(), made, strict=True))
    return Sight(classifier=classifier, pointer=pointer, maps=maps, probs=probs)


def _placed(
    bench: Bench, sight: Sight, choice: Choice, number: int, found: Labels | None
) -> Labels:
    """Place the class of every image, one row each; zeros where nothing shows."""
    known, masks_of = bench.known, bench.masks(number)
    box, score = np.zeros((len(known), 4)), np.zeros(len(known))
    nowhere = np.isin(known.class_id, bench.background)
    for row, (image, k) in enumerate(
        zip(known.image.tolist(), known.class_id.tolist(), strict=True)
    ):
        given = bench.few.of([image])
        masks = None if nowhere[row] or len(given) else masks_of(image)
        if len(given):
            box[row], score[row] = given.boxes[0], 1.0
        elif masks is not None:
            box[row], score[row] = place(
                sight.maps[image],
                masks,
                choice,
                bench.dataset.image(image),
                seen_in(found, image, k),
            )
        bench.progress("choosing boxes", row + 1, len(known))
    return _table(bench, known, box, score)


def _choice(bench: Bench, sight: Sight) -> Choice:
    """Take the rule that was asked for, or the one that a few boxes of a person teach."""
    config = bench.config
    if config.rule != "auto":
        return Choice(rule=config.rule)
    few = bench.few.of(bench.shown.image)
    lost = len(np.setdiff1d(bench.few.image, bench.dataset.id))
    if lost:
        said = (
            "is not in the training split and teaches"
            if lost == 1
            else ("are not in the training split and teach")
        )
        bench.say(f"{lost:,} of the images with a person's boxes {said} nothing.")
    if len(few) == 0:
        return PEAKS
    drawn = np.unique(few.image)
    nothing = bench.known.image[np.isin(bench.known.class_id, bench.background)]
    # as many that hold nothing, from everywhere in the table
    nothing = nothing[:: max(1, len(nothing) // len(drawn))][: len(drawn)]
    masks_of = bench.masks(0, beside=nothing)
    examples = []
    for image in [*drawn.tolist(), *nothing.tolist()]:
        masks = masks_of(image)
        if masks is not None:
            pixels, box = bench.dataset.image(image), few.of([image]).boxes
            examples.append(Example(map=sight.maps[image], masks=masks, image=pixels, box=box))
    also = {"self-taught": _self_taught(bench, sight, nothing)}
    tuned = tune(examples, start=PEAKS, also=also)
    names = {"soft_iou": "the overlap of map and region", "ranked": "a ranking of regions"}
    names |= {"union": "joining regions", "otsu": "Otsu's threshold of the map"}
    bench.say(
        f"Boxes are chosen by {names[tuned.choice.rule]}, as {len(drawn):,} images "
        f"with a person's boxes taught it: each judged by the others, the mean overlap is "
        f"{tuned.fit:.2f}."
    )
    return tuned.choice


def _self_taught(bench: Bench, sight: Sight, nothing: Ints) -> Choice:
    """Learn from all maps together what the things look like that they point at."""
    masks_of = bench.masks(0, beside=nothing)

    def examples() -> Iterator[tuple[Floats, Masks, Any, bool]]:
        for image in [*bench.shown.image.tolist(), *nothing.tolist()]:
            masks = masks_of(image)
            if masks is not None:
                yield sight.maps[image], masks, bench.dataset.image(image), image not in nothing

    return self_taught(examples())


# -- what both use ---------------------------------------------------------------------------------


def _chosen(bench: Bench, labels: Labels, maps: Floats, choice: Choice, number: int) -> Labels:
    """Choose the box of each of these rows by its map; a person's own box stands."""
    masks_of = bench.masks(number)
    box, score = np.zeros((len(labels), 4)), np.zeros(len(labels))
    for row, image in enumerate(labels.image.tolist()):
        given, masks = bench.few.of([image]), masks_of(image)
        if len(given):
            box[row], score[row] = given.boxes[0], 1.0
        elif masks is not None:
            one = choose(maps[row], masks, choice, image=bench.dataset.image(image))
            box[row], score[row] = one.box[0], one.score[0]
        bench.progress("choosing boxes", row + 1, len(labels))
    return _table(bench, labels, box, score)


def _table(bench: Bench, labels: Labels, box: Floats, score: Floats) -> Labels:
    return Labels(
        image=labels.image,
        class_id=labels.class_id,
        score=single(np.clip(score, 0, 1)),
        box=single(box),
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
    kept = labels[area(labels.boxes) > 0].with_(probs=None)
    return kept.with_(looked_at=np.unique(kept.image))


def _lessons(bench: Bench, boxes: Labels, images: Ints) -> Labels:
    """Return the boxes of these images; those of a background class hold nothing.

    Of an image in which a person drew boxes they are the only ones.
    """
    empty = bench.known.image[np.isin(bench.known.class_id, bench.background)]
    theirs = bench.few.of(images)
    kept = _drawn(boxes).of(np.setdiff1d(images, theirs.image))
    kept = kept.with_(looked_at=np.union1d(kept.image, np.intersect1d(empty, images)))
    return Labels.concat([kept, theirs]) if len(theirs) else kept


def _surest(found: Labels, labels: Labels) -> Labels:
    """Return the surest finding of each image, with the class that a person gave the image."""
    order = np.lexsort((-found.score, found.image))
    first = order[np.unique(found.image[order], return_index=True)[1]]
    one = found[first]
    class_of = dict(zip(labels.image.tolist(), labels.class_id.tolist(), strict=True))
    classes = np.array([class_of[image] for image in one.image.tolist()], np.int64)
    return one.with_(class_id=classes, probs=None, looked_at=one.image)
