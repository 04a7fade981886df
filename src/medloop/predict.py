"""Labels for new images by the model of a workspace."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.presence import present, sureness, words
from medloop.progress import Note, Progress, silent
from medloop.read.listing import Listing, list_images
from medloop.read.scan import scan
from medloop.recipes import IMPORT
from medloop.recipes.endoscopy import prepared
from medloop.store.files import writing
from medloop.store.workspace import Workspace
from medloop.students import Student, load_student

_CHUNK = 2048


def load_model(workspace: Workspace) -> tuple[Student, tuple[str, ...]]:
    """Load the student of the round in use, and the names of its classes.

    Raises
    ------
    UsageError
        No round is finished, or the labels were imported and no model made them here.
    """
    if workspace.config.get("recipe") == IMPORT:
        raise UsageError(f"the labels of {workspace.folder} were imported: it holds no model.")
    rounds = workspace.log.events("round", live=True)
    if not rounds:
        raise UsageError(f"{workspace.folder} has no trained model yet.")
    student = load_student(workspace.round_folder(rounds[-1].round) / "student")
    return student, tuple(workspace.log.events("scan")[0].payload["classes"])


def predict_images(
    path: Path, images: Path, out: Path, *, progress: Progress = silent, note: Note = print
) -> dict[str, Any]:
    """Label every image below a folder with the model of a workspace.

    A model of images writes CSV, ``file,label,score,p_<class>...``; where they may hold several
    findings, ``label`` names all that are there, joined by semicolons, or ``none``, and ``score``
    is how probably that is right of every finding. A model of objects writes COCO
    results: one entry an object, with ``image_id`` counting the images in their order,
    ``file_name``, ``category_id`` counting the classes from 1, ``bbox``, ``score``, and where it
    has them ``keypoints`` and ``probs`` by class. A model of places writes the same, one entry an
    image: the likeliest class and its place, a box of zeros where it shows nowhere. Images are
    read, labelled and written chunk by chunk, so that memory does not grow with their number. One
    that cannot be read is named on stderr and left out.

    Raises
    ------
    UsageError
        The workspace has no model, or the folder does not exist.
    DataError
        No image can be read.
    """
    with Workspace.open(path, read_only=True) as workspace:
        student, classes = load_model(workspace)
        kind = workspace.load_json("metrics.json", {}).get("kind")
        config = workspace.config
    listing = list_images(images, need_labels=False)
    listing = replace(listing, pixels=prepared(listing.pixels, config))
    bad: list[str] = []
    done = 0
    with writing(out, "w") as stream:
        table: Out
        if kind in ("objects", "places"):
            table = Results(stream, classes)
        else:
            table = Findings(stream, classes) if kind == "findings" else Rows(stream, classes)
        for part in readable(listing, classes, bad, note=note, progress=progress):
            table.write(part, student.label(part))
            done += len(part)
        table.end()
        if done == 0:
            raise DataError(f"none of the {len(listing):,} images in {images} can be read.")
    return {"images": done, "quarantined": len(bad), "out": str(out)}


def readable(
    listing: Listing,
    classes: tuple[str, ...],
    bad: list[str],
    *,
    note: Note,
    progress: Progress,
) -> Iterator[Dataset]:
    """Yield the images that can be read, chunk by chunk; name the others in ``bad``."""
    files = listing.table.file
    for start in range(0, len(files), _CHUNK):
        chunk = files[start : start + _CHUNK]
        good, ids = [], []
        number = start
        for batch in scan(listing.pixels, chunk):
            for one in batch:
                if one.reason:
                    note(f"quarantined: {one.reason}")
                    bad.append(one.file)
                else:
                    good.append(one.file)
                    ids.append(number)
                number += 1
        if good:
            file = np.array(good, object)
            yield Dataset(pixels=listing.pixels, file=file, classes=classes, id=np.array(ids))
        progress("labelling", start + len(chunk), len(files))


class Out(Protocol):
    """A file that predictions go to."""

    def write(self, part: Dataset, labels: Labels) -> None:
        """Add the labels of some images."""
        ...

    def end(self) -> None:
        """Write what has to stand at the end."""
        ...


class Rows:
    """CSV: one row an image."""

    def __init__(self, stream: IO[str], classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.rows = csv.writer(stream, lineterminator="\n")
        self.rows.writerow(("file", "label", "score", *(f"p_{name}" for name in classes)))

    def write(self, part: Dataset, labels: Labels) -> None:
        """Add one row an image."""
        if labels.probs is None:
            raise DataError("the student gave labels without probs.")
        for file, k, score, probs in zip(
            part.file, labels.class_id, labels.score, labels.probs, strict=True
        ):
            said = (f"{p:.6g}" for p in probs)
            self.rows.writerow((file, self.classes[k], f"{score:.6g}", *said))

    def end(self) -> None:
        """Nothing stands at the end."""


class Findings(Rows):
    """CSV: one row an image, with every finding that it holds."""

    def write(self, part: Dataset, labels: Labels) -> None:
        """Add one row an image."""
        probs = present(labels, part.id, len(self.classes))
        for file, row, sure in zip(part.file, probs, sureness(probs).tolist(), strict=True):
            held = words([self.classes[k] for k in np.flatnonzero(row > 0.5)])
            self.rows.writerow((file, held, f"{sure:.6g}", *(f"{p:.6g}" for p in row)))


class Results:
    """COCO results: one entry an object."""

    def __init__(self, stream: IO[str], classes: tuple[str, ...]) -> None:
        self.stream, self.classes = stream, classes
        self.stream.write("[")
        self.comma = ""

    def write(self, part: Dataset, labels: Labels) -> None:
        """Add one entry an object."""
        file = dict(zip(part.id.tolist(), part.file.tolist(), strict=True))
        for row in range(len(labels)):
            image = int(labels.image[row])
            x0, y0, x1, y1 = np.round(labels.boxes[row], 2).tolist()
            entry: dict[str, Any] = {
                "image_id": image + 1,
                "file_name": file[image],
                "category_id": int(labels.class_id[row]) + 1,
                "category": self.classes[labels.class_id[row]],
                "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                "score": round(float(labels.score[row]), 6),
            }
            if labels.keypoints is not None:
                entry["keypoints"] = np.round(labels.keypoints[row], 2).ravel().tolist()
            if labels.probs is not None:
                shares = np.round(labels.probs[row], 6).tolist()
                entry["probs"] = dict(zip(self.classes, shares, strict=True))
            self.stream.write(f"{self.comma}\n{json.dumps(entry)}")
            self.comma = ","

    def end(self) -> None:
        """Close the list."""
        self.stream.write("\n]\n")
