"""How long work reports how far it has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

#: Told one sentence that a person should know.
Note = Callable[[str], None]


class Progress(Protocol):
    """Called with the stage's name and how many of how many items are done."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report; may raise KeyboardInterrupt to stop the work."""
        ...


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
