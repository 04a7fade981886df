"""Batches on the cores of this machine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from medloop.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_batches(
    function: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    *,
    batch: int,
    workers: int | None = None,
) -> Iterator[Result]:
    """Apply a function to consecutive batches, in order, a few batches ahead of the reader.

    Threads, not processes: decoding and matrix products release the lock. The results do not
    depend on the number of workers, and no more than ``2 * workers`` of them wait in memory.

    Parameters
    ----------
    function : callable
        Takes a batch of items, returns anything; its error reaches the reader.
    items : sequence
    batch : int
        Items a call.
    workers : int, optional
        Threads; one for each core where not given.

    Raises
    ------
    UsageError
        ``batch`` or ``workers`` is below 1.

    Examples
    --------
    >>> list(map_batches(sum, [1, 2, 3, 4, 5], batch=2))
    [3, 7, 5]
    """
    workers = cores() if workers is None else workers
    if batch < 1 or workers < 1:
        raise UsageError(f"batch and workers must be at least 1, got {batch} and {workers}.")
    return _in_order(function, items, batch, workers)


def _in_order(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item], batch: int, workers: int
) -> Iterator[Result]:
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for start in range(0, len(items), batch):
            waiting.append(pool.submit(function, items[start : start + batch]))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
