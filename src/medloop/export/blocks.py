"""The images of a workspace with their current labels, a block at a time."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.annotations import Skeleton
from medloop.errors import UsageError, WorkspaceError
from medloop.labels import HUMAN, MODEL, Labels
from medloop.masks import normal
from medloop.read.parts import stacked
from medloop.store.columns import CHUNK
from medloop.store.database import Database
from medloop.store.log import EXTRA
from medloop.store.view import decided, read_columns, read_looks, winners
from medloop.store.workspace import Workspace

#: A block ends after so many images, or after the image that brings it to so many labels.
IMAGES = 5_000
LABELS = 5_000

#: What is known of an image besides its id, and where its row has it.
_IMAGE = {
    "file": ("file",),
    "size": ("height", "width"),
    "split": ("coalesce(split, 'train')",),
    "patient": ("grp",),
    "sha256": ("sha256",),
}
IMAGE_COLUMNS = frozenset(_IMAGE)


@dataclass(frozen=True, eq=False)
class Block:
    """Images in the order of their ids, and all their labels.

    Parameters
    ----------
    first : int
        How many images came before.
    id : (n,) int
    file : list of str
    size : (n, 2) int
        Height and width in pixels.
    split : list of str
    patient : list of str
        Pseudonymous number.
    sha256 : list of str
        Content hash.
    looked : (n,) str
        Who examined each image: ``"human"``, ``"model"``, or ``""`` for nobody.
    labels : Labels
        In the order of the images; ``image`` holds ids.
    row : (m,) int
        Position in the block of the image of each label.
    accepted : (m,) bool
        Whether a person gave the label or a certificate vouches for it.
    """

    first: int
    id: NDArray[np.int64]
    file: list[str]
    size: NDArray[np.int64]
    split: list[str]
    patient: list[str]
    sha256: list[str]
    looked: NDArray[np.str_]
    labels: Labels
    row: NDArray[np.int64]
    accepted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.file)

    def bare(self) -> NDArray[np.int64]:
        """Return the positions of the images that have no label."""
        return np.flatnonzero(np.bincount(self.row, minlength=len(self)) == 0)

    def bounds(self) -> list[int]:
        """Return (n + 1,): where in ``labels`` the rows of each image begin."""
        found: list[int] = np.searchsorted(self.row, np.arange(len(self) + 1)).tolist()
        return found


@dataclass(frozen=True, eq=False)
class _Event:
    seq: int
    rows: NDArray[np.int32]
    image: NDArray[Any]


class Source:
    """What an export reads, from one state of a workspace.

    ``current()`` of the log drops a column that one event lacks; here such rows get zeros (None
    for a mask), so that a person's plain class does not cost a detector its boxes.

    Parameters
    ----------
    workspace : Workspace

    Raises
    ------
    WorkspaceError
        The scan is not finished.
    UsageError
        There are no labels yet.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.database: Database = workspace.log.database
        if not workspace.scanned:
            raise WorkspaceError(
                f"the scan of {workspace.folder} is not finished; "
                f"run: medloop resume {workspace.folder}"
            )
        self.classes = workspace.images.classes()
        self.events, self.seen, self.person = _current(self.database)
        if not self.events and not len(self.seen):
            raise UsageError(f"{workspace.folder} holds no labels yet.")
        self.vouched = _vouched(workspace)
        self.skeleton = _skeleton(workspace)
        self.has, self.points, self.one_width = _columns(self.database, self.events)
        if "keypoints" in self.has and self.skeleton is None:
            self.skeleton = Skeleton(points=tuple(f"p{i}" for i in range(self.points)))

    @property
    def splits(self) -> list[str]:
        """Name the splits that good images stand in."""
        query = "SELECT DISTINCT coalesce(split, 'train') FROM image WHERE status = 'ok'"
        found = {row[0] for row in self.database.all(query)}
        return [name for name in ("train", "val", "test") if name in found]

    def counts(self) -> tuple[int, int]:
        """Count the good images, and the labels (those of quarantined images too)."""
        images = self.database.one("SELECT count(*) FROM image WHERE status = 'ok'")[0]
        return int(images), sum(len(event.rows) for event in self.events)

    def blocks(
        self,
        *,
        labels: bool = True,
        split: str | None = None,
        images: Collection[str] = IMAGE_COLUMNS,
    ) -> Iterator[Block]:
        """Yield all good images, those without a label too.

        Parameters
        ----------
        labels : bool
            Whether to read the labels; without them, blocks are of images only.
        split : str, optional
            Only the images of this split.
        images : collection of str
            The columns of the images to read, of ``file`` (always), ``size``, ``split``,
            ``patient`` and ``sha256``; without values, the others say 0 and ``""``.
        """
        known = [name for name in _IMAGE if name in images or name == "file"]
        names = ["id", *(column for name in known for column in _IMAGE[name])]
        values = [] if split is None else [split]
        query = f"SELECT {', '.join(names)} FROM image WHERE status = 'ok' AND id > ? "  # noqa: S608
        query += "AND coalesce(split, 'train') = ? " if values else ""
        query += "ORDER BY id LIMIT ?"
        first, last = 0, -(2**62)
        while rows := self.database.all(query, [last, *values, IMAGES]):
            last = rows[-1][0]
            columns = dict(zip(names, zip(*rows, strict=True), strict=True))
            ids = np.array(columns["id"], np.int64)
            for start, stop in self._cuts(ids) if labels else [(0, len(ids))]:
                part = {name: column[start:stop] for name, column in columns.items()}
                yield self._block(first + start, part, ids[start:stop], labels)
            first += len(rows)

    def _cuts(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        total = np.zeros(len(ids), np.int64)
        for event in self.events:
            low, high = (np.searchsorted(event.image, ids, side=side) for side in _SIDES)
            total += high - low
        filled = np.concatenate([[0], np.cumsum(total)])
        start = 0
        while start < len(ids):
            stop = int(np.searchsorted(filled, filled[start] + LABELS))
            stop = min(max(stop, start + 1), len(ids))
            yield start, stop
            start = stop

    def _block(
        self, first: int, rows: dict[str, tuple[Any, ...]], ids: NDArray[np.int64], labels: bool
    ) -> Block:
        def told(name: str) -> list[Any]:
            return list(rows[name]) if name in rows else [""] * len(ids)

        held = self._labels(ids) if labels else Labels.empty()
        human = held.source == HUMAN
        looked = np.where(_within(self.seen, ids), MODEL, "")
        looked = np.where(_within(self.person, ids), HUMAN, looked)
        size = np.zeros((len(ids), 2), np.int64)
        for at, side in enumerate(_IMAGE["size"]):
            if side in rows:
                size[:, at] = rows[side]
        return Block(
            first=first,
            id=ids,
            file=told("file"),
            size=size,
            split=told(*_IMAGE["split"]),
            patient=["" if number is None else str(number) for number in told("grp")],
            sha256=told("sha256"),
            looked=looked.astype(np.str_),
            labels=held,
            row=np.searchsorted(ids, held.image),
            accepted=human | _within(self.vouched, held.image),
        )

    def _labels(self, ids: NDArray[np.int64]) -> Labels:
        parts: list[dict[str, NDArray[Any]]] = []
        for event in self.events:
            low = int(np.searchsorted(event.image, ids[0], side="left"))
            high = int(np.searchsorted(event.image, ids[-1], side="right"))
            rows = event.rows[low:high][_within(ids, event.image[low:high])]
            if len(rows):
                parts.append(self._read(event.seq, rows.astype(np.int64)))
        held = stacked(parts)
        if not held:
            return Labels.empty()
        if "mask" in held:
            mask = np.empty(len(held["image"]), object)
            mask[:] = [None if one is None else normal(one) for one in held["mask"]]
            held["mask"] = mask
        return Labels(**_ordered(held, held["image"]))

    def _read(self, seq: int, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Read rows, in this order, holding one stored chunk at a time."""
        order = np.argsort(rows, kind="stable")
        ranked = rows[order]
        cuts = np.flatnonzero(np.diff(ranked // CHUNK)) + 1
        parts = [
            read_columns(self.database, seq, self._names(), rows=part)
            for part in np.split(ranked, cuts)
        ]
        return _ordered(stacked(parts), order)

    def _names(self) -> set[str]:
        return {"image", "class_id", "score", "source", "round", *self.has}


_SIDES: tuple[Any, Any] = ("left", "right")


def _ordered(columns: dict[str, NDArray[Any]], by: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Put the rows in the order of a column; those that have the same value there stay so."""
    if (by[1:] >= by[:-1]).all():
        return columns
    order = np.argsort(by, kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _current(
    database: Database,
) -> tuple[list[_Event], NDArray[np.int64], NDArray[np.int64]]:
    looks = read_looks(database)
    kept, seen = winners(looks)
    events = []
    for look in looks:
        rows = np.flatnonzero(kept[look.seq]).astype(np.int32)
        if len(rows):
            image = look.image[rows]
            if (image[1:] < image[:-1]).any():
                order = np.argsort(image, kind="stable")
                rows, image = rows[order], image[order]
            events.append(_Event(look.seq, rows, image))
    return events, seen, decided(looks)


def _joined(parts: list[NDArray[Any]]) -> NDArray[np.int64]:
    every = np.concatenate([np.empty(0, np.int64), *parts])
    return np.unique(every)


def _within(known: NDArray[Any], asked: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which numbers are in a sorted list."""
    if not len(known):
        return np.zeros(len(asked), bool)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.asarray(known[at] == asked)


def _vouched(workspace: Workspace) -> NDArray[np.int64]:
    events = workspace.log.events("certificate", live=True)
    if not events:
        return np.empty(0, np.int64)
    held = read_columns(workspace.log.database, events[-1].seq, {"image"})
    return np.unique(held.get("image", np.empty(0, np.int64)))


def _skeleton(workspace: Workspace) -> Skeleton | None:
    """Return the skeleton that the latest event states in its payload."""
    stated = None
    for event in workspace.log.events(live=True):
        stated = event.payload.get("skeleton") or stated
    return None if stated is None else skeleton_of(stated)


def skeleton_of(stated: dict[str, Any]) -> Skeleton:
    """Build a skeleton of what JSON keeps of it.

    Examples
    --------
    >>> skeleton_of({"points": ["left", "right"], "edges": [[0, 1]]}).edges
    ((0, 1),)
    """
    sigmas = stated.get("sigmas")
    return Skeleton(
        points=tuple(stated["points"]),
        edges=tuple((int(a), int(b)) for a, b in stated.get("edges") or ()),
        flip=tuple((int(a), int(b)) for a, b in stated.get("flip") or ()),
        sigmas=None if sigmas is None else tuple(float(sigma) for sigma in sigmas),
    )


def to_json(skeleton: Skeleton) -> dict[str, Any]:
    """Say a skeleton as JSON can, for :func:`skeleton_of` to read."""
    return {
        "points": list(skeleton.points),
        "edges": [list(edge) for edge in skeleton.edges],
        "flip": [list(pair) for pair in skeleton.flip],
        "sigmas": None if skeleton.sigmas is None else list(skeleton.sigmas),
    }


def _columns(database: Database, events: list[_Event]) -> tuple[set[str], int, bool]:
    """Name the optional columns that events have, if all that have one agree in its width."""
    tails: dict[str, set[str]] = {}
    for event in events:
        query = "SELECT DISTINCT name, tail FROM label WHERE event = ?"
        for name, tail in database.all(query, [event.seq]):
            tails.setdefault(name, set()).add(tail)
    optional = {name: tails[name] for name in EXTRA if name in tails}
    # rounds whose classes or points differ cannot stand in one column
    has = {name for name, widths in optional.items() if len(widths) == 1}
    points = json.loads(next(iter(optional["keypoints"])))[0] if "keypoints" in has else 0
    return has, int(points), len(has) == len(optional)
