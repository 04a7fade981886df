"""Find the content area of an endoscopic frame: a circle, a rectangle, or all of it.

Strips of a frame are walked from outside until something brighter than the border begins; the
ends of all strips vote for a circle (RANSAC) and for four straight sides. Whichever explains
better what is dark and what is not is then fitted along its own edge, and kept only where that
edge is really there and the border is even. After Budd et al. 2023, who find the edges of the
strips by a network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError
from medloop.prepare.border import Border
from medloop.prepare.edges import fitted
from medloop.prepare.shapes import Array, Box, Ellipse, Level, brightest, level_of
from medloop.prepare.votes import boxes, circles, ends_of

#: Share of a coarse look at the frame that a box may leave unexplained.
ALIKE = 0.004
#: How far the shades of a border may spread, in units of the step from border to content.
EVEN = 0.5


def find_border(pixels: Array) -> Border:
    """Find the content area of a frame.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) array
        As stored. Letters in the black area are ignored.

    Returns
    -------
    Border
        Of kind "none" where no border can be shown: the frame is too small (below 16 pixels),
        has no dark corner, or what is dark has no straight or round edge.

    Raises
    ------
    DataError
        The shape is another.

    Examples
    --------
    >>> y, x = np.mgrid[:200, :300] + 0.5
    >>> frame = np.where((x - 140) ** 2 + (y - 90) ** 2 < 80 ** 2, 180, 3).astype(np.uint8)
    >>> border = find_border(frame)
    >>> border.kind, border.x0, border.y0, border.x1, border.y1, round(border.r)
    ('circle', 60, 10, 220, 170, 80)
    >>> find_border(np.full((200, 300), 180, np.uint8)).kind
    'none'
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise DataError(f"pixels must have shape (h, w) or (h, w, 3), got {pixels.shape}.")
    height, width = pixels.shape[:2]
    nothing = Border.whole(pixels.shape)
    if min(height, width) < 16:
        return nothing
    frame = _eight_bits(pixels)
    level = level_of(frame)
    if level is None:
        return nothing
    ends = ends_of(frame, level)
    grid = Grid(frame, level)
    shapes: list[Ellipse | Box] = [*boxes(ends, frame)]
    # a box that explains nearly everything need not be compared with circles
    if not shapes or grid.disagreement(shapes[0]) > ALIKE:
        shapes += circles(ends, frame)
    for shape in sorted(shapes, key=grid.disagreement):
        found = fitted(frame, shape, level)
        if found is None or not grid.believes(found):
            continue
        border = _border(found, height, width)
        if border is not None:
            return border
    return nothing


def _border(shape: Ellipse | Box, height: int, width: int) -> Border | None:
    """Round a shape to pixels; None where nothing of it lies in the frame."""
    try:
        if isinstance(shape, Ellipse):
            return Border.circle((height, width), *shape[:3], shape.ry / shape.rx)
        x0, y0, x1, y1 = (round(at) for at in shape)
        return Border("rectangle", max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    except DataError:
        return None


def _eight_bits(pixels: Array) -> Array:
    if pixels.dtype == np.uint8:
        return pixels
    from medloop.prepare.window import to_unit

    return np.asarray(to_unit(pixels) * np.float32(255), np.float32)


class Grid:
    """A coarse look at the whole frame, which says how well a shape explains it."""

    def __init__(self, frame: Array, level: Level) -> None:
        h, w = frame.shape[:2]
        self.step = max(1, max(h, w) // 80)
        part = frame[self.step // 2 :: self.step, self.step // 2 :: self.step]
        self.level = level
        self.values = brightest(part)
        self.bright = self.values > level.black + max(10.0, 3 * level.noise)
        self.x = np.arange(self.step // 2, w, self.step)[None, :] + 0.5
        self.y = np.arange(self.step // 2, h, self.step)[:, None] + 0.5

    def inside(self, shape: Ellipse | Box, margin: float = 0) -> NDArray[np.bool_]:
        """Return which of its pixels lie in a shape that is so many pixels wider."""
        if isinstance(shape, Box):
            x0, y0, x1, y1 = shape
            across = (self.x > x0 - margin) & (self.x < x1 + margin)
            return across & (self.y > y0 - margin) & (self.y < y1 + margin)
        cx, cy, rx, ry = shape
        away = ((self.x - cx) / (rx + margin)) ** 2 + ((self.y - cy) / (ry + margin)) ** 2
        return np.asarray(away < 1)

    def disagreement(self, shape: Ellipse | Box) -> float:
        """Return the share of the frame that is bright outside or dark inside."""
        return float(np.mean(self.inside(shape) != self.bright))

    def believes(self, shape: Ellipse | Box) -> bool:
        """Whether what lies outside matters and, but for letters, is even for so bright a rim."""
        inside = self.inside(shape)
        if 1 - inside.mean() < 0.004:
            return False
        margin = max(2.0, 0.02 * len(self.values) * self.step)
        far = ~self.inside(shape, margin)
        outside = self.values[far if far.any() else ~inside]
        rim = self.values[inside & ~self.inside(shape, -4 * margin)]
        if not len(rim):
            return False
        low, middle, high = np.percentile(outside, [5, 50, 85])
        # dark tissue has shades of its own
        return bool(high - low <= EVEN * (np.median(rim) - middle))
