"""What there is to label: images found, rows read, and how the two meet."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import SPLITS, ArrayPixels, Pixels
from medloop.errors import DataError, ImageError, UsageError
from medloop.read.image import MAX_BYTES, SUFFIXES, FolderPixels, inside, shown
from medloop.read.table import Table, class_names, read_table
from medloop.read.volumes import Volumes, find_volumes


@dataclass(frozen=True)
class Listing:
    """One entry an image, before any pixel is read; an empty string means "not given"."""

    pixels: Pixels
    table: Table
    classes: tuple[str, ...]
    missing: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table.file)


def list_images(
    images: Path,
    labels: Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    need_labels: bool = True,
    findings: Sequence[str] = (),
    key: bytes | None = None,
) -> Listing:
    """Bring a folder (or a MedMNIST-style npz) and a table together.

    DICOM and NIfTI files are found by their content, whatever they are called. Of a file of many
    frames, each is an image: ``a.dcm#1`` and so on, ``v.nii.gz#z0`` and so on. Patients and
    studies become pseudonyms, and of a header only what names nobody becomes a column; a path
    that holds the name or the number of a patient is replaced by a pseudonym too.

    Without a table, the folders below ``images`` are the classes (images at the top are to be
    labelled); where all of them are called train, val or test, they are the splits and the
    folders below them the classes. An npz brings its own labels and splits.

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
    findings : sequence of str
        Where images may hold several findings, all of them: the table may have a column for each
        in place of ``label``, and the labels of an npz, which may have them too, are left out.
    key : bytes, optional
        For the pseudonyms; the secret of this machine where not given.

    Raises
    ------
    UsageError
        ``images`` does not exist.
    DataError
        There is no image, or the labels make no sense.
    """
    missing: list[tuple[str, str]] = []
    volumes = Volumes()
    if images.is_dir():
        found, others = find_files(images)
        missing = [(_text(name), _UNUSABLE) for name in found if not _usable(name)]
        found = [name for name in found if _usable(name)]
        volumes = find_volumes(images, others, key=key)
        missing += volumes.missing
        if volumes.known or volumes.pictures:
            pictures = sorted([*map(volumes.name_of, found), *volumes.pictures])
            found = [*pictures, *volumes.rows]
        pixels: Pixels = FolderPixels(images, volumes.aliases)
        own = _from_folders(images, found)
    elif images.suffix == ".npz" and images.is_file():
        pixels, own = _from_npz(images, labels=not findings)
        found = own.file
    elif images.exists():
        raise UsageError(f"{images} must be a folder or an .npz file.")
    else:
        raise UsageError(f"no images at {images}.")
    notes: list[str] = []
    table = own
    if labels is not None:
        required = ("file",) if findings else ("file", "label")
        given = _renamed(read_table(labels, required=required, findings=findings), volumes)
        table, imageless, notes = _meet(given, found, images, volumes)
        missing += imageless
    if volumes.rows:
        table = _with_headers(table, volumes)
    notes += volumes.notes
    if not table.file:
        raise DataError(f"{images} holds no image ({', '.join(SUFFIXES)}, DICOM, NIfTI).")
    names: tuple[str, ...] = tuple(classes or ())
    if need_labels:
        names = class_names(table, classes)
        if not table.has_patient:
            notes.append(
                "No patient column: images of one patient may stand on both sides of a split, "
                "and every measured figure may be too good."
            )
    return Listing(pixels, table, names, missing, notes)


def _renamed(table: Table, volumes: Volumes) -> Table:
    """Call the files of a table as they are called here."""
    line_of: dict[str, int] = {}
    names = [volumes.name_of(name) for name in table.file]
    for name, line in zip(names, table.line, strict=True):
        first = line_of.setdefault(name, line)
        if first != line:  # as a file, and as the only frame of it
            raise DataError(f"{table.path} names {shown(name)} twice, in lines {first} and {line}.")
    return replace(table, file=names)


def _with_headers(table: Table, volumes: Volumes) -> Table:
    """Fill in patients and columns from headers, where the table says nothing."""
    at = {name: row for row, name in enumerate(table.file)}
    patient = list(table.patient)
    known = {
        about.patient: patient[at[name]]
        for name, about in volumes.rows.items()
        if about.patient and name in at and patient[at[name]]
    }
    columns: dict[str, list[str]] = {}
    for name, about in volumes.rows.items():
        row = at.get(name)
        if row is None:
            continue
        # a patient that the table names keeps that name in all images
        patient[row] = patient[row] or known.get(about.patient, about.patient)
        said = about.columns | {"study": about.study, "flags": "; ".join(about.flags)}
        for column, value in said.items():
            if value and column not in table.columns:
                columns.setdefault(column, [""] * len(table.file))[row] = value
    return replace(
        table,
        patient=patient,
        columns=table.columns | dict(sorted(columns.items())),
        has_patient=table.has_patient or all(patient),
    )


_UNUSABLE = "its name holds a backslash or is not UTF-8: rename the file"


def _usable(name: str) -> bool:
    # tables write backslashes for slashes, and the store holds text
    return "\\" not in name and _text(name) == name


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def find_images(folder: Path) -> list[str]:
    """Name every image file below a folder, sorted, without hidden ones, by its suffix.

    A link to a file is named like a file; a link to a folder is not followed.

    Raises
    ------
    UsageError
        The folder does not exist or cannot be read.
    """
    return find_files(folder)[0]


def find_files(folder: Path) -> tuple[list[str], list[str]]:
    """Name files that are called like images, and all others, as :func:`find_images` does."""
    if not folder.is_dir():
        raise UsageError(f"no folder at {folder}.")

    def fail(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.")

    found: list[str] = []
    others: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in files:
            if not name.startswith("."):
                kind = found if name.lower().endswith(SUFFIXES) else others
                kind.append(name if below == "." else f"{below}/{name}")
    return sorted(found), sorted(others)


def _from_folders(folder: Path, files: list[str]) -> Table:
    above = [name.split("/")[:-1] for name in files]
    if {folders[0] if folders else "" for folders in above} <= set(SPLITS):
        split = [folders[0] for folders in above]
        return _table(folder, files, [(folders[1:] or [""])[0] for folders in above], split)
    return _table(folder, files, [(folders or [""])[0] for folders in above])


def _table(
    path: Path, files: list[str], labels: list[str], split: list[str] | None = None
) -> Table:
    n = len(files)
    empty = [""] * n
    return Table(path, list(range(1, n + 1)), files, labels, empty, split or empty)


def _meet(
    table: Table, found: list[str], images: Path, volumes: Volumes
) -> tuple[Table, list[tuple[str, str]], list[str]]:
    """Keep rows that have an image, name those that have none, append images without a row."""
    there = set(found)
    keep, missing = [], []
    for row, file in enumerate(table.file):
        try:
            if file in volumes.many:
                first = f"{file}#{volumes.many[file][0]}"
                missing.append(
                    (
                        file,
                        f"line {table.line[row]} of {table.path.name}: it holds "
                        f"{len(volumes.many[file]):,} images; name one, as {first}",
                    )
                )
            elif file in volumes.refused:
                continue  # its own reason is told
            elif file in there or (images / inside(volumes.aliases.get(file, file))).is_file():
                keep.append(row)
            else:
                missing.append(
                    (file, f"line {table.line[row]} of {table.path.name}: no such image")
                )
        except ImageError as error:
            missing.append((file, f"line {table.line[row]} of {table.path.name}: {error}"))
        except OSError as error:  # a name longer than the system allows
            missing.append((file, f"line {table.line[row]} of {table.path.name}: {error.strerror}"))
    if not keep:
        raise DataError(
            f"no row of {table.path} has an image in {images}: its first file is {table.file[0]!r}."
            if table.file
            else f"{table.path} has no row."
        )
    named = set(table.file)
    rowless = [name for name in found if name not in named]
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
            f"{shown(rowless[0])}: they are labelled too, each as a patient of its own."
        )
    return met, missing, notes


#: Pixels shrink a few times; what shrinks a thousand times was made to fill the memory.
_MAX_RATIO = 200


def _from_npz(path: Path, *, labels: bool = True) -> tuple[ArrayPixels, Table]:
    """Read a MedMNIST-style file: ``<split>_images`` (n, h, w[, 3]) and ``<split>_labels``."""
    arrays = _arrays(path)
    parts: dict[str, NDArray[Any]] = {}
    said: list[str] = []
    split: list[str] = []
    for part in SPLITS:
        images = arrays.get(f"{part}_images")
        own = arrays.get(f"{part}_labels") if labels else None
        if images is None:
            if own is not None:
                raise DataError(f"{path} has {part}_labels, but no {part}_images.")
            continue
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
            raise DataError(
                f"{path}: {part}_images must have shape (n, h, w) or (n, h, w, 3), "
                f"got {images.shape}."
            )
        if images.dtype.kind not in "uifb":
            raise DataError(f"{path}: {part}_images must hold numbers, got {images.dtype}.")
        parts[part] = images
        said += [""] * len(images) if own is None else _flat(path, part, own, len(images))
        split += [part] * len(images)
    if not parts:
        held = ", ".join(sorted(arrays)) or "none"
        raise DataError(f"{path} has no train_images, val_images or test_images; it has {held}.")
    pixels = ArrayPixels(parts)
    return pixels, _table(path, list(pixels.names()), said, split)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    limit = max(_MAX_RATIO * path.stat().st_size, MAX_BYTES)
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > limit:
            raise DataError(f"{path} unpacks to {size:,} bytes, at most {limit:,} are read.")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen classes
        line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path} is not an npz file of plain arrays: {line}.") from None


def _flat(path: Path, part: str, labels: NDArray[Any], n: int) -> list[str]:
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(
            f"{path}: {part}_labels must have shape ({n},) or ({n}, 1), one class an image, "
            f"got {labels.shape}."
        )
    whole = labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())
    if labels.dtype.kind not in "iubU" and not whole:
        raise DataError(f"{path}: {part}_labels must be whole numbers or text, got {labels.dtype}.")
    return [str(value) for value in (labels.astype(np.int64) if whole else labels).ravel().tolist()]
