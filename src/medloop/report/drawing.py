"""The look of a report's figures, and the way from a figure to SVG inside a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, DrawingArea, HPacker, TextArea
from matplotlib.patches import Rectangle

from medloop.report.words import shortened

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#222222"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
GREY, PALE = "#6b7280", "#e5e7eb"

#: Inches. The page scales figures to its columns; at about 340 px the text has 11 px.
_SIZE = (3.7, 2.75)

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,  # names of classes are data
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "xtick.color": "#9ca3af",
    "ytick.color": "#9ca3af",
    "xtick.labelcolor": "#374151",
    "ytick.labelcolor": "#374151",
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": BLACK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
}


@contextmanager
def drawing() -> Iterator[tuple[Figure, Axes]]:
    """Open an empty figure in the style of the report; close it by :func:`svg` within."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # browsers have glyphs that the font which measures the text does not have
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=_SIZE, layout="constrained")
        yield figure, figure.add_subplot()


def svg(figure: Figure, name: str, alt: str) -> str:
    """Write a figure as an <svg> element that refers to nothing outside.

    Parameters
    ----------
    figure : Figure
    name : str
        Tells the figures of a page apart: two with one name would share ids.
    alt : str
        What it shows, for those who cannot see it.
    """
    drawn = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata=nothing)
    head, _, body = drawn.getvalue().partition("<svg")[2].partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    frame = "" if box is None else box[0]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    # its one rule would hold for the whole page
    body = re.sub(r"<defs>\s*<style.*?</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # the same in every figure
    body = re.sub(r"\s*\n\s*", "\n", body.replace("xlink:href=", "href="))
    said = escape(shortened(alt, 600))
    return f'<svg {frame} role="img" aria-label="{said}" stroke-linejoin="round">{body.strip()}'


def key(axes: Axes, entries: list[tuple[str, str, str]]) -> None:
    """Explain bars, ``(words, colour, hatch)`` each, in one line above them."""
    parts: list[Any] = []
    for words, colour, hatch in entries:
        area = DrawingArea(10, 8)
        area.add_artist(
            Rectangle((0, 0), 10, 8, facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0)
        )
        parts.append(HPacker(children=[area, TextArea(words)], pad=0, sep=4, align="center"))
    row = HPacker(children=parts, pad=0, sep=12, align="center")
    axes.add_artist(
        AnchoredOffsetbox(
            "upper left",
            child=row,
            frameon=False,
            pad=0,
            borderpad=0,
            bbox_to_anchor=(0.01, 1.0),
            bbox_transform=axes.transAxes,
        )
    )
