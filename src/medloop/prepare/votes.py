"""Strips of a frame vote for where its content begins: for a circle, and for straight sides."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medloop.prepare.shapes import Array, Box, Ellipse, Floats, Level, brightest

#: Strips along each axis.
STRIPS = 24
#: A strip has about so many pixels.
LOOK = 256
#: Triples of points that vote for a circle.
TRIES = 96


class Ends(NamedTuple):
    """Where strips begin and end: coordinates of points, and on which side each lies."""

    x: Floats
    y: Floats
    side: NDArray[np.int64]  # 0 left, 1 right, 2 top, 3 bottom
    seen: NDArray[np.int64]  # (4,) strips a side that hold content at all
    open: NDArray[np.int64]  # (4,) of these, strips that begin with content


def _strips(frame: Array, step: int) -> tuple[Floats, Floats]:
    """Return (n, w / step) evenly spaced rows, each the mean of two, and their places."""
    h = frame.shape[0]
    n = min(STRIPS, h // 2)
    pitch = h // n
    first = (h - pitch * (n - 1) - 2) // 2
    # slices: a list of columns is gathered far more slowly
    one, two = (brightest(frame[at::pitch, ::step][:n]) for at in (first, first + 1))
    place = (first + 1 + pitch * np.arange(n)).astype(np.float32)
    return np.asarray((one + two) / 2, np.float32), place


def ends_of(frame: Array, level: Level) -> Ends:
    """Walk all strips from both ends."""
    step = max(1, round(max(frame.shape[:2]) / LOOK))
    xs, ys, sides, seen, opened = [], [], [], [], []
    for axis, part in enumerate((frame, frame.swapaxes(0, 1))):
        strips, place = _strips(part, step)
        # strided pixel i is pixel i * step, and not the middle of the block behind it
        at, here, full = _walk(np.concatenate([strips, strips[:, ::-1]]), level)
        at = at * step - 0.5 * (step - 1)
        n = len(strips)
        at[n:] = (strips.shape[1] - 1) * step + 1 - at[n:]
        for back in (0, 1):
            of = slice(back * n, (back + 1) * n)
            along, across = at[of][here[of]], place[here[of]]
            xs.append(across if axis else along)
            ys.append(along if axis else across)
            sides.append(np.full(len(along), 2 * axis + back))
            seen.append(int(full[of].sum()))
            opened.append(seen[-1] - len(along))
    return Ends(
        np.concatenate(xs),
        np.concatenate(ys),
        np.concatenate(sides),
        np.array(seen, np.int64),
        np.array(opened, np.int64),
    )


def _walk(strips: Floats, level: Level) -> tuple[Floats, Array, Array]:
    """Walk strips from their start to where content begins.

    Returns
    -------
    at : (n,) float
        Where each crosses half of the way from black to what lies behind.
    here : (n,) bool
        Whether there is a border to be crossed.
    full : (n,) bool
        Whether there is any content.
    """
    length = strips.shape[1]
    smooth = _three(strips)
    run = max(4, length // 20)
    above = smooth > level.content
    counted = np.zeros((len(strips), length + run), np.int32)
    np.cumsum(above, axis=1, out=counted[:, 1 : length + 1])
    counted[:, length + 1 :] = counted[:, length : length + 1]
    # letters have gaps: content goes on for a while
    lasting = above[:, :-1] & (counted[:, run:] - counted[:, :length] >= 0.85 * run)[:, :-1]
    first = lasting.argmax(axis=1)
    rows = np.arange(len(strips))
    full = lasting[rows, first]
    # what lies behind: the middle of the next pixels
    next_ones = np.minimum(first[:, None] + np.arange(-2, run + 4), length - 1)
    values = smooth[rows[:, None], np.maximum(next_ones, 0)]
    plateau = np.sort(values[:, 6:], axis=1)[:, run // 2]
    half = (level.black + np.maximum(plateau, level.content)) / 2
    at = first - 2 + (values >= half[:, None]).argmax(axis=1)
    return at.astype(np.float32), full & (first > 1), full


def _three(strips: Floats) -> Floats:
    """Average three neighbours along the last axis."""
    out = strips.copy()
    out[:, 1:-1] += strips[:, 2:]
    out[:, 1:-1] += strips[:, :-2]
    out[:, 1:-1] *= np.float32(1 / 3)
    return out


@cache
def _draws() -> Floats:
    """Return (TRIES, 5) fixed random numbers: the same frame, the same answer."""
    return np.random.default_rng(20231).random((TRIES, 5)).astype(np.float32)


def circles(ends: Ends, frame: Array) -> list[Ellipse]:
    """Fit a circle, and an upright ellipse where that suits clearly more points."""
    n = len(ends.x)
    if n < 8:
        return []
    h, w = frame.shape[:2]
    size = max(h, w)
    x = (ends.x.astype(np.float64) - w / 2) / size
    y = (ends.y.astype(np.float64) - h / 2) / size
    tolerance = max(1.5 / size, 0.012)
    found: list[Ellipse] = []
    count = 0
    for free in (False, True):
        if count > 0.85 * n:
            break
        best, many = _ransac(x, y, free, tolerance)
        if best is not None and many >= max(8, count + max(3, 0.1 * n)):
            cx, cy, rx, ry = best
            middle = cx * size + w / 2, cy * size + h / 2
            found.append(Ellipse(*middle, rx * size, ry * size))
            count = many
    return found


def _ransac(x: Array, y: Array, free: bool, tolerance: float) -> tuple[Ellipse | None, int]:
    """Return the circle (or upright ellipse) that most points lie on, and their number."""
    points = 4 if free else 3
    pick = (_draws()[:, :points] * len(x)).astype(np.intp)
    shapes = _through(x[pick], y[pick], free)
    cx, cy, rx, ry = shapes
    with np.errstate(invalid="ignore"):
        sane = (np.minimum(rx, ry) > 0.06) & (np.maximum(rx, ry) < 1.6)
        sane &= (np.maximum(np.abs(cx), np.abs(cy)) < 1) & (ry < 2 * rx) & (rx < 2 * ry)
    if not sane.any():
        return None, 0
    shapes = shapes[:, sane]
    away = _away(*(v.astype(np.float32) for v in (x, y, shapes[:, :, None])))
    # closer points count more, so that of two with equal support the better wins
    best = int(np.argmin(np.minimum(away, tolerance).sum(axis=1)))
    inside = away[best] < tolerance
    shape = shapes[:, best]
    again = _least_squares(x[inside], y[inside], free) if inside.sum() > points + 2 else None
    if again is not None:
        closer = _away(x, y, again[:, None]) < tolerance
        if closer.sum() >= inside.sum():
            shape, inside = again, closer
    return Ellipse(*(float(v) for v in shape)), int(inside.sum())


def _through(x: Array, y: Array, free: bool) -> Array:
    """Return (4, k): cx, cy, rx, ry of the conics through (k, 3) or (k, 4) points."""
    ones = np.ones_like(x)
    terms = [x, y, ones, y * y] if free else [x, y, ones]
    right = -(x * x) if free else -(x * x + y * y)
    matrix = np.stack(terms, axis=-1)
    usable = np.abs(np.linalg.det(matrix)) > 1e-6
    matrix[~usable] = np.eye(matrix.shape[-1])
    return _conic(np.linalg.solve(matrix, right[..., None])[..., 0].T, free, usable)


def _least_squares(x: Array, y: Array, free: bool) -> Array | None:
    terms = [x, y, np.ones_like(x), y * y] if free else [x, y, np.ones_like(x)]
    matrix = np.stack(terms, axis=-1)
    right = -(x * x) if free else -(x * x + y * y)
    try:
        found = np.linalg.solve(matrix.T @ matrix, matrix.T @ right)
    except np.linalg.LinAlgError:
        return None
    shape = _conic(found[:, None], free, np.ones(1, bool))[:, 0]
    return shape if np.isfinite(shape).all() else None


def _conic(found: Array, free: bool, usable: Array) -> Array:
    a, b, c = found[:3]
    k = found[3] if free else np.ones_like(a)  # x^2 + k y^2 + a x + b y + c = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        k = np.where(k > 0, k, np.nan)
        cx, cy = -a / 2, -b / (2 * k)
        rx = np.sqrt(cx * cx + k * cy * cy - c)
        ry = rx / np.sqrt(k)
    return np.where(usable, np.stack([cx, cy, rx, ry]), np.nan)


def _away(x: Array, y: Array, shape: Array) -> Array:
    """Return about how many pixels points lie from an ellipse, along the ray from its middle."""
    cx, cy, rx, ry = shape
    dx, dy = x - cx, y - cy
    rho = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2)
    length = np.sqrt(dx * dx + dy * dy)
    return np.asarray(length * np.abs(1 - 1 / np.maximum(rho, 1e-9)))


def boxes(ends: Ends, frame: Array) -> list[Box]:
    """Let the ends vote for four straight sides; a side without a border is the frame's."""
    h, w = frame.shape[:2]
    tolerance = max(1.5, 0.006 * max(h, w))
    sides: list[float] = []
    for side, edge in enumerate((0.0, float(w), 0.0, float(h))):
        at = (ends.x if side < 2 else ends.y)[ends.side == side]
        found = edge
        if len(at) >= 3:
            near = np.abs(at[:, None] - at) <= tolerance
            votes = near.sum(axis=1)
            best = int(np.argmax(votes))
            if votes[best] >= max(3, 0.4 * ends.seen[side]):
                found = float(np.median(at[near[best]]))
            elif ends.open[side] < 0.2 * ends.seen[side]:
                # dark along most of its edge: the outermost place that a few agree on
                agreed = at[votes >= max(3, 0.15 * ends.seen[side])]
                if len(agreed):
                    found = float(agreed[np.argmin(np.abs(agreed - edge))])
        sides.append(found)
    x0, x1, y0, y1 = sides
    if (x0, x1, y0, y1) == (0, w, 0, h) or x1 - x0 < 0.1 * w or y1 - y0 < 0.1 * h:
        return []
    return [Box(x0, y0, x1, y1)]
