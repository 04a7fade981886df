"""From a label file and its images to a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from medloop.annotations import Annotations
from medloop.dataset import Pixels
from medloop.errors import DataError, LeakError, UsageError
from medloop.export.blocks import to_json
from medloop.labels import HUMAN, MODEL, PARTLY, Labels
from medloop.objects.intake import write_refused
from medloop.prepare.split import find_leaks, group_numbers
from medloop.progress import Note, Progress, silent
from medloop.read.annotations import find, read_annotations
from medloop.read.image import FolderPixels, shown
from medloop.read.listing import find_images
from medloop.read.parts import stack
from medloop.read.scan import scan
from medloop.store.images import ImageRow
from medloop.store.workspace import Workspace


class ImportConfig(BaseModel):
    """What an imported workspace was made of."""

    model_config = ConfigDict(extra="forbid")

    recipe: Literal["import"] = "import"
    images: str
    labels: str
    format: str
    partly: bool = False
    allow_leak: bool = False


@dataclass(frozen=True)
class Imported:
    """What was found."""

    workspace: Path
    format: str
    images: int
    quarantined: int
    empty: int
    unlabelled: int
    labels: int
    by_class: dict[str, int]
    by_source: dict[str, int]
    refused: list[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Say it as JSON can."""
        return {
            "workspace": str(self.workspace),
            "format": self.format,
            "images": self.images,
            "quarantined": self.quarantined,
            "empty": self.empty,
            "unlabelled": self.unlabelled,
            "labels": self.labels,
            "by_class": self.by_class,
            "by_source": self.by_source,
            "refused": [list(row) for row in self.refused],
        }

    def words(self) -> str:
        """Say it to a person."""
        classes = ", ".join(f"{name} {count:,}" for name, count in self.by_class.items())
        lines = [
            f"{self.format}: {self.images:,} images, {self.labels:,} labels"
            + (f" ({classes})." if classes else "."),
        ]
        if self.empty:
            lines.append(f"{self.empty:,} images were examined and hold nothing.")
        if self.unlabelled:
            lines.append(f"{self.unlabelled:,} images are to be labelled.")
        if self.refused:
            where, reason = self.refused[0]
            lines.append(
                f"{len(self.refused):,} rows are refused and listed in "
                f"{self.workspace / 'refused.csv'}, such as {where}: {reason}."
            )
        lines.append(f"Report: {self.workspace / 'report.html'}")
        return "\n".join(lines)


def import_labels(
    path: Path,
    workspace: Path,
    *,
    images: Path | None = None,
    format: str = "auto",
    partly: bool = False,
    allow_leak: bool = False,
    progress: Progress = silent,
    note: Note = print,
) -> Imported:
    """Make a workspace of a label file and its images.

    Every listed image is registered, one that cannot be read is quarantined, and what the file
    says goes into the label log: a person's rows as decided (or, with ``partly``, as some of what
    the images hold), a model's rows as a round. "Nothing found" is a person's word where the file
    holds no row of a model.

    Parameters
    ----------
    path : Path
        A label file, or the folder of a data set.
    workspace : Path
    images : Path, optional
        Folder that the names of the images are relative to; found where not given.
    format : str
        One of :data:`medloop.read.annotations.READERS`, or ``"auto"``.
    partly : bool
        Whether the images may hold more than the file says.
    allow_leak : bool
        Whether a patient, or the same image, may stand on two sides of a split.
    progress, note : callable

    Raises
    ------
    UsageError
        A path does not exist, or the kind is not known.
    DataError
        The labels cannot be read, or none of the images can.
    LeakError
        A split cuts a patient.
    """
    from medloop.report.imported import write_import_report

    source, _ = find(path, format)
    kind, found = read_annotations(path, format)
    if not len(found):
        raise DataError(f"{path} lists no image.")
    root = images_of(source, kind, found, images)
    config = ImportConfig(
        images=str(root.absolute()),
        labels=str(path.absolute()),
        format=kind,
        partly=partly,
        allow_leak=allow_leak,
    )
    with Workspace.create(workspace, config=config.model_dump()) as made, made.locked():
        _register(made, FolderPixels(root), found, allow_leak, progress, note)
        _append(made, found, kind, partly)
        write_refused(made, found.refused)
        write_import_report(made)
        result = _result(made, kind, found.refused)
    if images is not None:
        left = len(set(find_images(root)) - set(found.file.tolist()))
        if left:
            note(f"{left:,} images in {root} are not listed in {path.name} and are left out.")
    return result


def images_of(source: Path, kind: str, found: Annotations, images: Path | None = None) -> Path:
    """Return the folder that the names of the images are relative to.

    Raises
    ------
    UsageError
        There is none where any of the first images lies.
    """
    if images is not None:
        if not images.is_dir():
            raise UsageError(f"no folder of images at {images}.")
        return images
    home = source if source.is_dir() else source.parent
    places = [home, home / "images", home / "JPEGImages", home.parent / "JPEGImages"]
    names = [str(name) for name in found.file[:20]]
    for place in places if kind != "yolo" else [home / "images", home]:
        if any((place / name).is_file() for name in names):
            return place
    raise UsageError(
        f"none of the images that {source.name} lists, such as {shown(names[0])}, lies in {home}; "
        "say --images DIR."
    )


