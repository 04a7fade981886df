"""The current labels as a view over the events."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.labels import HUMAN, MODEL, PARTLY
from medloop.store.columns import from_chunks
from medloop.store.database import Database

#: A person takes back what persons decided of these images; such an event has no rows.
WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Look:
    """What one event says about which images, without the classes.

    Parameters
    ----------
    seq : int
        Number of the event.
    live : bool
        Whether no later rollback undid it.
    image : (m,) int
        Image of each row.
    human : (m,) bool
        Which rows are a person's.
    looked_at : (l,) int
        Images that were examined.
    by_person : bool
        Whether a person examined those that carry no rows.
    partly : bool
        Whether the person named only some of what the images hold, and decided none of them.
    withdrawn : bool
        Whether what persons had decided of these images was taken back.
    """

    seq: int
    live: bool
    image: NDArray[np.int64]
    human: NDArray[np.bool_]
    looked_at: NDArray[np.int64]
    by_person: bool
    partly: bool = False
    withdrawn: bool = False

    def decided(self) -> NDArray[np.int64]:
        """List the images that a person decided here, by rows or by finding nothing."""
        if self.partly or self.withdrawn:
            return np.empty(0, np.int64)
        mine = self.image[self.human]
        if self.by_person:
            mine = np.concatenate([mine, np.setdiff1d(self.looked_at, self.image)])
        return mine


def winners(looks: list[Look]) -> tuple[dict[int, NDArray[np.bool_]], NDArray[np.int64]]:
    """Say which rows of each event are current, by its number, and which images were looked at.

    An image that a person decided and took back counts as if nobody had decided it.
    """
    decided = [look.decided() for look in looks]
    seen = [look.looked_at for look in looks if look.live or look.withdrawn]
    named = [look.image for look in looks if look.partly]
    ids = np.asarray(_union([*decided, *seen, *named]), np.int64)
    person, model = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    known = np.zeros(len(ids), bool)
    for look, mine in zip(looks, decided, strict=True):
        person[_position(ids, mine)] = look.seq
        if look.withdrawn:
            person[_position(ids, look.looked_at)] = 0
        elif look.partly:
            known[_position(ids, look.image)] = True
            if look.live:
                known[_position(ids, look.looked_at)] = True
        elif look.live:
            at = _position(ids, look.looked_at)
            model[at[person[at] != look.seq]] = look.seq
    kept = {}
    for look in looks:
        kept[look.seq] = np.zeros(len(look.image), bool)
        # the model's rows of an undone event may be of images that nobody else looked at
        rows = np.arange(len(look.image)) if look.live else np.flatnonzero(look.human)
        at = _position(ids, look.image[rows])
        last = person[at] < look.seq if look.partly else person[at] == look.seq
        by_person = look.human[rows] & last
        by_model = (person[at] == 0) & (model[at] == look.seq)
        kept[look.seq][rows] = by_person | by_model
    return kept, ids[known | (person > 0) | (model > 0)]


def decided(looks: list[Look]) -> NDArray[np.int64]:
    """List the images that a person decided and nobody took back after."""
    none = np.empty(0, np.int64)
    said = [(look.decided(), look.seq) for look in looks]
    said += [(look.looked_at, -look.seq) for look in looks if look.withdrawn]
    image = np.concatenate([none, *(images for images, _ in said)])
    seq = np.concatenate([none, *(np.full(len(images), number) for images, number in said)])
    ids, at = np.unique(image, return_inverse=True)
    last, taken = np.zeros((2, len(ids)), np.int64)
    np.maximum.at(last, at, seq)
    np.maximum.at(taken, at, -seq)
    return np.asarray(ids[last > taken])


def _unique(values: NDArray[np.int64]) -> NDArray[np.int64]:
    # numpy.unique hashes whole numbers, at several times the cost of sorting what is in order
    if not (values[1:] > values[:-1]).all():
        values = np.sort(values, kind="stable")
        values = values[np.concatenate([[True], values[1:] > values[:-1]])]
    return values


def _union(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    longest = _unique(max(parts, key=len, default=np.empty(0, np.int64)))
    others = [part for part in parts if not np.array_equal(part, longest)]
    return _unique(np.concatenate([longest, *others])) if others else longest


def _position(ids: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where in the sorted ``ids`` each of the values stands."""
    if len(ids) and ids[-1] - ids[0] + 1 == len(ids):
        return np.asarray(values - ids[0], np.int64)
    return np.asarray(np.searchsorted(ids, values), np.int64)


def read_undone(database: Database) -> set[int]:
    """List the events whose round a later rollback undid."""
    undone = set()
    lowest = np.inf
    for seq, kind, round in database.all("SELECT seq, kind, round FROM event ORDER BY seq DESC"):
        if kind == "rollback":
            lowest = min(lowest, round)
        elif round > lowest:
            undone.add(seq)
    return undone


def read_looks(database: Database) -> list[Look]:
    """Read who looked at which images, event by event in order."""
    query = (
        "SELECT event, name, dtype, tail, label.rows, data, looked_by "
        "FROM label JOIN event ON seq = event "
        "WHERE name IN ('image', 'source', 'looked_at') ORDER BY event, name, first"
    )
    undone = read_undone(database)
    looks = []
    for seq, rows in groupby(database.stream(query), key=lambda row: row[0]):
        columns, looked_by = {}, MODEL
        for name, group in groupby(rows, key=lambda row: row[1]):
            chunks = list(group)
            looked_by = chunks[0][6]
            columns[name] = from_chunks([chunk[2:6] for chunk in chunks])
        image = columns.get("image", np.empty(0, np.int64))
        looks.append(
            Look(
                seq=seq,
                live=seq not in undone,
                image=image,
                human=columns.get("source", np.empty(0, "S1")) == HUMAN.encode(),
                looked_at=columns["looked_at"] if "looked_at" in columns else _unique(image),
                by_person=looked_by == HUMAN,
                partly=looked_by == PARTLY,
                withdrawn=looked_by == WITHDRAWN,
            )
        )
    return looks


def read_columns(
    database: Database,
    seq: int,
    names: set[str] | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """Read the columns of one event.

    Parameters
    ----------
    database : Database
    seq : int
        Number of the event.
    names : set of str, optional
        Which columns; all where not given.
    rows : (r,) int, optional
        Return only these rows, reading no chunk before or behind them; ``looked_at``, which has
        other rows, is then left out.
    """
    query = "SELECT name, dtype, tail, rows, data, first FROM label WHERE event = ?"
    values = [seq, *sorted(names or ())]
    if names is not None:
        query += f" AND name IN ({', '.join('?' * len(names))})"
    if rows is not None:
        query += " AND name != 'looked_at' AND first <= ? AND first + rows > ?"
        values += [int(rows.max()), int(rows.min())]
    columns = {}
    held = database.all(f"{query} ORDER BY name, first", values)
    for name, group in groupby(held, key=lambda row: row[0]):
        chunks = list(group)
        column = from_chunks([chunk[1:5] for chunk in chunks])
        columns[name] = column if rows is None else column[rows - chunks[0][5]]
    if "source" in columns:
        columns["source"] = columns["source"].astype(np.str_)
    return columns
