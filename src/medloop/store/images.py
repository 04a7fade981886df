"""The registry of images: what was found, where it belongs, and what was put aside."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.dataset import SPLITS, Dataset, Pixels
from medloop.errors import DataError, StaleError, TamperedError, WorkspaceError
from medloop.store.log import LabelLog

OK = "ok"
QUARANTINED = "quarantined"
#: Operation and kind of the event that ends the scan.
SCAN = "scan"

#: A scan commits after so many rows or seconds, whichever comes first: what a kill can cost.
BATCH_ROWS = 1_000
BATCH_SECONDS = 2.0

_TABLE = """CREATE TABLE IF NOT EXISTS image(
    id INTEGER PRIMARY KEY, file TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, grp INTEGER, split TEXT,
    status TEXT NOT NULL, reason TEXT NOT NULL, stage TEXT NOT NULL, columns TEXT NOT NULL)"""
_FIELDS = "id, file, sha256, bytes, height, width, grp, split, status, reason, stage, columns"
#: What an image that is registered again must agree in; the rest changes as the run goes on.
_FIXED = "id, file, sha256, bytes, height, width, columns"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One image as the scan found it.

    Parameters
    ----------
    id : int
        ``Dataset.id``.
    file : str
        Name relative to the source.
    sha256 : str
        Hash of the content; empty where it could not be read.
    bytes, height, width : int
        Size of the file, and of the image in pixels.
    group : int, optional
        Pseudonymous number of the patient; never a name.
    split : str, optional
        ``"train"``, ``"val"`` or ``"test"``, where the source says so.
    columns : dict of str to str
        Extra text such as ``text``.
    reason, stage : str
        Why the image is quarantined, and where that was noticed; empty for a good image.
    """

    id: int
    file: str
    sha256: str = ""
    bytes: int = 0
    height: int = 0
    width: int = 0
    group: int | None = None
    split: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    stage: str = ""


