"""Move a shape to where its edge is."""

from __future__ import annotations

from functools import cache

import numpy as np

from medloop.prepare.shapes import Array, Box, Ellipse, Floats, Level, brightest

#: Directions in which the edge of a circle is measured.
RAYS = 64


def fitted(frame: Array, shape: Ellipse | Box, level: Level) -> Ellipse | Box | None:
    """Fit a shape to its edge in the frame; None where too little of the edge is there."""
    if isinstance(shape, Box):
        return _fitted_box(frame, shape, level)
    return _fitted_ellipse(frame, shape, level)


def _fitted_ellipse(frame: Array, shape: Ellipse, level: Level) -> Ellipse | None:
    """Move an ellipse to where its edge is along rays; None where too little of it is there.

    A step of Gauss and Newton for a wide look, and one for a narrow look.
    """
    h, w = frame.shape[:2]
    size = max(h, w)
    directions = _in_view(shape, h, w)
    if len(directions) < 0.04 * len(_turn()):
        return None
    # rays where the edge can be seen, which may be in the corners alone
    cos, sin = directions[np.linspace(0, len(directions) - 1, RAYS).astype(np.intp)].T
    free = abs(shape.ry / shape.rx - 1) > 1e-6
    for share in (0.06, 0.03):
        reach = max(4, round(share * size))
        offset = np.linspace(-reach, reach, min(2 * reach, 48) + 1)
        cx, cy, rx, ry = shape
        length = np.hypot(rx * cos, ry * sin)
        ux, uy = rx * cos / length, ry * sin / length
        ends_x, ends_y = (cx + ux * (length + reach / 2), cy + uy * (length + reach / 2))
        seen = (ends_x >= 0) & (ends_x < w) & (ends_y >= 0) & (ends_y < h)
        way = length[seen, None] + offset
        column = np.clip((cx + ux[seen, None] * way).astype(np.intp), 0, w - 1)
        row = np.clip((cy + uy[seen, None] * way).astype(np.intp), 0, h - 1)
        at, there = _steps(brightest(frame[row, column]), offset, level)
        if there.sum() < max(8, 0.5 * len(there)):
            return None
        # how far the edge moves along each ray with each of cx, cy, rx, ry
        nx, ny = cos / rx, sin / ry
        moves = np.stack([nx, ny, nx * cos, ny * sin], axis=1) / (nx * ux + ny * uy)[:, None]
        if not free:
            moves = np.stack([moves[:, 0], moves[:, 1], moves[:, 2] + moves[:, 3]], axis=1)
        change = _robust(moves[seen][there], at[there])
        if change is None:
            return None
        dx, dy, dr = change[:3]
        shape = Ellipse(cx + dx, cy + dy, rx + dr, ry + (change[3] if free else dr))
        if min(shape.rx, shape.ry) < 4:
            return None
    return shape


@cache
def _turn() -> Array:
    """Return (n, 2) cosines and sines of all directions."""
    angle = np.arange(360) * (2 * np.pi / 360)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _in_view(shape: Ellipse, h: int, w: int) -> Array:
    """Return the directions in which the edge of an ellipse lies inside the frame."""
    x, y = (np.array(shape[:2]) + np.array(shape[2:]) * _turn()).T
    seen = (x > 2) & (x < w - 2) & (y > 2) & (y < h - 2)
    return np.asarray(_turn()[seen])


def _robust(moves: Array, at: Array) -> list[float] | None:
    """Solve moves @ change = at, leaving out what does not fit the rest."""
    keep = np.ones(len(at), bool)
    change = np.zeros(moves.shape[1])
    for _ in range(3):
        kept = moves[keep]
        if len(kept) < 7:
            return None
        try:
            change = np.linalg.solve(kept.T @ kept, kept.T @ at[keep])
        except np.linalg.LinAlgError:
            return None
        away = np.abs(moves @ change - at)
        keep = away <= max(1.0, 2.5 * float(np.sort(away)[len(away) // 2]))
    return [float(value) for value in change]


def _steps(values: Floats, offset: Array, level: Level) -> tuple[Array, Array]:
    """Find the step from content to border along profiles that lead outwards.

    The whole of them shows how soft the edge is; each then has its place where it best splits
    into a bright part inside and a dark part outside.

    Returns
    -------
    at : (n,) float
        Place of the step in ``offset``.
    there : (n,) bool
        Whether the profile has one.
    """
    length = values.shape[1]
    # the split that leaves least variance, by sums from the left
    total = np.cumsum(values, axis=1)
    left = np.arange(1, length, dtype=np.float32)
    inner = total[:, :-1] / left
    outer = (total[:, -1:] - total[:, :-1]) / (length - left)
    between = left * (length - left) * np.square(inner - outer)
    between = np.where(inner > outer, between, 0)
    best = between.argmax(axis=1)
    rows = np.arange(len(values))
    rise = inner[rows, best] - outer[rows, best]
    end = values[:, -max(3, length // 5) :].mean(axis=1)
    # a soft edge may reach the end of a short profile
    dark = end < level.black + np.maximum(max(10.0, 2 * level.noise), 0.2 * rise)
    there = (rise > max(5.0, level.noise)) & dark
    return (offset[best] + offset[best + 1]) / 2, there


def _fitted_box(frame: Array, shape: Box, level: Level) -> Box | None:
    """Move each side to where the step is along it; None where a side is not there."""
    h, w = frame.shape[:2]
    reach = max(4, round(0.04 * max(h, w)))
    x0, y0, x1, y1 = shape
    sides = []
    for side, at in enumerate((x0, y0, x1, y1)):
        part = frame if side % 2 == 0 else frame.swapaxes(0, 1)
        length, (low, high) = (w, (y0, y1)) if side % 2 == 0 else (h, (x0, x1))
        if at in (0, length):
            sides.append(at)
            continue
        found = _fitted_side(part, at, (low, high), reach, side < 2, level)
        if found is None:
            return None
        sides.append(found)
    return Box(*sides)


def _fitted_side(
    frame: Array, at: float, span: tuple[float, float], reach: int, first: bool, level: Level
) -> float | None:
    width = frame.shape[1]
    place = round(at)
    before, behind = min(reach, place), min(reach, width - place)
    if min(before, behind) < 2:
        return 0.0 if first else float(width)
    # not the corners, which may be round
    low, high = span
    rows = np.linspace(low + 0.06 * (high - low), high - 0.06 * (high - low) - 1, 48)
    values = brightest(frame[rows.astype(np.intp), place - before : place + behind])
    offset = np.arange(-before, behind)
    if first:  # profiles lead outwards
        values, offset = values[:, ::-1], -1 - offset[::-1]
    step, there = _steps(values, offset, level)
    if there.mean() < 0.5:
        return None
    middle = float(np.median(step[there])) + 0.5
    spread = float(np.median(np.abs(step[there] + 0.5 - middle)))
    if spread > max(3, 0.25 * reach):
        return None
    return place - middle if first else place + middle
