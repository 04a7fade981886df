"""From a file of boxes or keypoints to the registered images and given labels of a workspace."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medloop.annotations import Annotations, Skeleton
from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import HUMAN, PARTLY, Labels
from medloop.overlap import box_around
from medloop.progress import Note
from medloop.read.cells import defuse
from medloop.read.listing import Listing, list_images
from medloop.store.files import writing
from medloop.store.workspace import Workspace

#: Share of its side by which a label may reach out of its image: labels are rounded up, and
#: photos cut what they show.
_SLACK = 0.05


@dataclass(frozen=True)
class Annotated(Listing):
    """Images found, and the objects that a person labelled in some of them.

    ``said.image`` counts along the rows of the listing, as ``stated`` (n, 2) does: height and width
    as the labels have them, 0 where they do not say. ``refused`` holds where a label stands that
    could not be taken over, and why.
    """

    said: Labels = field(default_factory=Labels.empty)
    stated: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    skeleton: Skeleton | None = None
    refused: list[tuple[str, str]] = field(default_factory=list)


def list_annotated(images: Path, labels: Path, *, classes: Sequence[str] | None) -> Annotated:
    """List all images of a folder, and read what was labelled in them.

    Raises
    ------
    UsageError, DataError
        There is no image, or the file of labels makes no sense.
    """
    from medloop.read.annotations import read_annotations

    listing = list_images(images, need_labels=False)
    _, read = read_annotations(labels)
    if classes is not None and tuple(classes) != read.classes:
        raise DataError(
            f"{labels} has the classes {', '.join(read.classes)}, asked for {', '.join(classes)}."
        )
    row_of, missing = rows_of(listing.table.file, read)
    there = row_of[read.labels.image] >= 0
    said = read.labels[there]
    said = said.with_(
        image=row_of[said.image],
        looked_at=row_of[row_of >= 0],
        source=np.full(len(said), HUMAN),
    )
    if len(said) == 0:
        raise DataError(
            f"{labels} holds no labelled object of an image in {images}{such_as(read, missing)}."
        )
    stated = np.zeros((len(listing), 2), np.int64)
    stated[row_of[row_of >= 0]] = read.size[row_of >= 0]

    def spread(column: Sequence[str] | None) -> list[str]:
        """Give each image of the listing what was said of it."""
        values = [""] * len(listing)
        for row, value in zip(row_of.tolist(), column or [], strict=False):
            if row >= 0:
                values[row] = value
        return values

    return Annotated(
        pixels=listing.pixels,
        table=replace(
            listing.table,
            label=spread(None),
            patient=spread(read.patient),
            split=spread(read.split),
            has_patient=any(read.patient or ()),
        ),
        classes=read.classes,
        missing=[*listing.missing, *missing],
        notes=listing.notes,
        said=said,
        stated=stated,
        skeleton=read.skeleton,
        refused=read.refused,
    )


def such_as(read: Annotations, missing: list[tuple[str, str]]) -> str:
    """Say what stands in the way of the first label or image; nothing where nothing does."""
    said = (f": {where} {reason}" for where, reason in [*read.refused, *missing])
    return next(said, "")


def rows_of(
    files: Sequence[str], read: Annotations
) -> tuple[NDArray[np.int64], list[tuple[str, str]]]:
    """Find the image of each annotated file: by its path, or by a name that only one image has.

    Parameters
    ----------
    files : (n,) str
        Paths of the images.
    read : Annotations

    Returns
    -------
    (m,) int
        Place of each annotated file among ``files``; -1 where there is none.
    list of (str, str)
        The files that are not there, and why.

    Raises
    ------
    DataError
        Two annotated files are one image.
    """
    at = {file: row for row, file in enumerate(files)}
    named: dict[str, list[int]] = {}
    for row, file in enumerate(files):
        named.setdefault(file.rpartition("/")[2], []).append(row)
    row_of, missing = np.full(len(read), -1, np.int64), []
    for image, file in enumerate(read.file.tolist()):
        same = named.get(file.rpartition("/")[2], [])
        if file in at:
            row_of[image] = at[file]
        elif len(same) == 1:
            row_of[image] = same[0]
        else:
            why = "several images have this name" if same else "there is no such image"
            missing.append((file, f"is annotated, but {why}"))
    taken = row_of[row_of >= 0]
    if len(np.unique(taken)) < len(taken):
        row = int(np.sort(taken)[:-1][np.diff(np.sort(taken)) == 0][0])
        raise DataError(f"two annotated files are both {files[row]}.")
    return row_of, missing


def given_objects(
    workspace: Workspace, listing: Annotated, dataset: Dataset, *, points: bool, note: Note
) -> Labels:
    """Log what a person labelled: objects that stand, beside which others may have been missed.

    Parameters
    ----------
    workspace : Workspace
    listing : Annotated
    dataset : Dataset
    points : bool
        Whether the recipe needs keypoints.
    note : callable

    Raises
    ------
    DataError
        Keypoints are needed and there are none, or a class has no usable object.
    """
    said, refused = listing.said.of(dataset.id), listing.refused
    if points and (said.keypoints is None or listing.skeleton is None):
        raise DataError("recipe landmarks with student pose needs keypoints, and there are none.")
    at = {file: row for row, file in enumerate(listing.table.file)}
    files = dataset.file[dataset.position(said.image)].tolist()
    kept, more = usable(
        workspace, dataset, said, listing.stated[[at[file] for file in files]], points=points
    )
    if kept.box is None and kept.keypoints is not None:
        kept = kept.with_(box=box_around(kept.keypoints))
    kept = kept.with_(mask=None, probs=None)
    write_refused(workspace, [*refused, *more], note)
    for k, name in enumerate(listing.classes):
        if not (kept.class_id == k).any():
            raise DataError(f"class {name!r} has no usable object in an image that can be read.")
    payload = {} if listing.skeleton is None else {"skeleton": asdict(listing.skeleton)}
    workspace.log.append(
        "given", "given", labels=kept, payload=payload, actor="table", looked_by=PARTLY
    )
    return kept


def write_refused(
    workspace: Workspace, refused: list[tuple[str, str]], note: Note | None = None
) -> None:
    """List in the workspace which labels were not taken over, and why; tell ``note`` so."""
    if not refused:
        return
    path = workspace.path("refused.csv")
    with writing(path, "w") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("where", "reason"))
        rows.writerows((defuse(where), defuse(reason)) for where, reason in refused)
    if note is not None:
        where, reason = refused[0]
        note(f"{len(refused):,} labels are refused and listed in {path}, such as {where}: {reason}")


def usable(
    workspace: Workspace,
    dataset: Dataset,
    said: Labels,
    stated: NDArray[np.int64],
    *,
    points: bool,
) -> tuple[Labels, list[tuple[str, str]]]:
    """Return the labels that can be learned from; and of which image the others are, and why.

    Parameters
    ----------
    workspace : Workspace
    dataset : Dataset
    said : (m,) Labels
    stated : (m, 2) int
        Height and width of the image of each as the labels have them; 0 where they do not say.
    points : bool
        Whether keypoints are needed.
    """
    table = workspace.table(status="ok")
    row = np.searchsorted(table["id"], said.image)
    extent = np.column_stack([table["width"], table["height"]])[row].astype(float)
    why = _unusable(said, extent, stated[:, ::-1], points=points)
    files = dataset.file[dataset.position(said.image)].tolist()
    refused = [(files[row], reason) for row, reason in sorted(why.items())]
    return said[np.setdiff1d(np.arange(len(said)), list(why))], refused


def _unusable(
    said: Labels, extent: NDArray[np.float64], stated: NDArray[np.int64], *, points: bool
) -> dict[int, str]:
    """Say which rows cannot be learned from, and why; sizes are (m, 2) widths and heights."""
    why: dict[int, str] = {}
    if points and said.keypoints is not None:
        shown = said.keypoints[..., 2] > 0
        slack = _SLACK * extent[:, None, :]
        xy = said.keypoints[..., :2]
        out = shown & ((xy < -slack) | (xy > extent[:, None, :] + slack)).any(axis=2)
        for row in np.flatnonzero(out.any(axis=1)).tolist():
            point = int(np.argmax(out[row]))
            x, y = xy[row, point].tolist()
            w, h = extent[row].astype(int).tolist()
            why[row] = f"point {point} at ({x:g}, {y:g}) lies outside the image of {w} x {h}"
        for row in np.flatnonzero(~shown.any(axis=1)).tolist():
            why[row] = "none of its points is visible"
    if said.box is not None:
        side = said.box[:, 2:] - said.box[:, :2]
        for row in np.flatnonzero((side <= 0).any(axis=1)).tolist():
            why[row] = f"its box {said.box[row].tolist()} has no area"
        slack = _SLACK * extent
        past = (said.box[:, :2] < -slack) | (said.box[:, 2:] > extent + slack)
        for row in np.flatnonzero(past.any(axis=1)).tolist():
            w, h = extent[row].astype(int).tolist()
            why.setdefault(
                row, f"its box {said.box[row].tolist()} lies outside the image of {w} x {h}"
            )
    for row in np.flatnonzero((stated > 0).all(axis=1) & (stated != extent).any(axis=1)).tolist():
        (w, h), (width, height) = extent[row].astype(int).tolist(), stated[row].tolist()
        why[row] = f"its labels are of an image of {width} x {height}, and the image has {w} x {h}"
    return why


def skeleton_of(workspace: Workspace) -> Skeleton | None:
    """Return the skeleton that the given labels have; None where they have no points."""
    for event in workspace.log.events("given"):
        held = event.payload.get("skeleton")
        if held:
            edges = tuple((int(a), int(b)) for a, b in held["edges"])
            flip = tuple((int(a), int(b)) for a, b in held["flip"])
            sigmas = held["sigmas"]
            return Skeleton(
                points=tuple(held["points"]),
                edges=edges,
                flip=flip,
                sigmas=None if sigmas is None else tuple(sigmas),
            )
    return None
