"""One SQLite file: transactions, snapshots, and its errors in plain words."""

from __future__ import annotations

import errno
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medloop.errors import LockedError, TamperedError, WorkspaceError
from medloop.store.files import cannot_write

#: Seconds that a write waits for another process to finish its own.
PATIENCE = 60.0
VERSION = 1

Rows = list[tuple[Any, ...]]


class Database:
    """A connection that threads may share.

    The journal mode is DELETE with ``synchronous=FULL``: SQLite before 3.51.3 can lose commits in
    WAL mode, WAL does not work on the network folders of a cluster, and a run writes so rarely
    that it gains nothing from it.

    Parameters
    ----------
    path : Path
    read_only : bool
        Refuse to write; the file must exist.

    Raises
    ------
    WorkspaceError
        The file is missing, cannot be opened, or was written by a newer medloop.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.guard = threading.RLock()
        self._depth = 0
        if read_only and not path.exists():
            raise WorkspaceError(f"{path} is missing.")
        with self._told():
            # a reader too must be able to undo what a killed writer left half done
            uri = f"{path.absolute().as_uri()}?mode={'rw' if read_only else 'rwc'}"
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
        self._close = weakref.finalize(self, self._connection.close)
        version = self.one("PRAGMA user_version")[0]
        if version > VERSION:
            raise WorkspaceError(
                f"{path} has format {version} of a newer medloop; this one knows {VERSION}."
            )
        if read_only:
            self.run("PRAGMA query_only=ON")
        else:
            self.run("PRAGMA journal_mode=DELETE")
            self.run("PRAGMA synchronous=FULL")

    @property
    def inside(self) -> bool:
        """Whether a transaction or a snapshot is open; asked while holding ``guard``."""
        return self._depth > 0

    def close(self) -> None:
        """Close the file; nothing is pending outside a transaction."""
        with self.guard:
            self._close()

    def run(self, sql: str, values: Iterable[Any] = ()) -> None:
        """Execute one statement."""
        with self.guard, self._told():
            self._connection.execute(sql, tuple(values)).close()

    def run_many(self, sql: str, rows: Iterable[Iterable[Any]]) -> int:
        """Execute one statement for each row, streaming; return how many rows it changed."""
        with self.guard, self._told():
            before = self._connection.total_changes
            self._connection.executemany(sql, (tuple(row) for row in rows)).close()
            return self._connection.total_changes - before

    def all(self, sql: str, values: Iterable[Any] = ()) -> Rows:
        """Return all rows of a query."""
        with self.guard, self._told():
            return self._connection.execute(sql, tuple(values)).fetchall()

    def one(self, sql: str, values: Iterable[Any] = ()) -> tuple[Any, ...]:
        """Return the only row of a query; empty where there is none."""
        with self.guard, self._told():
            row: tuple[Any, ...] | None = self._connection.execute(sql, tuple(values)).fetchone()
        return row or ()

    def stream(self, sql: str, values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query without holding all of them; inside ``snapshot``."""
        with self._told():
            yield from self._connection.execute(sql, tuple(values))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See one state of the file throughout the block, whatever other processes write."""
        with self.guard:
            if self._depth:
                yield
            else:
                with self._inside("BEGIN"):
                    yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything in the block or nothing of it; blocks nest into the outermost."""
        if self.read_only:
            raise WorkspaceError(f"{self.path} was opened for reading only.")
        with self.guard:
            if self._depth:
                yield
            else:
                with self._inside("BEGIN IMMEDIATE"):
                    yield

    @contextmanager
    def _inside(self, begin: str) -> Iterator[None]:
        self.run(begin)
        self._depth += 1
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            # a full disk makes SQLite roll back by itself
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._word(error) from error

    def _word(self, error: sqlite3.DatabaseError) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LockedError(f"{self.path} is being written by another process: {error}.")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return TamperedError(f"{self.path} is damaged: {error}.")
        numbers = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_PERM: errno.EACCES}
        known = cannot_write(self.path, numbers.get(code, 0))
        return known or WorkspaceError(f"{self.path} cannot be used: {error}.")