class ImageTable:
    """The images of a workspace, in the same file as the label log.

    Parameters
    ----------
    log : LabelLog
        Gets an event when the scan ends and for each later quarantine, so that its ``verify``
        covers this table.
    """

    def __init__(self, log: LabelLog) -> None:
        self.log = log
        self.database = log.database
        if not self.database.read_only:
            self.database.run(_TABLE)
        log.checks.append(self._check)

    def register(self, rows: Iterable[ImageRow]) -> int:
        """Add images, streaming, a transaction for every batch; return how many were new.

        An image that is there already with the same content is passed over, so that a scan which
        was killed can start again, or go on at ``registered()``.

        Raises
        ------
        StaleError
            An id is there with another content, or the scan is finished.
        DataError
            An unknown split.
        """
        added = 0
        batch: list[ImageRow] = []
        began = time.monotonic()
        for row in rows:
            batch.append(row)
            if len(batch) >= BATCH_ROWS or time.monotonic() - began > BATCH_SECONDS:
                added += self._add(batch)
                batch, began = [], time.monotonic()
        return added + self._add(batch)

    def registered(self) -> int:
        """Count the images, quarantined ones too."""
        return int(self.database.one("SELECT count(*) FROM image")[0])

    def quarantine(self, image: int, *, reason: str, stage: str) -> None:
        """Put an image aside; the first reason stays.

        Raises
        ------
        DataError
            There is no such image, or no reason.
        """
        if not reason:
            raise DataError(f"quarantine of image {image} must state a reason.")
        with self.log.transaction():
            row = self.database.one("SELECT file, status FROM image WHERE id = ?", [int(image)])
            if not row:
                raise DataError(f"image {image} is not among the {self.registered()} registered.")
            if row[1] == QUARANTINED:
                return
            self.database.run(
                "UPDATE image SET status = ?, reason = ?, stage = ? WHERE id = ?",
                [QUARANTINED, reason, stage, int(image)],
            )
            payload = {"image": int(image), "file": row[0], "reason": reason, "stage": stage}
            self.log.append(f"quarantine-{image}", "quarantine", payload=payload)

    def quarantined(self) -> list[tuple[str, str, str]]:
        """List ``(file, reason, stage)`` in the order of the ids."""
        return [
            (file, reason, stage)
            for file, reason, stage in self.database.all(
                "SELECT file, reason, stage FROM image WHERE status = ? ORDER BY id", [QUARANTINED]
            )
        ]

    def counts(self) -> dict[str, int]:
        """Count the images by status."""
        rows = self.database.all("SELECT status, count(*) FROM image GROUP BY status")
        found: dict[str, int] = dict(rows)
        return {status: int(found.get(status, 0)) for status in (OK, QUARANTINED)}

    def finish(
        self,
        *,
        classes: Sequence[str],
        images: ArrayLike | None = None,
        group: ArrayLike | None = None,
        split: ArrayLike | None = None,
    ) -> int:
        """End the scan: set groups and splits, and write the table's digest into the log.

        Parameters
        ----------
        classes : sequence of str
            Names of the classes.
        images : (n,) int, optional
            Ids that ``group`` and ``split`` are aligned with; all that are registered, in order,
            where not given.
        group : (n,) int, optional
            Left as registered where not given.
        split : (n,) str, optional
            Left as registered where not given.

        Returns
        -------
        int
            Number of the event; the same when it is repeated with the same content.

        Raises
        ------
        StaleError
            The scan was finished with another content.
        DataError
            Columns of different lengths, an unknown image or an unknown split.
        """
        with self.log.transaction():
            ids = np.asarray(self.table()["id"] if images is None else images, np.int64)
            if group is not None:
                self._set("grp", ids, _column("group", group, np.int64, len(ids)))
            if split is not None:
                splits = _column("split", split, np.str_, len(ids))
                _check_splits(splits)
                self._set("split", ids, splits)
            payload = {
                "classes": [str(name) for name in classes],
                "images": self.registered(),
                "digest": self._digest(self._later(self.scanned())),
            }
            return self.log.append(SCAN, SCAN, payload=payload)

    def scanned(self) -> int:
        """Return the number of the event that ended the scan; 0 before."""
        row = self.database.one("SELECT seq FROM event WHERE op = ?", [SCAN])
        return int(row[0]) if row else 0

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; empty before the scan ended."""
        events = self.log.events(SCAN)
        return tuple(events[0].payload["classes"]) if events else ()

    def table(self, *, status: str | None = None) -> dict[str, NDArray[Any]]:
        """Return the images in the order of their ids, as aligned columns.

        ``id``, ``file``, ``sha256``, ``bytes``, ``height``, ``width``, ``group``, ``split`` and
        ``status``; of all images, or of those that are ``"ok"`` or ``"quarantined"``. An image
        without a group is its own (a negative number); one without a split is for training.
        """
        rows = self.database.all(
            "SELECT id, file, sha256, bytes, height, width, coalesce(grp, -1 - id), "
            "coalesce(split, 'train'), status FROM image WHERE status = coalesce(?, status) "
            "ORDER BY id",
            [status],
        )
        names = "id file sha256 bytes height width group split status".split()
        types: dict[str, Any] = {"file": object, "sha256": "U64", "split": "U5", "status": "U11"}
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        return {
            name: np.array(column, types.get(name, np.int64))
            for name, column in zip(names, columns, strict=True)
        }

    def dataset(self, pixels: Pixels) -> Dataset:
        """Return the good images as a data set.

        Raises
        ------
        WorkspaceError
            The scan is not finished.
        """
        if not self.scanned():
            raise WorkspaceError(
                f"the scan of {self.log.path.parent} is not finished; "
                f"run: medloop resume {self.log.path.parent}"
            )
        table = self.table(status=OK)
        return Dataset(
            pixels=pixels,
            classes=self.classes(),
            columns=self._texts(),
            **{name: table[name] for name in ("id", "file", "sha256", "group", "split")},
        )

    def _texts(self) -> dict[str, NDArray[Any]]:
        held = self.database.all("SELECT columns FROM image WHERE status = ? ORDER BY id", [OK])
        # one parse of one long list is four times as fast as a parse a row
        rows = json.loads(f"[{','.join(row[0] for row in held)}]")
        names = sorted({name for row in rows for name in row})
        return {name: np.array([row.get(name, "") for row in rows], object) for name in names}

    def _add(self, batch: list[ImageRow]) -> int:
        if not batch:
            return 0
        _check_splits({row.split for row in batch} - {None})
        with self.database.transaction():
            if self.scanned():
                added = 0
            else:
                marks = ", ".join("?" * len(_FIELDS.split(", ")))
                added = self.database.run_many(
                    f"INSERT OR IGNORE INTO image({_FIELDS}) VALUES({marks})",
                    map(_values, batch),
                )
            if added < len(batch):
                self._compare(batch)
        return added

    def _compare(self, batch: list[ImageRow]) -> None:
        fixed = _FIXED.split(", ")
        for row in batch:
            want = dict(zip(_FIELDS.split(", "), _values(row), strict=True))
            found = self.database.one(f"SELECT {_FIXED} FROM image WHERE id = ?", [row.id])  # noqa: S608
            if not found:
                raise StaleError(f"image {row.id} ({row.file}) came after the scan was finished.")
            for name, was in zip(fixed, found, strict=True):
                if was != want[name]:
                    raise StaleError(
                        f"image {row.id} is registered with {name} {was!r}; "
                        f"it came again with {want[name]!r}."
                    )

    def _set(self, name: str, ids: NDArray[np.int64], values: list[Any]) -> None:
        sql = f"UPDATE image SET {name} = ? WHERE id = ?"  # noqa: S608
        changed = self.database.run_many(sql, zip(values, ids.tolist(), strict=True))
        if changed != len(ids):
            raise DataError(f"{len(ids) - changed} of {len(ids)} images are not registered.")

    def _later(self, scan: int) -> dict[int, dict[str, Any]]:
        """Return the quarantines after the scan ended, by image."""
        if not scan:
            return {}
        events = self.log.events("quarantine")
        return {event.payload["image"]: event.payload for event in events if event.seq > scan}

    def _digest(self, later: dict[int, dict[str, Any]]) -> str:
        """Hash the table as it was when the scan ended."""
        digest = hashlib.sha256()
        for row in self.database.stream(f"SELECT {_FIELDS} FROM image ORDER BY id"):  # noqa: S608
            if row[0] in later:
                said = later[row[0]]
                as_said = row[8:11] == (QUARANTINED, said["reason"], said["stage"])
                row = (*row[:8], OK if as_said else "changed", "", "", row[11])
            digest.update(json.dumps(row, separators=(",", ":"), default=repr).encode() + b"\n")
        return digest.hexdigest()

    def _check(self, log: LabelLog) -> None:
        for event in log.events(SCAN):
            if event.payload["digest"] != self._digest(self._later(event.seq)):
                raise TamperedError(
                    f"the images of {log.path} were changed: "
                    f"they do not give the digest of event {event.seq}."
                )


def _values(row: ImageRow) -> tuple[Any, ...]:
    columns = json.dumps(row.columns, sort_keys=True)
    group = None if row.group is None else int(row.group)
    status = QUARANTINED if row.reason else OK
    size = (int(row.bytes), int(row.height), int(row.width))
    about = (status, row.reason, row.stage, columns)
    return (int(row.id), row.file, row.sha256, *size, group, row.split, *about)


def _column(name: str, values: ArrayLike, dtype: type, length: int) -> list[Any]:
    try:
        column: NDArray[Any] = np.asarray(values, dtype)
    except ValueError as error:
        raise DataError(f"{name} must hold {dtype.__name__}: {error}.") from None
    if column.shape != (length,):
        raise DataError(f"{name} must have shape ({length},), got {column.shape}.")
    return list(column.tolist())


def _check_splits(splits: Iterable[str | None]) -> None:
    unknown = set(splits) - set(SPLITS)
    if unknown:
        raise DataError(f"split must be one of {SPLITS}, got {sorted(map(str, unknown))[0]!r}.")
