"""An event of the label log, and the tables that hold events and their labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medloop.errors import DataError

#: What the first event names as the hash of the one before it.
GENESIS = "0" * 64

TABLES = (
    """CREATE TABLE IF NOT EXISTS event(
        seq INTEGER PRIMARY KEY, op TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, base INTEGER,
        at TEXT NOT NULL, actor TEXT NOT NULL, round INTEGER NOT NULL, looked_by TEXT NOT NULL,
        payload TEXT NOT NULL, rows INTEGER, rows_digest TEXT NOT NULL,
        prev TEXT NOT NULL, hash TEXT NOT NULL)""",
    # a chunk of a column, not a finding, is a row: a million findings take a second, not ten,
    # and whoever needs only the classes does not read the probabilities
    """CREATE TABLE IF NOT EXISTS label(
        event INTEGER NOT NULL REFERENCES event(seq), name TEXT NOT NULL, first INTEGER NOT NULL,
        dtype TEXT NOT NULL, tail TEXT NOT NULL, rows INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY(event, name, first))""",
)
TRIGGERS = {
    f"{table}_{verb.lower()}": f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table}s are appended, never changed'); END"
    for table in ("event", "label")
    for verb in ("UPDATE", "DELETE")
}
FIELDS = (
    "seq",
    "op",
    "kind",
    "base",
    "at",
    "actor",
    "round",
    "looked_by",
    "payload",
    "rows",
    "rows_digest",
    "prev",
    "hash",
)


@dataclass(frozen=True)
class Event:
    """One write operation.

    Parameters
    ----------
    seq : int
        Its number, from 1 without gaps.
    op : str
        Its name, given by the caller; no two events share one.
    kind : str
        What was done, such as ``"round"``, ``"review"`` or ``"rollback"``.
    base : int or None
        Number of the last event that the caller had seen.
    at : str
        When, in UTC. The order of events is that of ``seq``, since clocks lie.
    actor : str
        Who.
    round : int
        Round of the loop.
    looked_by : str
        Who examined the images that carry no rows: ``"model"``, ``"human"``, or a person
        ``"partly"``; ``"withdrawn"`` takes back what persons decided of them.
    payload : dict
        Everything else that is worth keeping.
    rows : int or None
        Number of label rows; None where the event carries no table.
    rows_digest : str
        Hash of the table; empty where there is none.
    prev, hash : str
        Hash of the event before, and of this one.
    """

    seq: int
    op: str
    kind: str
    base: int | None
    at: str
    actor: str
    round: int
    looked_by: str
    payload: dict[str, Any]
    rows: int | None
    rows_digest: str
    prev: str
    hash: str


def from_row(row: Sequence[Any]) -> Event:
    """Make an event of a row of the table."""
    fields = dict(zip(FIELDS, row, strict=True))
    return Event(**{**fields, "payload": json.loads(fields["payload"])})


def canonical(obj: Any, name: str) -> str:
    """Write JSON in the one way that is hashed.

    Raises
    ------
    DataError
        ``obj`` holds NaN, infinity or something that JSON has no word for.
    """
    try:
        return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be what JSON can say: {error}.") from None


def event_hash(fields: dict[str, Any]) -> str:
    """Hash the stored fields of an event, ``prev`` first."""
    text = canonical({k: v for k, v in fields.items() if k not in ("prev", "hash")}, "event")
    return hashlib.sha256((fields["prev"] + text).encode()).hexdigest()
