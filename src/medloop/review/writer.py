"""Many small writes, one flush to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class _Waiting:
    job: Callable[[], Any]
    done: bool = False
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs the writes of several threads one after the other, together in one transaction.

    A write returns when its transaction is on the disk. Whoever comes first does the work of all
    that wait by then, so that 50 people cost few more flushes than one. A job that raises before it
    wrote anything fails alone. One that raises later, or a transaction that cannot be ended, fails
    with all that were to be written together, and ``failed`` is called to read the state again.

    Parameters
    ----------
    transaction : callable
        Opens the transaction.
    guard : context manager
        Held while jobs run and until they are on the disk, so that nobody reads what may not last.
    written : callable
        Returns another value once something was written.
    failed : callable
        Called where a transaction failed.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[None]],
        guard: AbstractContextManager[Any],
        *,
        written: Callable[[], Any],
        failed: Callable[[], None],
    ) -> None:
        self._transaction, self._guard = transaction, guard
        self._written, self._failed = written, failed
        self._turn, self._door = threading.Lock(), threading.Lock()
        self._waiting: list[_Waiting] = []

    def run(self, job: Callable[[], Any]) -> Any:
        """Run a job in a transaction and return its result, or raise its error."""
        mine = _Waiting(job)
        with self._door:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                with self._door:
                    batch, self._waiting = self._waiting, []
                self._run(batch)
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _run(self, batch: list[_Waiting]) -> None:
        with self._guard:
            try:
                with self._transaction():
                    for one in batch:
                        before = self._written()
                        try:
                            one.result = one.job()
                        except Exception as error:
                            if self._written() != before:
                                raise
                            one.error = error
            except BaseException as error:
                for one in batch:
                    one.error = one.error or error
                self._failed()
                if not isinstance(error, Exception):
                    raise
            finally:
                for one in batch:
                    one.done = True
