"""An iterator that a thread runs a few items ahead of whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[], Iterator[T]], most: int) -> Generator[T, None, None]:
    """Yield the items of an iterator, in order, made in a thread while the last one is used.

    What the thread does outside the interpreter (decoding) costs no time then, where there is a
    second core. Whoever closes the generator, or drops it, stops the thread, which closes its
    iterator.

    Parameters
    ----------
    make : callable
        Makes the iterator, in the thread.
    most : int
        So many items wait at most, beside the one that is made and the one that is used.

    Raises
    ------
    BaseException
        Whatever the iterator raises, when its turn comes.

    Examples
    --------
    >>> list(ahead(lambda: iter("abc"), 2))
    ['a', 'b', 'c']
    """
    room: SimpleQueue[None] = SimpleQueue()
    made: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        end: BaseException | None = None
        try:
            items = make()
            try:
                while True:
                    room.get()
                    if stop.is_set():
                        break
                    made.put((next(items),))
            except StopIteration:
                pass
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
        except BaseException as error:
            end = error
        made.put(end)

    for _ in range(most):
        room.put(None)
    # a generator that nobody closes must not keep the interpreter from ending
    thread = threading.Thread(target=work, name="medloop-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = made.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            room.put(None)
            yield item[0]
    finally:
        stop.set()
        room.put(None)
        thread.join()
