"""What looks at a round of places from outside: the classes of held-out images, and the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.gate import Gate, Verdict, quality_kept
from medloop.judges import Judges
from medloop.labels import HUMAN, PARTLY, Labels
from medloop.loop import Proposal, Round
from medloop.overlap import iou_rows
from medloop.read.listing import Listing
from medloop.store.workspace import Workspace
from medloop.students.student import Model

#: A box that overlaps the one before by as much is the same box.
_SAME = 0.7


class PlaceJudges(Judges):
    """Everything that looks at a round of places from outside.

    The classes of images are a person's; what a round delivers is where they show. A round is
    judged by the classes of held-out images, since nobody has said where anything is.
    """

    def look(self, student: Model, part: Dataset) -> Labels:
        """Classify images; where things are is not judged."""
        return student.decide(part)  # type: ignore[attr-defined,no-any-return]

    def changed(self, before: Labels, after: Labels) -> int:
        """Count the images whose box moved."""
        image, one, other = np.intersect1d(before.image, after.image, return_indices=True)
        same = iou_rows(before.boxes[one], after.boxes[other]) >= _SAME
        return len(before) + len(after) - 2 * len(image) + int((~same).sum())

    def compare(self, before: Round, after: Round) -> Verdict:
        """Ask the gate whether held-out images are classified as well as before."""
        gate = Gate(self.config.gate_margin, self.config.gate_confidence)
        old, new = self.held_out(before), self.held_out(after)
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
        found = [best.labels.with_(probs=None)]
        for name in ("val", "test"):
            part = self.dataset.where(split=name)
            if len(part):
                found.append(best.student.label(part).with_(probs=None))
        unknown = self.pool.where(images=np.setdiff1d(self.pool.id, self.known.image))
        if len(unknown):
            found.append(best.student.label(unknown).with_(probs=None))
        labels = Labels.concat(found)
        given = dict(zip(self.given.image.tolist(), self.given.class_id.tolist(), strict=True))
        classes = [
            given.get(image, k)
            for image, k in zip(labels.image.tolist(), labels.class_id.tolist(), strict=True)
        ]
        labels = labels.with_(class_id=np.array(classes, np.int64))
        nowhere = [self.dataset.classes.index(name) for name in self.config.background]  # type: ignore[attr-defined]
        wanted = (labels.boxes[:, 2] > labels.boxes[:, 0]) & ~np.isin(labels.class_id, nowhere)
        # where a person drew boxes the machine's are not wanted
        wanted &= ~np.isin(labels.image, self.few.image)
        return labels[wanted].with_(looked_at=self.dataset.id)

    @property
    def few(self) -> Labels:
        """A person's boxes."""
        events = self.workspace.log.events("boxes")
        return self.workspace.log.labels(events[-1].seq) if events else Labels.empty()


def given_places(
    workspace: Workspace, listing: Listing, dataset: Dataset, told: Labels, boxes: Path | None
) -> Labels:
    """Log a person's classes and few boxes; return the boxes.

    Classes belong to images, and are kept with them; the log of labels begins with the boxes.

    Raises
    ------
    DataError
        The boxes name other classes, or none lies in an image of the folder.
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
    id_of = dict(zip(dataset.file.tolist(), dataset.id.tolist(), strict=True))
    class_of = np.array([listing.classes.index(name) for name in read.classes], np.int64)
    image = np.array([id_of.get(file, -1) for file in read.file.tolist()], np.int64)
    rows = read.labels[image[read.labels.image] >= 0]
    if len(rows) == 0:
        raise DataError(f"{boxes} holds no box in an image of the run.")
    at = image[rows.image]
    few = replace(
        rows,
        image=at,
        class_id=class_of[rows.class_id],
        source=np.full(len(rows), HUMAN),
        probs=None,
        mask=None,
        keypoints=None,
        looked_at=np.unique(at),
    )
    workspace.log.append("boxes", "boxes", labels=few, actor="table", looked_by=PARTLY)
    return few
