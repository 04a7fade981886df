"""What looks at a round of places from outside: the classes of held-out images, and the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.evaluation import Judged, judge
from medloop.gate import Gate, Verdict, quality_kept
from medloop.judges import Judges
from medloop.labels import HUMAN, PARTLY, Labels
from medloop.loop import Proposal, Round
from medloop.objects.intake import rows_of, such_as, usable, write_refused
from medloop.overlap import iou_rows
from medloop.progress import Note
from medloop.read.listing import Listing
from medloop.recipes import Recipe
from medloop.store.workspace import Workspace
from medloop.students.student import Model

#: A box that overlaps the one before by as much is the same box.
_SAME = 0.7


class PlaceJudges(Judges):
    """Everything that looks at a round of places from outside.

    The classes of images are a person's; what a round delivers is where they show. A round is
    judged by the classes of held-out images, since nobody has said where anything is.
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
        return student.decide(part)  # type: ignore[attr-defined,no-any-return]

    def changed(self, before: Labels, after: Labels) -> int:
        """Count the images whose box moved, came or went."""
        before, after = before[_drawn(before)], after[_drawn(after)]
        image, one, other = np.intersect1d(before.image, after.image, return_indices=True)
        same = iou_rows(before.boxes[one], after.boxes[other]) >= _SAME
        return len(before) + len(after) - 2 * len(image) + int((~same).sum())

    def compare(self, before: Round, after: Round) -> Verdict:
        """Ask the gate whether held-out images are classified as well as before."""
        gate = Gate(self.config.gate_margin, self.config.gate_confidence)
        old, new = self.held_out(_uncalibrated(before)), self.held_out(_uncalibrated(after))
        rows = np.arange(len(old))
        return quality_kept(
            gate,
            old.probs[rows, old.truth],
            new.probs[rows, new.truth],
            old.group,
            seed=self.config.seed,
            what="probability of the right class",
            things="images",
        )

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
                class_id[unknown] = student.decide(rest[unknown]).class_id
            folder = self.workspace.path("cache") / "masks"
            found.append(student.locate(rest, class_id, folder=folder))
        labels = Labels.concat(found)
        # where a person drew boxes the machine's are not wanted
        wanted = _drawn(labels) & ~np.isin(labels.image, self.few.image)
        return labels[wanted].with_(looked_at=self.dataset.id)

    @property
    def few(self) -> Labels:
        """A person's boxes."""
        events = self.workspace.log.events("boxes")
        return self.workspace.log.labels(events[-1].seq) if events else Labels.empty()


def _drawn(labels: Labels) -> NDArray[np.bool_]:
    """Tell which rows have a box."""
    return (labels.boxes[:, 2] > labels.boxes[:, 0]) & (labels.boxes[:, 3] > labels.boxes[:, 1])


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
