"""Labels for new images by the model of a workspace."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.progress import Note, Progress, silent
from medloop.read.listing import list_images
from medloop.read.scan import scan
from medloop.store.files import writing
from medloop.store.workspace import Workspace
from medloop.students import Student, load_student

_CHUNK = 2048


def load_model(workspace: Workspace) -> tuple[Student, tuple[str, ...]]:
    """Load the student of the round in use, and the names of its classes.

    Raises
    ------
    UsageError
        No round is finished.
    """
    rounds = workspace.log.events("round", live=True)
    if not rounds:
        raise UsageError(f"{workspace.folder} has no trained model yet.")
    student = load_student(workspace.round_folder(rounds[-1].round) / "student")
    return student, tuple(workspace.log.events("scan")[0].payload["classes"])


def predict_images(
    path: Path, images: Path, out: Path, *, progress: Progress = silent, note: Note = print
) -> dict[str, Any]:
    """Write ``file,label,score,p_<class>...`` for every image below a folder.

    Images are read, labelled and written chunk by chunk, so that memory does not grow with their
    number. One that cannot be read is named on stderr and left out.

    Raises
    ------
    UsageError
        The workspace has no model, or the folder does not exist.
    DataError
        No image can be read.
    """
    with Workspace.open(path, read_only=True) as workspace:
        student, classes = load_model(workspace)
    listing = list_images(images, need_labels=False)
    files = listing.table.file
    done = bad = 0
    with writing(out, "w") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("file", "label", "score", *(f"p_{name}" for name in classes)))
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            seen = [one for batch in scan(listing.pixels, chunk) for one in batch]
            for one in seen:
                if one.reason:
                    note(f"quarantined: {one.reason}")
            good = [one.file for one in seen if not one.reason]
            bad += len(chunk) - len(good)
            if good:
                part = Dataset(pixels=listing.pixels, file=np.array(good, object), classes=classes)
                labels = student.label(part)
                if labels.probs is None:
                    raise DataError("the student gave labels without probs.")
                for file, k, score, probs in zip(
                    good, labels.class_id, labels.score, labels.probs, strict=True
                ):
                    said = (f"{p:.6g}" for p in probs)
                    rows.writerow((file, classes[k], f"{score:.6g}", *said))
            done += len(good)
            progress("labelling", start + len(chunk), len(files))
        if done == 0:
            raise DataError(f"none of the {len(files):,} images in {images} can be read.")
    return {"images": done, "quarantined": bad, "out": str(out)}
