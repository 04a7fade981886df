"""The append-only label log: every label that was ever given, and who gave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError, StaleError, TamperedError, did_you_mean
from medloop.labels import HUMAN, MODEL, PARTLY, Labels
from medloop.store.columns import Column, rows_digest, to_columns
from medloop.store.database import VERSION, Database
from medloop.store.event import (
    FIELDS,
    GENESIS,
    TABLES,
    TRIGGERS,
    Event,
    canonical,
    event_hash,
    from_row,
)
from medloop.store.files import read_json, write_json
from medloop.store.verify import check_chain, check_persons, check_triggers
from medloop.store.view import WITHDRAWN, read_columns, read_looks, read_undone, winners

PLAIN = ("image", "class_id", "score", "source", "round")
EXTRA = ("probs", "box", "keypoints", "mask")


class LabelLog:
    """Label events in one SQLite file, appended and never changed.

    Each event carries the hash of the one before, so that a changed payload, row, order or
    missing event shows. A missing end shows by ``head.json`` beside the file, which holds the
    hash of the last event. Who can write both files and knows this code can forge both: keep the
    head elsewhere where that matters. Threads may share a log. The standard library's sqlite3 is
    used as it is, since two tables and ten statements are no work for an object-relational mapper.

    Parameters
    ----------
    path : path
        The file; made where it is missing.
    read_only : bool
        Write nothing; the file must exist.

    Raises
    ------
    TamperedError
        The file is damaged, or the last known event is missing or another one.
    WorkspaceError
        The file cannot be opened or written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, LabelLog(f"{folder}/labels.db") as log:
    ...     person = Labels(image=[7], class_id=[1], source=["human"])
    ...     model = Labels(image=[7, 8], class_id=[0, 0], score=[0.9, 0.8])
    ...     log.append("seed", "seed", labels=person, actor="reader")
    ...     log.append("round-1", "round", labels=model, round=1)
    ...     current = log.current()
    ...     log.verify()
    1
    2
    2
    >>> current.image.tolist(), current.class_id.tolist(), current.source.tolist()
    ([7, 8], [1, 0], ['human', 'model'])
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self.head_path = self.path.with_name("head.json")
        #: Called by ``verify`` with this log; other tables of the file add theirs.
        self.checks: list[Callable[[LabelLog], None]] = []
        # first: a writer that is faster than this reader only makes the chain longer
        known = self._known_head()
        if known[0] and not (self.path.exists() and self.path.stat().st_size):
            raise TamperedError(f"{self.path} is missing; {self.head_path} knows event {known[0]}.")
        self.database = Database(self.path, read_only=read_only)
        try:
            if not read_only and not known[0] and not self.database.one("PRAGMA user_version")[0]:
                self._create()
            self._check_head(known)
            if not read_only and self.head[0] > known[0]:
                self._write_head()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    # -- writing ---------------------------------------------------------------------------

    def append(
        self,
        op: str,
        kind: str,
        *,
        labels: Labels | None = None,
        payload: dict[str, Any] | None = None,
        actor: str = "medloop",
        round: int = 0,
        base: int | None = None,
        looked_by: str = MODEL,
    ) -> int:
        """Append one event and return its number.

        Repeated with the same content it changes nothing and returns the number that it had.

        Parameters
        ----------
        op : str
            Name of this write, the same whenever it is tried again.
        kind : str
            What was done; ``"rollback"`` is left to :meth:`rollback`.
        labels : Labels, optional
            Any number of rows. Where an event has rows of a person and rows of a model for one
            image, the person's count.
        payload : dict, optional
            Anything that JSON can say.
        actor : str
            Who.
        round : int
            Round of the loop; what :meth:`rollback` goes by.
        base : int, optional
            Number of the last event that the caller knows; the write is refused where others
            came in between.
        looked_by : {"model", "human", "partly", "withdrawn"}
            Who examined those images of ``labels.looked_at`` that carry no rows. A person's
            "nothing here" is final for a model, so it has to be said. ``"partly"`` says that the
            rows are a person's and may not be all: they stand until a person decides the image,
            and models may add to them. ``"withdrawn"`` takes back what persons decided so far of
            ``labels.looked_at``, which then counts as if no person had decided it; such an event
            has no rows.

        Raises
        ------
        StaleError
            ``base`` is not the last event, or ``op`` was used with another content.
        DataError
            ``payload`` or ``labels`` cannot be stored.
        WorkspaceError
            The file cannot be written; nothing of the event was.
        """
        if kind == "rollback":
            raise DataError("kind must not be 'rollback'; use LabelLog.rollback.")
        return self._append(op, kind, labels, payload or {}, actor, round, base, looked_by)

    def rollback(self, to_round: int, *, op: str) -> int:
        """Undo the models' labels of all events so far whose round is above ``to_round``.

        What persons said stays. Nothing is deleted: a ``rollback`` event is appended and the view
        leaves the undone out. Rounds can then run again under new operation names, for which
        :attr:`epoch` is there: ``op=f"round-{r}/{log.epoch}"``.
        """
        payload = {"to_round": int(to_round)}
        return self._append(op, "rollback", None, payload, "medloop", to_round, None, MODEL)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Append several events, and write to other tables of the file, all or nothing."""
        with self.database.guard:
            with self.database.transaction():
                yield
            # after the commit, and again where an earlier try came no further than the commit
            if not self.database.inside:
                self._write_head()

    def _append(
        self,
        op: str,
        kind: str,
        labels: Labels | None,
        payload: dict[str, Any],
        actor: str,
        round: int,
        base: int | None,
        looked_by: str,
    ) -> int:
        known = (MODEL, HUMAN, PARTLY, WITHDRAWN)
        if looked_by not in known:
            names = ", ".join(map(repr, known))
            raise DataError(f"looked_by must be one of {names}, got {looked_by!r}.")
        if looked_by == PARTLY and labels is not None and (labels.source != HUMAN).any():
            raise DataError(f"rows of an event that was looked at {PARTLY!r} must be a person's.")
        if looked_by == WITHDRAWN and (labels is None or len(labels)):
            raise DataError(f"an event that is {WITHDRAWN!r} must name images and hold no rows.")
        columns = [] if labels is None else to_columns(labels)
        content = {
            "kind": kind,
            "actor": actor,
            "round": int(round),
            "looked_by": looked_by,
            "payload": canonical(payload, "payload"),
            "rows": None if labels is None else len(labels),
            "rows_digest": "" if labels is None else rows_digest(c.digest() for c in columns),
        }
        with self.transaction():
            return self._repeated(op, content) or self._insert(op, content, columns, base)

    def _repeated(self, op: str, content: dict[str, Any]) -> int:
        names = ", ".join(content)
        row = self.database.one(f"SELECT seq, {names} FROM event WHERE op = ?", [op])  # noqa: S608
        if not row:
            return 0
        for name, was in zip(content, row[1:], strict=True):
            if was != content[name]:
                raise StaleError(
                    f"operation {op!r} was event {row[0]} with {name} {_short(was)}; "
                    f"it came again with {name} {_short(content[name])}."
                )
        return int(row[0])

    def _insert(
        self, op: str, content: dict[str, Any], columns: list[Column], base: int | None
    ) -> int:
        last, prev = self.head
        if base is not None and base != last:
            raise StaleError(f"operation {op!r} was based on event {base}; the last is {last}.")
        row = {"seq": last + 1, "op": op, "base": base, "at": _now(), **content, "prev": prev}
        row["hash"] = event_hash(row)
        marks = ", ".join("?" * len(row))
        self.database.run(
            f"INSERT INTO event({', '.join(row)}) VALUES({marks})",
            row.values(),
        )
        self.database.run_many(
            "INSERT INTO label(event, name, first, dtype, tail, rows, data) "
            "VALUES(?, ?, ?, ?, ?, ?, ?)",
            (
                (last + 1, column.name, first, column.dtype, column.tail, rows, data)
                for column in columns
                for first, rows, data in column.chunks()
            ),
        )
        return last + 1

    # -- reading ---------------------------------------------------------------------------

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last event; 0 and zeros where there is none."""
        row = self.database.one("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1")
        return (int(row[0]), str(row[1])) if row else (0, GENESIS)

    @property
    def epoch(self) -> int:
        """How many rollbacks there were, for the names of operations that run again after one."""
        query = "SELECT count(*) FROM event WHERE kind = 'rollback'"
        return int(self.database.one(query)[0])

    def events(self, kind: str | None = None, *, live: bool = False) -> list[Event]:
        """List the events in order, all or those of one kind.

        With ``live``, those of rounds that a later rollback undid are left out (what persons said
        in them counts all the same, see :meth:`current`).
        """
        with self.database.snapshot():
            undone = read_undone(self.database) if live else set()
            query = f"SELECT {', '.join(FIELDS)} FROM event WHERE kind = coalesce(?, kind)"  # noqa: S608
            rows = self.database.all(f"{query} ORDER BY seq", [kind])
        return [from_row(row) for row in rows if row[0] not in undone]

    def labels(self, seq: int) -> Labels:
        """Return the table that one event carries; an empty one where it carries none."""
        if not self.database.one("SELECT 1 FROM event WHERE seq = ?", [seq]):
            raise DataError(f"no event {seq} in {self.path}; the last is {self.head[0]}.")
        return _table(read_columns(self.database, seq))

    def current(self, *, source: str | None = None, columns: Sequence[str] | None = None) -> Labels:
        """Return the current label of each image, in the order of the images' ids.

        A person wins over a model whatever the order: one row (or one "nothing here") of a person
        makes all model rows of that image vanish. Among persons the latest event that decided the
        image wins; among models, the latest event that looked at it and was not rolled back.
        Rows of events that a person looked at ``"partly"`` stand beside a model's, until a person
        decides the image. Decisions that were ``"withdrawn"`` do not count.
        As in ``Labels.concat``, a column that some of the rows lack is dropped from all.

        Parameters
        ----------
        source : {"human", "model"}, optional
            Return only the rows of this source; model rows then keep their ``probs`` whether or
            not persons gave any.
        columns : sequence of str, optional
            Which of ``probs``, ``box``, ``keypoints`` and ``mask`` to read; all where not given.

        Raises
        ------
        DataError
            An unknown source or column.
        """
        for known, names_given in (((HUMAN, MODEL), [source] if source else []), (EXTRA, columns)):
            for name in names_given or ():
                if name not in known:
                    raise DataError(f"current() knows no {name!r}.{did_you_mean(name, known)}")
        with self.database.snapshot():
            looks = read_looks(self.database)
            kept, seen = winners(looks)
            if source is not None:
                for look in looks:
                    kept[look.seq] = kept[look.seq] & (look.human == (source == HUMAN))
            names = None if columns is None else {*PLAIN, *columns}
            parts = []
            for seq, keep in kept.items():
                if keep.any():
                    held = read_columns(self.database, seq, names)
                    held.pop("looked_at", None)
                    parts.append({name: values[keep] for name, values in held.items()})
        if not parts:
            return _table({"looked_at": seen})
        shared = [
            name
            for name in parts[0]
            if all(name in part for part in parts)
            and len({part[name].shape[1:] for part in parts}) == 1
        ]
        table = {name: np.concatenate([part[name] for part in parts]) for name in shared}
        order = np.argsort(table["image"], kind="stable")
        return Labels(**{name: v[order] for name, v in table.items()}, looked_at=seen)

    def history(self, image: int) -> list[tuple[Event, Labels]]:
        """List the events that looked at an image, with its rows in each; rolled back or not."""
        found = []
        with self.database.snapshot():
            events = {event.seq: event for event in self.events()}
            for look in read_looks(self.database):
                if image in look.looked_at:
                    rows = np.flatnonzero(look.image == image)
                    columns = read_columns(self.database, look.seq, rows=rows) if len(rows) else {}
                    columns["looked_at"] = np.array([image])
                    found.append((events[look.seq], _table(columns)))
        return found

    # -- checking --------------------------------------------------------------------------

    def verify(self) -> int:
        """Check the whole history again and return the number of events.

        Recomputes the hash of every row and event, follows the chain from the first to the last
        event and on to ``head.json``, and checks that the file still forbids changes and that no
        model's label stands where a person decided.

        Raises
        ------
        TamperedError
            Names the first event that does not verify.
        """
        known = self._known_head()
        with self.database.snapshot():
            check_triggers(self.database)
            count = check_chain(self.database)
            self._check_head(known)
            check_persons(self.database)
            for check in self.checks:
                check(self)
        return count

    # -- the file --------------------------------------------------------------------------

    def _create(self) -> None:
        with self.database.transaction():
            for sql in TABLES:
                self.database.run(sql)
            for name, sql in TRIGGERS.items():
                self.database.run(f"DROP TRIGGER IF EXISTS {name}")
                self.database.run(sql)
            self.database.run(f"PRAGMA user_version={VERSION}")
        self._write_head()

    def _known_head(self) -> tuple[int, str]:
        if not self.head_path.exists():
            return 0, GENESIS
        try:
            noted = read_json(self.head_path)
            return int(noted["seq"]), str(noted["hash"])
        except (KeyError, TypeError, ValueError):
            raise TamperedError(f"{self.head_path} must hold seq and hash.") from None

    def _check_head(self, known: tuple[int, str]) -> None:
        seq, digest = known
        if not self.head_path.exists() and self.head[0]:
            raise TamperedError(
                f"{self.head_path} is missing; {self.path} has {self.head[0]} events."
            )
        if not seq:
            return
        row = self.database.one("SELECT hash FROM event WHERE seq = ?", [seq])
        if not row:
            raise TamperedError(
                f"{self.path} ends at event {self.head[0]}; {self.head_path.name} knows {seq}."
            )
        if row[0] != digest:
            raise TamperedError(
                f"event {seq} of {self.path} is not the one that {self.head_path.name} knows."
            )

    def _write_head(self) -> None:
        # within a transaction, so that two processes cannot write their heads in the wrong order
        with self.database.transaction():
            seq, digest = self.head
            if not self.head_path.exists() or self._known_head()[0] < seq:
                write_json(self.head_path, {"seq": seq, "hash": digest})


def _table(columns: dict[str, NDArray[Any]]) -> Labels:
    none = np.empty(0, np.int64)
    return Labels(**{"image": none, "class_id": none, **columns})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
