"""Small line charts as numbers that a template turns into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Size of a chart in its own units, and the margins left, right, above and below its lines.
WIDTH, HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 34

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Everything that a template draws, in units of the chart.

    Parameters
    ----------
    title : str
    xlabel : str
    lines : list of (str, str, list of (float, float))
        Name, path and dots of each line.
    xticks, yticks : list of (float, str)
        Place and words.
    goal : float or None
        Height of the dashed line.
    goal_words : str
    """

    title: str
    xlabel: str
    lines: list[tuple[str, str, list[tuple[float, float]]]]
    xticks: list[tuple[float, str]]
    yticks: list[tuple[float, str]]
    goal: float | None = None
    goal_words: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    frame: tuple[int, int, int, int] = field(
        default=(_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)
    )


def line_chart(
    title: str,
    lines: Sequence[tuple[str, Points]],
    *,
    xlabel: str,
    goal: float | None = None,
    goal_words: str = "",
    percent: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Chart | None:
    """Lay out lines over common axes; None where there is no point.

    Examples
    --------
    >>> chart = line_chart("bound", [("a", [(1, 0.5), (3, 0.1)])], xlabel="checks", low=0)
    >>> chart.lines[0][1]
    'M46.0,41.0 L468.0,157.0'
    >>> line_chart("bound", [("a", [])], xlabel="checks") is None
    True
    """
    every = [point for _, points in lines for point in points]
    if not every:
        return None
    xs = [x for x, _ in every]
    ys = [y for _, y in every] + ([] if goal is None else [goal])
    x0, x1 = min(xs), max(xs)
    y0 = min(ys) if low is None else low
    y1 = max(ys) if high is None else high
    yticks = _ticks(y0, y1)
    y0, y1 = min(y0, yticks[0]), max(y1, yticks[-1])

    def across(x: float) -> float:
        share = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def up(y: float) -> float:
        share = (min(max(y, y0), y1) - y0) / (y1 - y0) if y1 > y0 else 0.5
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    drawn = []
    for name, points in lines:
        placed = [(across(x), up(y)) for x, y in points]
        path = " ".join(f"{'L' if i else 'M'}{x},{y}" for i, (x, y) in enumerate(placed))
        drawn.append((name, path, placed if len(placed) <= 20 else placed[-1:]))
    whole = [tick for tick in _ticks(x0, x1) if x0 <= tick <= x1 and tick == int(tick)]
    return Chart(
        title=title,
        xlabel=xlabel,
        lines=[line for line in drawn if line[1]],
        xticks=[(across(tick), f"{int(tick):,}") for tick in whole],
        yticks=[(up(tick), _said(tick, percent)) for tick in yticks],
        goal=None if goal is None else up(goal),
        goal_words=goal_words,
    )


def _said(value: float, percent: bool) -> str:
    return f"{100 * value:g}%" if percent else f"{value:g}"


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that span a range."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]
