"""What looks at a round of places from outside: the classes of held-out images, and the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.box_evidence import standing_out
from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.evaluation import Judged, judge
from medloop.gate import LEAST_GROUPS, Gate, Verdict, both, quality_kept
from medloop.judges import Judges
from medloop.labels import HUMAN, PARTLY, Labels
from medloop.loop import Proposal, Round
from medloop.objects.intake import rows_of, such_as, usable, write_refused
from medloop.overlap import area, iou_rows
from medloop.prepare.split import group_folds
from medloop.progress import Note
from medloop.read.listing import Listing
from medloop.recipes import Recipe
from medloop.stats import bootstrap
from medloop.store.workspace import Workspace
from medloop.students.calibration import fit_temperature, tempered
from medloop.students.student import Model

Floats = NDArray[np.float64]

#: A box that overlaps the one before by as much is the same box.
_SAME = 0.7
#: Images at most whose boxes are judged by what is beside them.
_LOOKED_AT = 3000


class PlaceJudges(Judges):
    """Everything that looks at a round of places from outside.

    The classes of images are a person's; what a round delivers is where they show. Nobody has said
    where anything is. So a round is used only if held-out images are classified as well as before,
    and its boxes stand out more from what is beside them.
    """

    def __init__(
        self, workspace: Workspace, dataset: Dataset, given: Labels, config: Recipe
    ) -> None:
        super().__init__(workspace, dataset, given, config)
        # a round of ours says of every image what students say that have not learned from it
        self.fold = None

    def held_out(self, made: Round) -> Judged:
        """Judge a round by classes that none of its students has seen."""
        if len(self.val) or made.best.labels.probs is None:
            return super().held_out(made)
        return judge(self.dataset, self.given, made.best.labels)

    def look(self, student: Model, part: Dataset) -> Labels:
        """Classify images; where things are is not judged."""
        return student.decide(part, progress=self.progress)  # type: ignore[attr-defined,no-any-return]

    def changed(self, before: Labels, after: Labels) -> int:
        """Count the images whose box moved, came or went."""
        before, after = before[_drawn(before)], after[_drawn(after)]
        image, one, other = np.intersect1d(before.image, after.image, return_indices=True)
        same = iou_rows(before.boxes[one], after.boxes[other]) >= _SAME
        return len(before) + len(after) - 2 * len(image) + int((~same).sum())

    def compare(self, before: Round, after: Round) -> Verdict:
        """Ask the gate whether images are classified as well as before, and boxes lie better."""
        gate, seed = Gate(self.config.gate_margin, self.config.gate_confidence), self.config.seed
        old, new = (self._calibrated(_uncalibrated(made)) for made in (before, after))
        classes = quality_kept(
            gate,
            closeness(old.probs, old.truth),
            closeness(new.probs, new.truth),
            old.group,
            seed=seed,
            what="closeness of the calibrated probabilities to the right class",
            things="images",
        )
        own = np.setdiff1d(self.pool.id, self.few.image)
        tables = [made.best.labels.of(own) for made in (before, after)]
        return both(classes, better_placed(gate, self.dataset, tables[0], tables[1], seed=seed))

    def _calibrated(self, made: Round) -> Judged:
        """Judge a round whose probabilities mean what they say.

        Its temperature is that of training images, as students say that have not learned from
        them. Where these are judged themselves it is that of the patients of the other half.
        """
        judged = self.held_out(made)
        if len(self.val):
            taught = judge(self.dataset, self.given, made.best.labels)
            temperature = fit_temperature(taught.probs, taught.truth)
            return replace(judged, probs=tempered(judged.probs, temperature))
        if len(np.unique(judged.group)) < LEAST_GROUPS:
            return judged  # nothing is tested
        half = group_folds(judged.truth, judged.group, folds=2, seed=self.config.seed)
        probs = judged.probs.copy()
        for own in (half == 0, half == 1):
            temperature = fit_temperature(judged.probs[~own], judged.truth[~own])
            probs[own] = tempered(judged.probs[own], temperature)
        return replace(judged, probs=probs)

    def delivered(self, best: Proposal, temperature: float) -> Labels:
        """Return one place an image: of the class that a person gave it, where one did."""
        student: Any = best.student
        found = [best.labels.with_(probs=None)]
        rest = self.dataset.where(images=np.setdiff1d(self.dataset.id, best.labels.image))
        if len(rest):
            class_id = np.full(len(rest), -1)
            told = self.given.of(rest.id)
            class_id[rest.position(told.image)] = told.class_id
            unknown = class_id < 0
            if unknown.any():
                class_id[unknown] = student.decide(rest[unknown], progress=self.progress).class_id
            folder = self.workspace.path("cache") / "masks"
            found.append(student.locate(rest, class_id, folder=folder, progress=self.progress))
        labels = Labels.concat(found)
        # where a person drew boxes the machine's are not wanted
        wanted = _drawn(labels) & ~np.isin(labels.image, self.few.image)
        return labels[wanted].with_(looked_at=self.dataset.id)

    @property
    def few(self) -> Labels:
        """A person's boxes."""
        events = self.workspace.log.events("boxes")
        return self.workspace.log.labels(events[-1].seq) if events else Labels.empty()


