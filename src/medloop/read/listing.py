"""What there is to label: images found, rows read, and how the two meet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import ArrayPixels, Pixels
from medloop.errors import DataError, ImageError, UsageError
from medloop.read.image import SUFFIXES, FolderPixels, inside
from medloop.read.table import Table, class_names, read_table


@dataclass(frozen=True)
class Listing:
    """One entry an image, before any pixel is read; an empty string means "not given"."""

    pixels: Pixels
    table: Table
    classes: tuple[str, ...]
    missing: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table.file)


def list_images(
    images: Path,
    labels: Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    need_labels: bool = True,
) -> Listing:
    """Bring a folder (or a MedMNIST-style npz) and a table together.

    Without a table, the folders below ``images`` are the classes (images at the top are to be
    labelled), and an npz brings its own labels and splits.

    Parameters
    ----------
    images : Path
        A folder, or an ``.npz`` with ``train_images``, ``train_labels`` and so on.
    labels : Path, optional
        A table whose ``file`` is relative to ``images``.
    classes : sequence of str, optional
        Names of the classes; those found where not given.
    need_labels : bool
        False when images are only looked at: then no class need be found.

    Raises
    ------
    UsageError
        ``images`` does not exist.
    DataError
        There is no image, or the labels make no sense.
    """
    if not images.exists():
        raise UsageError(f"no images at {images}.")
    if images.is_dir():
        pixels: Pixels = FolderPixels(images)
        found = find_images(images)
        own = _from_folders(images, found)
    elif images.suffix == ".npz":
        pixels, own = _from_npz(images)
        found = own.file
    else:
        raise UsageError(f"{images} must be a folder or an .npz file.")
    table = own if labels is None else read_table(labels)
    notes: list[str] = []
    missing: list[tuple[str, str]] = []
    if labels is not None:
        table, missing, notes = _meet(table, found, images)
    if not table.file:
        raise DataError(f"{images} holds no image ({', '.join(SUFFIXES)}).")
    names: tuple[str, ...] = tuple(classes or ())
    if need_labels:
        names = class_names(table, classes)
        if not table.has_patient:
            notes.append(
                "No patient column: images of one patient may stand on both sides of a split, "
                "and every measured figure may be too good."
            )
    return Listing(pixels, table, names, missing, notes)


def find_images(folder: Path) -> list[str]:
    """Name every image file below a folder, sorted, without hidden ones.

    Raises
    ------
    UsageError
        The folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder at {folder}.")

    def fail(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.")

    found = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(name if below == "." else f"{below}/{name}")
    return sorted(found)


def _from_folders(folder: Path, files: list[str]) -> Table:
    labels = [name.split("/")[0] if "/" in name else "" for name in files]
    return _table(folder, files, labels)


def _table(
    path: Path, files: list[str], labels: list[str], split: list[str] | None = None
) -> Table:
    n = len(files)
    empty = [""] * n
    return Table(path, list(range(1, n + 1)), files, labels, empty, split or empty)


def _meet(
    table: Table, found: list[str], images: Path
) -> tuple[Table, list[tuple[str, str]], list[str]]:
    """Keep rows that have an image, name those that have none, append images without a row."""
    there = set(found)
    keep, missing = [], []
    for row, file in enumerate(table.file):
        try:
            if file in there or (images / inside(file)).is_file():
                keep.append(row)
            else:
                missing.append(
                    (file, f"line {table.line[row]} of {table.path.name}: no such image")
                )
        except (ImageError, OSError) as error:
            missing.append((file, str(error)))
    if not keep:
        raise DataError(
            f"no row of {table.path} has an image in {images}: its first file is {table.file[0]!r}."
            if table.file
            else f"{table.path} has no row."
        )
    rowless = sorted(there - set(table.file))
    n = len(rowless)

    def column(values: list[str]) -> list[str]:
        return [values[row] for row in keep] + [""] * n

    met = Table(
        path=table.path,
        line=[table.line[row] for row in keep] + [0] * n,
        file=[table.file[row] for row in keep] + rowless,
        label=column(table.label),
        patient=column(table.patient),
        split=column(table.split),
        columns={name: column(values) for name, values in table.columns.items()},
        has_patient=table.has_patient,
    )
    notes = []
    if n:
        notes.append(
            f"{n:,} of {len(there):,} images have no row in {table.path.name}, such as "
            f"{rowless[0]}: they are labelled too, each as a patient of its own."
        )
    return met, missing, notes


def _from_npz(path: Path) -> tuple[ArrayPixels, Table]:
    """Read a MedMNIST-style file: ``<split>_images`` (n, h, w[, 3]) and ``<split>_labels``."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: dict[str, NDArray[Any]] = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not an npz file of plain arrays: {error}.") from None
    parts, labels, split = {}, [], []
    for part in ("train", "val", "test"):
        images = arrays.get(f"{part}_images")
        if images is None:
            continue
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
            raise DataError(
                f"{path}: {part}_images must have shape (n, h, w) or (n, h, w, 3), "
                f"got {images.shape}."
            )
        parts[part] = images
        own = arrays.get(f"{part}_labels")
        flat = (
            [""] * len(images)
            if own is None
            else [str(v) for v in own.reshape(len(images), -1)[:, 0]]
        )
        labels += flat
        split += [part] * len(images)
    if not parts:
        raise DataError(f"{path} has no train_images; its arrays are {sorted(arrays)}.")
    pixels = ArrayPixels(parts)
    return pixels, _table(path, list(pixels.names()), labels, split)
