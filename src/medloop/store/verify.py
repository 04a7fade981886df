"""Check the history of a label log from the first event to the last."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from medloop.errors import DataError, TamperedError
from medloop.store.columns import ColumnDigest, rows_digest
from medloop.store.database import Database
from medloop.store.event import FIELDS, GENESIS, TRIGGERS, event_hash
from medloop.store.view import decided, read_looks, winners


def check_triggers(database: Database) -> None:
    """Refuse a file that no longer forbids changes."""
    for name, sql in TRIGGERS.items():
        if database.one("SELECT sql FROM sqlite_master WHERE name = ?", [name]) != (sql,):
            raise TamperedError(f"{database.path} lacks its trigger {name!r}.")


def check_chain(database: Database) -> int:
    """Follow the chain, recomputing every hash and digest; return the number of events."""
    last, prev = 0, GENESIS
    digests = _digests(database)
    query = f"SELECT {', '.join(FIELDS)} FROM event ORDER BY seq"  # noqa: S608
    for row in database.all(query):
        event = dict(zip(FIELDS, row, strict=True))
        last += 1
        _check_event(database, event, last, prev, digests.pop(event["seq"], []))
        prev = event["hash"]
    if digests:
        raise TamperedError(
            f"{database.path} has labels of event {next(iter(digests))}, which is not."
        )
    return last


def check_persons(database: Database) -> None:
    """Refuse a view in which a model's label stands where a person's decision does."""
    looks = read_looks(database)
    kept, _ = winners(looks)
    final = decided(looks)
    for look in looks:
        bad = kept[look.seq] & ~look.human & np.isin(look.image, final)
        if bad.any():
            image = int(look.image[np.argmax(bad)])
            raise TamperedError(
                f"image {image} has the model's label of event {look.seq} of {database.path} "
                "where a person decided."
            )


def _check_event(
    database: Database, event: dict[str, Any], seq: int, prev: str, columns: list[ColumnDigest]
) -> None:
    path = database.path
    name = f"event {event['seq']} of {path}"
    if event["seq"] != seq:
        raise TamperedError(f"event {seq} of {path} is missing; {event['seq']} follows.")
    if event["prev"] != prev:
        raise TamperedError(f"{name} does not follow the event before it.")
    try:
        digest = event_hash(event)
        table = "" if event["rows"] is None and not columns else rows_digest(columns)
    except (DataError, TypeError):  # bytes where text belongs
        digest, table = "", "unreadable"
    if event["hash"] != digest:
        raise TamperedError(f"{name} was changed: its fields do not give its hash.")
    lengths = {column.rows for column in columns if column.name != "looked_at"}
    if event["rows_digest"] != table or lengths - {event["rows"]}:
        raise TamperedError(f"the labels of {name} were changed: they do not give its digest.")


def _digests(database: Database) -> dict[int, list[ColumnDigest]]:
    found: dict[int, list[ColumnDigest]] = {}
    rows = database.stream(
        "SELECT event, name, first, dtype, tail, rows, data FROM label ORDER BY event, name, first"
    )
    for (seq, name), chunks in groupby(rows, key=lambda row: (row[0], row[1])):
        digest = ColumnDigest(name)
        try:
            for _, _, first, *chunk in chunks:
                if first != digest.rows:
                    raise ValueError(f"row {digest.rows} is missing")
                digest.add(*chunk)
        except (TypeError, ValueError):
            digest = ColumnDigest("unreadable")  # no event has the digest of such a column
        found.setdefault(seq, []).append(digest)
    return found
