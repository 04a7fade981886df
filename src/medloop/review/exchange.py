"""Answers that were given elsewhere: what a person drew in Label Studio or saved as COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medloop.annotations import Annotations, Skeleton
from medloop.errors import DataError, did_you_mean
from medloop.labels import HUMAN, Labels
from medloop.read.annotations import kind_of, read_annotations
from medloop.read.json_items import items
from medloop.read.label_studio import image_name
from medloop.review.desk import Desk
from medloop.review.findings import plain_findings

#: Boxes at the edge leave their image by as much, in pixels, since other tools keep shares.
_SLACK = 0.5


def read_drawn(path: Path, desk: Desk) -> list[tuple[str, list[dict[str, Any]]]]:
    """Read a Label Studio export or a COCO file as complete answers, an image each.

    Only what a person said counts. An image without findings says "nothing here": in COCO where
    the file holds no row of a model, in Label Studio where a person submitted the task empty.

    Parameters
    ----------
    path : Path
    desk : Desk
        Whose images, classes and points the file must have.

    Returns
    -------
    list of (str, list of dict)
        File of the workspace, and findings as :meth:`Desk.answer` takes them.

    Raises
    ------
    DataError
        Something of it is not read, or does not fit the workspace; the sentence names it.
    """
    submitted = _submitted(path) if kind_of(path) == "label-studio" else None
    _, found = read_annotations(path)
    if found.refused:
        where, why = found.refused[0]
        more = f", and {len(found.refused) - 1:,} more" if len(found.refused) > 1 else ""
        raise DataError(f"{path} cannot be taken whole: {where} {why}{more}.")
    for name in found.classes:
        if name not in desk.classes:
            raise DataError(f"{path}: unknown class {name!r}.{did_you_mean(name, desk.classes)}")
    labels = _with_points(found, desk.skeleton, path)
    human = labels[labels.source == HUMAN]
    answered = set(np.unique(human.image).tolist())
    if submitted is not None:
        answered |= {at for at, file in enumerate(found.file.tolist()) if file in submitted}
    elif len(human) == len(labels):
        answered |= set(labels.looked_at.tolist())
    rows = []
    for at in sorted(answered):
        file = _file_of(str(found.file[at]), desk, path)
        height, width = desk.size_of(file)
        stated = tuple(found.size[at].tolist())
        if all(stated) and height and stated != (height, width):
            raise DataError(
                f"{path}: {file} has {height} x {width} pixels, but its labels were made for "
                f"{stated[0]} x {stated[1]}."
            )
        own = human.of([at])
        said = plain_findings(_inside(own, height, width), found.classes)
        keys = ("class", "box", "keypoints", "mask")
        rows.append((file, [{k: one[k] for k in keys if k in one} for one in said]))
    return rows


def _submitted(path: Path) -> set[str]:
    """Name the images of a Label Studio export that a person submitted."""
    found: set[str] = set()
    for key, piece in items(path):
        for task in piece if not key else []:
            data = task.get("data") if isinstance(task, dict) else None
            given = task.get("annotations") if isinstance(data, dict) else None
            own = [a for a in given or [] if isinstance(a, dict) and not a.get("was_cancelled")]
            file = image_name(data) if isinstance(data, dict) and own else None
            if file is None:
                continue
            if len(own) > 1:
                raise DataError(
                    f"{path}: {file} has {len(own)} annotations; give each person's export by "
                    "itself, with --reviewer."
                )
            found.add(file)
    return found


def _with_points(found: Annotations, skeleton: dict[str, Any] | None, path: Path) -> Labels:
    """Bring points into the order that the workspace has."""
    labels, own = found.labels, found.skeleton
    if labels.keypoints is None or own is None:
        return labels
    if skeleton is None:
        raise DataError(f"{path} has points, and the workspace has none.")
    known = Skeleton(points=tuple(skeleton["points"]))
    for name in own.points:
        if name not in known.points:
            raise DataError(f"{path}: unknown point {name!r}.{did_you_mean(name, known.points)}")
    points = np.zeros((len(labels), len(known.points), 3))
    points[:, [known.points.index(name) for name in own.points]] = labels.keypoints
    return labels.with_(keypoints=points)


def _file_of(name: str, desk: Desk, path: Path) -> str:
    """Find an image by its path, or by a name that only one image has."""
    files = desk.named(name)
    if len(files) == 1:
        return files[0]
    why = "several images have this name" if files else "is not an image of the workspace"
    raise DataError(f"{path}: {name} {why}.")


def _inside(labels: Labels, height: int, width: int) -> Labels:
    """Pull back what leaves the image by less than a pixel."""
    if labels.box is None or not height:
        return labels
    most = np.array([width, height, width, height], np.float64)
    near = np.clip(labels.box, 0, most)
    return labels.with_(box=np.where(np.abs(near - labels.box) <= _SLACK, near, labels.box))
