"""Progress and notes on stderr; results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medloop.progress import Progress


def note(sentence: str) -> None:
    """Tell a person one sentence, out of the way of the results."""
    print(sentence, file=sys.stderr, flush=True)


def result(text: str, values: Any, *, as_json: bool) -> None:
    """Print a result: words for a person, or one JSON document for a machine."""
    print(json.dumps(values, indent=1, sort_keys=True) if as_json else text, flush=True)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Draw a bar a stage with rate and time left; one plain line a stage where nobody watches."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second."""

        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    bars = Bars(
        TextColumn("{task.description:>18}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=False,
    )
    tasks: dict[str, Any] = {}

    def draw(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    with bars:
        yield draw


class _Lines:
    """One line when a stage ends, with its rate: for logs."""

    def __init__(self) -> None:
        self.began: dict[str, tuple[float, int]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, first = self.began.setdefault(stage, (now, done))
        if done == total and total:
            seconds = now - start
            rate = f", {(done - first) / seconds:,.0f}/s" if seconds > 0.05 and done > first else ""
            note(f"{stage}: {done:,} of {total:,}{rate}")
            self.began.pop(stage)