def _register(
    workspace: Workspace,
    pixels: Pixels,
    found: Annotations,
    allow_leak: bool,
    progress: Progress,
    note: Note,
) -> None:
    files = [str(name) for name in found.file]
    if workspace.scanned:
        return
    done = workspace.registered()
    for batch in scan(pixels, files[done:]):
        rows = []
        for number, seen in enumerate(batch, start=done):
            stated = tuple(found.size[number].tolist())
            reason, stage = seen.reason, "scan"
            if not reason and 0 not in stated and stated != (seen.height, seen.width):
                reason = (
                    f"has {seen.height} x {seen.width} pixels, "
                    f"but its labels were made for {stated[0]} x {stated[1]}"
                )
                stage = "labels"
            rows.append(
                ImageRow(
                    id=number,
                    file=seen.file,
                    sha256=seen.sha256,
                    bytes=seen.size,
                    height=seen.height,
                    width=seen.width,
                    reason=reason,
                    stage=stage if reason else "",
                )
            )
        workspace.register(rows)
        done += len(batch)
        progress("reading images", done, len(files))
    table = workspace.table()
    good = table["status"] == "ok"
    quarantined = workspace.quarantined()
    if quarantined:
        workspace.write_quarantine()
        file, reason, _ = quarantined[0]
        note(
            f"{len(quarantined):,} files are quarantined and listed in "
            f"{workspace.path('quarantine.csv')}, such as {shown(file)}: {reason}"
        )
    if not good.any():
        raise DataError(f"none of the {len(files):,} images can be read.")
    patient = list(found.patient or [""] * len(files))
    split = [part or "train" for part in found.split or [""] * len(files)]
    sha256 = table["sha256"].tolist()
    rows_of = np.flatnonzero(good).tolist()
    leak = find_leaks(*([column[i] for i in rows_of] for column in (files, patient, split, sha256)))
    if leak and not allow_leak:
        raise LeakError(
            leak.sentence() + " Mend the split, or say --allow-leak, and use a new workspace."
        )
    if leak:
        note(f"Allowed leak: {leak.sentence()}")
        workspace.save_json(
            "leak.json", {"patients": len(leak.patients), "images": len(leak.images)}
        )
    workspace.finish_scan(
        classes=found.classes,
        images=np.arange(len(files)),
        group=group_numbers(patient, sha256),
        split=split,
    )


def _append(workspace: Workspace, found: Annotations, kind: str, partly: bool) -> None:
    table = workspace.table(status="ok")
    labels = found.labels.of(table["id"])
    payload: dict[str, Any] = {"format": kind}
    if found.skeleton is not None:
        payload["skeleton"] = to_json(found.skeleton)
    human = labels.source == HUMAN
    empty = np.setdiff1d(labels.looked_at, labels.image)
    both = np.intersect1d(labels.image[human], labels.image[~human])
    # a model's rows beside a person's are there only where the person's are not all
    some = human & (np.isin(labels.image, both) | partly)
    by_person = human.all()
    parts = [
        ("partly", "given", some, PARTLY, empty if partly and by_person else None),
        ("human", "given", human & ~some, HUMAN, empty if by_person and not partly else None),
        ("model", "round", ~human, MODEL, None if by_person else empty),
    ]
    with workspace.log.transaction():
        for name, event, rows, looked_by, alone in parts:
            held = _rows(labels, rows, alone)
            if len(held.looked_at):
                workspace.log.append(
                    f"import-{name}",
                    event,
                    labels=held,
                    payload=payload,
                    actor="import",
                    round=int(held.round.max(initial=0)),
                    looked_by=looked_by,
                )


def _rows(labels: Labels, rows: NDArray[np.bool_], alone: NDArray[np.int64] | None) -> Labels:
    held = stack([labels[rows]])
    looked = held.image if alone is None else np.concatenate([held.image, alone])
    return held.with_(looked_at=np.unique(looked).astype(np.int64))


def _result(workspace: Workspace, kind: str, refused: list[tuple[str, str]]) -> Imported:
    status = workspace.status()
    current = workspace.log.current(columns=())
    examined = len(current.looked_at)
    labelled = len(np.unique(current.image))
    return Imported(
        workspace=workspace.folder,
        format=kind,
        images=status["images"],
        quarantined=status["quarantined"],
        empty=examined - labelled,
        unlabelled=status["images"] - examined,
        labels=status["labels"]["rows"],
        by_class=status["labels"]["by_class"],
        by_source=status["labels"]["by_source"],
        refused=refused,
    )
