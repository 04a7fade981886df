"""Text that was drawn into a picture: suspected, so that a person looks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Letters of an overlay are so many pixels high.
_HEIGHTS = (5, 64)
#: So many letters in a row are no accident of an anatomy.
_LETTERS = 6
#: Pixels that are looked at.
_LARGEST = 4_000_000
#: Share of the brightest value that an overlay has at least.
_BRIGHT = 0.6
#: Share of it by which a stroke stands out from what is around it.
_STANDS_OUT = 0.35
#: Strokes are thinner than this many pixels.
_STROKE = 9
#: More spots than these are noise, not text.
_MOST = 20_000


def has_lettering(pixels: NDArray[Any]) -> bool:
    """Tell whether rows of bright spots of one height suggest that text was drawn in.

    Overlays are mostly white and written in thin strokes. Spots are taken that are bright, thinner
    than a stroke of a letter may be, and as high as letters; six of them side by side, of about
    one height and on one line, raise the suspicion. It is a suspicion: dark, large or joined
    letters are missed, and a ruler may be taken for text.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) array

    Examples
    --------
    >>> picture = np.zeros((40, 120), np.uint8)
    >>> has_lettering(picture)
    False
    >>> for x in range(10, 90, 10):
    ...     picture[10:20, x : x + 2] = picture[10:12, x : x + 6] = 255
    >>> has_lettering(picture)
    True
    """
    from scipy import ndimage

    grey = pixels.min(axis=2) if pixels.ndim == 3 else pixels  # overlays are mostly white
    step = math.ceil(math.sqrt(grey.size / _LARGEST))  # what is larger has larger letters
    grey = grey[::step, ::step]
    low, high = float(grey.min()), float(grey.max())
    if high <= low:
        return False
    unit = (grey.astype(np.float32) - low) / (high - low)
    # what a square of the width of a stroke does not fit into: strokes, on whatever ground
    strokes = unit - ndimage.grey_opening(unit, (_STROKE, _STROKE))
    bright = (unit >= _BRIGHT) & (strokes >= _STANDS_OUT)
    spots, count = ndimage.label(bright, np.ones((3, 3)))
    if not _LETTERS <= count <= _MOST:
        return False
    boxes = ndimage.find_objects(spots)
    letters = [box for number, box in enumerate(boxes, start=1) if _is_letter(spots, number, box)]
    return len(letters) >= _LETTERS and _in_a_row(letters)


def _is_letter(spots: NDArray[Any], number: int, box: tuple[slice, slice]) -> bool:
    height, width = (side.stop - side.start for side in box)
    if not _HEIGHTS[0] <= height <= _HEIGHTS[1] or not 1 <= width <= 1.6 * height:
        return False
    filled = (spots[box] == number).mean()
    return bool(0.12 <= filled <= 0.95 or width <= 3)


def _in_a_row(letters: list[tuple[slice, slice]]) -> bool:
    """Tell whether enough boxes of one height stand side by side."""
    top, bottom, left, right = (
        np.array([getattr(box[axis], end) for box in letters])
        for axis, end in ((0, "start"), (0, "stop"), (1, "start"), (1, "stop"))
    )
    height = bottom - top
    for at in range(len(letters)):
        level = (abs(bottom - bottom[at]) <= 0.35 * height[at]) & (
            abs(height - height[at]) <= 0.35 * height[at]
        )
        order = np.flatnonzero(level)[np.argsort(left[level])]
        gaps = left[order][1:] - right[order][:-1]
        joined = (gaps < 1.5 * height[at]) & (gaps > -1)
        run = longest = 0
        for near in joined:
            run = run + 1 if near else 0
            longest = max(longest, run)
        if longest + 1 >= _LETTERS:
            return True
    return False
