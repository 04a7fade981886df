"""Shapes that a content area may have, and how dark a frame's border is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]

#: A border brighter than this (of 255) is none.
DARKEST = 64


class Level(NamedTuple):
    """How dark the border is: its middle, its spread, and from where on something is content."""

    black: float
    noise: float
    content: float


class Ellipse(NamedTuple):
    """An upright ellipse: its middle and half axes in pixels."""

    cx: float
    cy: float
    rx: float
    ry: float


class Box(NamedTuple):
    """An upright rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float


def brightest(part: Array) -> Floats:
    """Return the brightest channel: dark blue tissue is brighter than a border."""
    if part.ndim == 2 or part.shape[-1] != 3:
        return part.astype(np.float32)
    most = np.maximum(np.maximum(part[..., 0], part[..., 1]), part[..., 2])
    return most.astype(np.float32)


def level_of(frame: Array) -> Level | None:
    """Measure the darkest corner; None where it is not dark."""
    h, w = frame.shape[:2]
    side = max(4, min(h, w) // 50)
    best: tuple[float, Floats] | None = None
    for rows in (slice(None, side), slice(h - side, None)):
        for columns in (slice(None, side), slice(w - side, None)):
            patch = brightest(frame[rows, columns])
            middle = float(np.median(patch))
            if best is None or middle < best[0]:
                best = middle, patch
    if best is None or best[0] > DARKEST:
        return None
    black, patch = best
    noise = 1.4826 * float(np.median(np.abs(patch - black)))
    noise = max(noise, float(np.sqrt(np.mean(np.clip(patch - black, 0, 60) ** 2))) * 0.8, 1.0)
    return Level(black, noise, black + max(7.0, 2.2 * noise))
