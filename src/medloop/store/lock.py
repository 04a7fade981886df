"""One writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from medloop.errors import LockedError
from medloop.store.files import told


@contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Hold ``FOLDER/lock`` for as long as the block runs; readers need no lock.

    The operating system lets go of the lock when the process ends in whatever way, so that a
    killed run leaves nothing to clean up; the file itself stays, since removing it would let two
    processes lock two files of the same name.

    Raises
    ------
    LockedError
        Another process holds the lock (or this one does already); the message names it.
    WorkspaceError
        The lock cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, exclusive(folder):
    ...     with exclusive(folder):
    ...         pass
    Traceback (most recent call last):
    medloop.errors.LockedError: ... is in use by process ..., started ...
    """
    path = Path(folder) / "lock"
    with told(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1000, 0)
            raise LockedError(f"{folder} is in use by {_name(holder)}.") from None
        note = {"pid": os.getpid(), "started": datetime.now(UTC).isoformat(timespec="seconds")}
        with told(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _name(holder: bytes) -> str:
    try:
        note = json.loads(holder)
        return f"process {note['pid']}, started {note['started']}"
    except (ValueError, TypeError, KeyError):  # caught between taking the lock and signing it
        return "another process"
