"""What is told to an experiment log, whoever keeps it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self


class Tracker(ABC):
    """Keeps what runs were made with and what came of them; use it in a ``with`` statement."""

    @abstractmethod
    def start(self, run: str, settings: Mapping[str, Any]) -> None:
        """Begin a run of this name, made with these settings (plain values)."""

    @abstractmethod
    def figures(self, run: str, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Log numbers of a run; ``step`` counts along a curve."""

    @abstractmethod
    def artifact(self, run: str, kind: str, name: str, about: Mapping[str, Any]) -> None:
        """Log what a run used or made: a "dataset", a "model" or a "result", by name and hash."""

    @abstractmethod
    def end(self, run: str) -> None:
        """End a run; nothing more is told of it."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not yet written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Many(Tracker):
    """Tells several trackers the same."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = list(trackers)

    def start(self, run: str, settings: Mapping[str, Any]) -> None:
        """Begin a run in each."""
        for one in self.trackers:
            one.start(run, settings)

    def figures(self, run: str, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Log numbers in each."""
        for one in self.trackers:
            one.figures(run, values, step=step)

    def artifact(self, run: str, kind: str, name: str, about: Mapping[str, Any]) -> None:
        """Log an artifact in each."""
        for one in self.trackers:
            one.artifact(run, kind, name, about)

    def end(self, run: str) -> None:
        """End a run in each."""
        for one in self.trackers:
            one.end(run)

    def close(self) -> None:
        """Close each."""
        for one in self.trackers:
            one.close()


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Lay nested settings out as ``a.b``.

    Examples
    --------
    >>> flat({"a": {"b": 1, "c": [1, 2]}})
    {'a.b': 1, 'a.c': [1, 2]}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
