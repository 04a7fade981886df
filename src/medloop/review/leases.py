"""Who has which image on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable


class Leases:
    """Images handed out and not answered yet, each to one person for a while.

    Kept in memory alone: what a stopped server had handed out is handed out again.

    Parameters
    ----------
    seconds : float
        After which an image may go to somebody else.
    clock : callable
        Seconds that only rise.

    Examples
    --------
    >>> leases = Leases(60)
    >>> leases.take("a1", "ann")
    >>> leases.holder("a1"), leases.of("ann"), leases.of("bob")
    ('ann', ['a1'], [])
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    def take(self, key: str, who: str) -> None:
        """Hand out an image, or hand it out for longer."""
        self._held[key] = (who, self.clock() + self.seconds)

    def holder(self, key: str) -> str | None:
        """Return who has it; None where nobody has or the time is over."""
        who, until = self._held.get(key, (None, 0.0))
        return who if who is not None and self.clock() < until else None

    def of(self, who: str) -> list[str]:
        """List what a person has, in the order it was handed out."""
        now = self.clock()
        return [key for key, (name, until) in self._held.items() if name == who and now < until]

    def drop(self, key: str) -> None:
        """Take an image back."""
        self._held.pop(key, None)

    def held(self) -> set[str]:
        """Return everything that somebody has; what has run out is forgotten."""
        now = self.clock()
        self._held = {key: held for key, held in self._held.items() if now < held[1]}
        return set(self._held)