def closeness(probs: Floats, class_id: NDArray[np.int64]) -> Floats:
    """Return (n,) how close probabilities are to the right class: 1 less half the Brier score.

    A proper score in [0, 1]: what is expected of it is highest for probabilities that are true.

    Examples
    --------
    >>> closeness(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), np.array([0, 0, 0])).tolist()
    [1.0, 0.75, 0.0]
    """
    right = np.eye(probs.shape[1])[class_id]
    return np.asarray(1 - ((probs - right) ** 2).sum(axis=1) / 2, np.float64)


def better_placed(
    gate: Gate, dataset: Dataset, before: Labels, after: Labels, *, seed: int
) -> Verdict:
    """Test that boxes stand out more from what is beside them than those of the round before.

    Boxes teach the next round's boxes, so they must be shown to gain: the one-sided lower bound of
    the mean change by patient bootstrap (2,000 draws) must lie above 0. See
    :func:`medloop.box_evidence.standing_out` for what this can see, and what it cannot.

    Parameters
    ----------
    gate : Gate
        Only its confidence is used.
    dataset : Dataset
    before, after : Labels
        One row an image, with its box; zeros for none. An image with a box in neither is left out.
        Of more than 3,000 so many are drawn.
    seed : int
    """
    image, one, other = np.intersect1d(before.image, after.image, return_indices=True)
    there = _drawn(before)[one] | _drawn(after)[other]
    rows = np.flatnonzero(there)
    if len(rows) > _LOOKED_AT:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_LOOKED_AT])
    image = image[rows]
    group = dataset.group[dataset.position(image)]
    about = f"{len(image)} images of {len(np.unique(group))} patients"
    if len(np.unique(group)) < LEAST_GROUPS:
        nan = float("nan")
        said = (
            f"Refused: the boxes of {about} are too few to show that they lie better than before."
        )
        return Verdict(False, "too_few", nan, nan, len(image), len(np.unique(group)), said)

    def pixels(row: int) -> NDArray[Any]:
        return dataset.image(int(image[row]))

    old, new = (
        standing_out(pixels, table.boxes[at[rows]], group, seed=seed)
        for table, at in ((before, one), (after, other))
    )
    drawn = bootstrap(lambda a, b: float((b - a).mean()), old, new, group=group, seed=seed)
    lower = float(np.quantile(drawn.values, 1 - gate.confidence))
    said = (
        f"{'Kept' if lower > 0 else 'Refused'}: how well the boxes of {about} stand out from what "
        f"is beside them changed by {drawn.estimate:+.3f}; with {gate.confidence:.0%} confidence "
        f"the change is above {lower:+.3f} (needed: above 0)."
    )
    reason = "" if lower > 0 else "harm"
    return Verdict(
        lower > 0, reason, drawn.estimate, lower, len(image), len(np.unique(group)), said
    )


def _drawn(labels: Labels) -> NDArray[np.bool_]:
    """Tell which rows have a box."""
    return np.asarray(area(labels.boxes) > 0)


def _uncalibrated(made: Round) -> Round:
    """Undo the temperature: a round that is read back has one, a new one does not yet."""
    student = made.best.student.with_temperature(1.0)
    return replace(made, proposals=[replace(made.best, student=student), *made.proposals[1:]])


def given_places(
    workspace: Workspace,
    listing: Listing,
    dataset: Dataset,
    told: Labels,
    boxes: Path | None,
    note: Note,
) -> Labels:
    """Log a person's classes and few boxes; return the boxes.

    Classes belong to images, and are kept with them; the log of labels begins with the boxes.

    Raises
    ------
    DataError
        The boxes name other classes, or none can be used in an image of the folder.
    """
    counts = np.bincount(told.class_id, minlength=len(listing.classes)).tolist()
    payload = {"classes": dict(zip(listing.classes, counts, strict=True))}
    workspace.log.append("given", "given", payload=payload, actor="table")
    if boxes is None:
        return Labels.empty()
    from medloop.read.coco import read_coco

    read = read_coco(boxes)
    unknown = sorted(set(read.classes) - set(listing.classes))
    if unknown:
        raise DataError(
            f"{boxes} has the class {unknown[0]!r}; classes are {', '.join(listing.classes)}."
        )
    row_of, missing = rows_of(dataset.file.tolist(), read)
    rows = read.labels[row_of[read.labels.image] >= 0]
    if len(rows) == 0:
        raise DataError(f"{boxes} holds no box in an image of the run{such_as(read, missing)}.")
    class_of = np.array([listing.classes.index(name) for name in read.classes], np.int64)
    image = dataset.id[row_of[rows.image]]
    said = replace(
        rows,
        image=image,
        class_id=class_of[rows.class_id],
        source=np.full(len(rows), HUMAN),
        probs=None,
        mask=None,
        keypoints=None,
        looked_at=np.unique(image),
    )
    few, refused = usable(workspace, dataset, said, read.size[rows.image], points=False)
    write_refused(workspace, [*read.refused, *missing, *refused], note)
    if len(few) == 0:
        raise DataError(f"{boxes} holds no usable box: {refused[0][0]}: {refused[0][1]}.")
    few = few.with_(looked_at=np.unique(few.image))
    workspace.log.append("boxes", "boxes", labels=few, actor="table", looked_by=PARTLY)
    return few
