"""Run-length masks as COCO writes them, in numpy alone.

A mask is ``{"size": [height, width], "counts": text}``. The counts are the lengths of the runs of
0 and 1, in turn and down the columns, beginning with a run of 0; the text is how pycocotools packs
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError

Mask = dict[str, Any]
Ints = NDArray[np.int64]

#: A mask of more pixels is refused before anything of its size is made.
MAX_PIXELS = 64_000_000
#: COCO draws polygons on a grid that is five times as fine.
_SCALE = 5
#: Points on the border of one polygon; more of them mean a file made to fill the memory.
_MAX_BORDER = 20_000_000


def encode(mask: ArrayLike) -> Mask:
    """Pack a mask (h, w); whatever is not 0 belongs to it.

    Examples
    --------
    >>> encode([[0, 1], [0, 1]])
    {'size': [2, 2], 'counts': '22'}
    """
    array = np.asarray(mask) != 0
    if array.ndim != 2:
        raise DataError(f"a mask must have shape (h, w), got {array.shape}.")
    flat = array.ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = [0] if flat.size and flat[0] else []
    counts = np.diff(np.concatenate([[0], first, turns, [flat.size]]))
    return pack(counts.astype(np.int64), *array.shape)


def decode(mask: Mask) -> NDArray[np.bool_]:
    """Unpack a mask to (h, w).

    Raises
    ------
    DataError
        It is no run-length mask, or too large.

    Examples
    --------
    >>> decode({"size": [2, 2], "counts": "22"}).tolist()
    [[False, True], [False, True]]
    """
    height, width = size_of(mask)
    counts = counts_of(mask)
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def area(mask: Mask) -> int:
    """Count the pixels of a mask.

    Examples
    --------
    >>> area({"size": [2, 2], "counts": "22"})
    2
    """
    return int(counts_of(mask)[1::2].sum())


def box(mask: Mask) -> tuple[float, float, float, float]:
    """Return ``x0, y0, x1, y1`` around a mask; zeros where it is empty.

    Examples
    --------
    >>> box({"size": [2, 2], "counts": "22"})
    (1.0, 0.0, 2.0, 2.0)
    """
    height, _ = size_of(mask)
    ends = np.cumsum(counts_of(mask))
    start, stop = ends[0:-1:2], ends[1::2]
    start, stop = start[stop > start], stop[stop > start]
    if not len(start):
        return 0.0, 0.0, 0.0, 0.0
    left, right = start // height, (stop - 1) // height
    # a run that goes on in the next column touches the bottom of one and the top of the other
    within = left == right
    top = np.where(within, start % height, 0).min()
    bottom = np.where(within, (stop - 1) % height, height - 1).max()
    return float(left.min()), float(top), float(right.max() + 1), float(bottom + 1)


def pack(counts: Ints, height: int, width: int) -> Mask:
    """Make a mask of the lengths of its runs, which must fill ``height`` times ``width``.

    Raises
    ------
    DataError
        They do not, or one is negative.

    Examples
    --------
    >>> pack(np.array([2, 2]), 2, 2)
    {'size': [2, 2], 'counts': '22'}
    """
    counts = _checked(counts, height, width)
    steps = counts.copy()
    steps[3:] -= counts[1:-2]
    letters = np.zeros((len(steps), 13), np.uint8)
    more = np.ones(len(steps), bool)
    used = np.zeros(letters.shape, bool)
    for place in range(letters.shape[1]):
        used[:, place] = more
        low = steps & 0x1F
        steps = steps >> 5
        more = more & (steps != np.where(low & 0x10, -1, 0))
        letters[:, place] = low + np.where(more, 0x20, 0) + 48
        if not more.any():
            break
    return {"size": [int(height), int(width)], "counts": letters[used].tobytes().decode("ascii")}


def counts_of(mask: Mask) -> Ints:
    """Return the lengths of the runs of a mask, packed or not.

    Raises
    ------
    DataError
        They are no whole numbers of 0 or more that fill the mask.

    Examples
    --------
    >>> counts_of({"size": [2, 2], "counts": "22"}).tolist()
    [2, 2]
    """
    height, width = size_of(mask)
    counts = mask.get("counts")
    if isinstance(counts, list):
        if not all(type(count) is int and 0 <= count <= MAX_PIXELS for count in counts):
            raise DataError("counts of a mask must be whole numbers of 0 or more.")
        return _checked(np.array(counts, np.int64), height, width)
    if isinstance(counts, str):
        try:
            counts = counts.encode("ascii")
        except UnicodeEncodeError:
            raise DataError("counts of a mask must be ASCII text.") from None
    if not isinstance(counts, bytes):
        raise DataError(f"counts of a mask must be text or a list, got {type(counts).__name__}.")
    return _checked(_unpack(counts), height, width)


def normal(mask: Any) -> Mask:
    """Return a mask in the one form that the log keeps: packed, and without empty runs inside.

    Raises
    ------
    DataError
        It is no run-length mask.

    Examples
    --------
    >>> normal({"size": [2, 2], "counts": [1, 0, 1, 2]})
    {'size': [2, 2], 'counts': '22'}
    """
    if not isinstance(mask, dict):
        raise DataError(f"a mask must have size and counts, got {type(mask).__name__}.")
    height, width = size_of(mask)
    return pack(_merged(counts_of(mask)), height, width)


def size_of(mask: Mask) -> tuple[int, int]:
    """Return height and width of a mask.

    Raises
    ------
    DataError
        They are no whole numbers above 0, or the mask is too large.

    Examples
    --------
    >>> size_of({"size": [2, 3], "counts": "6"})
    (2, 3)
    """
    size = mask.get("size")
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(type(side) is int and side > 0 for side in size)
    ):
        raise DataError(f"size of a mask must be two whole numbers above 0, got {size!r:.60}.")
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(
            f"a mask has {size[0]} x {size[1]} pixels, at most {MAX_PIXELS:,} are read."
        )
    return size[0], size[1]


def from_polygons(polygons: Sequence[ArrayLike], height: int, width: int) -> Mask:
    """Fill polygons, as pycocotools does to the pixel; several are joined.

    Parameters
    ----------
    polygons : sequence of (2k,) float
        ``x0, y0, x1, y1, ...`` in pixels, of 3 points or more.
    height, width : int

    Raises
    ------
    DataError
        A polygon has too few points, an odd count of numbers, or reaches farther than one image
        beyond the image.

    Examples
    --------
    >>> area(from_polygons([[1, 1, 4, 1, 4, 3, 1, 3]], 5, 5))
    6
    """
    size_of({"size": [height, width]})
    turns = [_fill(polygon, height, width) for polygon in polygons]
    if not turns:
        raise DataError("a segmentation must have at least one polygon.")
    if len(turns) == 1:
        return pack(_runs(turns[0], height * width), height, width)
    joined = np.zeros(height * width, bool)
    for turn in turns:
        counts = _runs(turn, height * width)
        joined |= np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return encode(joined.reshape(width, height).T)


def outline(mask: Mask) -> list[Ints]:
    """Follow the pixels' edges round a mask: closed rectilinear loops that fill to the same mask.

    Holes are loops too; filled by the even-odd rule, all loops together give the mask.

    Returns
    -------
    list of (k, 2) int
        ``x, y`` of each corner.

    Examples
    --------
    >>> outline(encode([[0, 1], [0, 1]]))[0].tolist()
    [[1, 0], [2, 0], [2, 2], [1, 2]]
    """
    padded = np.pad(decode(mask), 1)
    odd = padded[:-1, :-1] ^ padded[1:, :-1] ^ padded[:-1, 1:] ^ padded[1:, 1:]
    y, x = np.nonzero(odd)
    # corners stand in pairs along every row and every column: two of a pair are joined
    beside = np.arange(len(x)) ^ 1
    down = np.lexsort((y, x))
    below = np.empty(len(x), np.int64)
    below[down] = down[np.arange(len(x)) ^ 1]
    follows_row, follows_column = beside.tolist(), below.tolist()
    left = np.ones(len(x), bool)
    loops = []
    for start in range(len(x)):
        if not left[start]:
            continue
        loop, corner = [], start
        while left[corner]:
            left[corner] = False
            other = follows_row[corner]
            left[other] = False
            loop += [corner, other]
            corner = follows_column[other]
        loops.append(np.stack([x[loop], y[loop]], axis=1))
    return loops


def one_polygon(mask: Mask) -> NDArray[np.float64]:
    """Return one polygon (k, 2) that fills to the mask by the even-odd rule; empty for none.

    Several loops are joined by lines that run there and back, which fill nothing.

    Examples
    --------
    >>> one_polygon(encode([[1, 0, 1]])).tolist()[-1]
    [0.0, 0.0]
    """
    loops = outline(mask)
    if not loops:
        return np.empty((0, 2))
    path = [loops[0]]
    for loop in loops[1:]:
        path += [loops[0][:1], loop, loop[:1]]
    if len(loops) > 1:
        path.append(loops[0][:1])
    return np.concatenate(path).astype(np.float64)


def _checked(counts: Ints, height: int, width: int) -> Ints:
    if len(counts) == 0 or counts.min() < 0 or counts.max() > height * width:
        raise DataError("counts of a mask must be whole numbers of 0 or more.")
    if counts.sum() != height * width:
        raise DataError(
            f"counts of a mask must fill its {height} x {width} pixels, got {counts.sum()}."
        )
    return counts


def _unpack(text: bytes) -> Ints:
    letters = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = (letters & 0x20) == 0
    if not len(letters) or not last[-1] or letters.min() < 0 or letters.max() > 63:
        raise DataError("counts of a mask are cut short or hold other letters.")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > 12:
        raise DataError("counts of a mask hold a number beyond any mask.")
    place = np.arange(len(letters)) - np.repeat(starts, length)
    values = np.add.reduceat((letters & 0x1F) << (5 * place), starts)
    values -= np.where(letters[ends] & 0x10, np.int64(1) << (5 * length), 0)
    if (abs(values) > MAX_PIXELS).any():
        raise DataError("counts of a mask hold a number beyond any mask.")
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _merged(counts: Ints) -> Ints:
    """Join runs that an empty one separates."""
    ends = np.cumsum(counts)
    size = int(ends[-1])
    return _runs(ends[:-1], size)


def _runs(turns: Ints, size: int) -> Ints:
    """Turn the places where a mask changes, in any order and perhaps twice, into runs."""
    places, times = np.unique(turns, return_counts=True)
    places = places[(times % 2 == 1) & (places < size)]
    return np.diff(np.concatenate([[0], places, [size]])).astype(np.int64)


def _fill(polygon: ArrayLike, height: int, width: int) -> Ints:
    """Return where along the columns a polygon begins and ends (P. Dollar's rleFrPoly)."""
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DataError("a polygon must be a list of numbers.") from None
    if points.ndim != 1 or len(points) % 2 or len(points) < 6:
        raise DataError(
            f"a polygon must be x, y of 3 points or more, got an array of shape {points.shape}."
        )
    limit = np.array([width, height])
    points = points.reshape(-1, 2)
    if not ((points >= -limit) & (points <= 2 * limit)).all():
        raise DataError("a polygon must be finite and near its image.")
    fine = np.trunc(_SCALE * points + 0.5).astype(np.int64)
    ends = np.roll(fine, -1, axis=0)
    moves = (fine != ends).any(axis=1)
    start, end = fine[moves], ends[moves]
    span = abs(end - start)
    wide = span[:, 0] >= span[:, 1]
    back = np.where(wide, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low = np.where(back[:, None], end, start)
    high = np.where(back[:, None], start, end)
    length = span.max(axis=1) if len(span) else np.empty(0, np.int64)
    if (length + 1).sum() > _MAX_BORDER:
        raise DataError("a polygon has a border of too many pixels.")
    slope = np.where(wide, high[:, 1] - low[:, 1], high[:, 0] - low[:, 0]) / length
    edge = np.repeat(np.arange(len(length)), length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    step = np.where(back[edge], length[edge] - step, step)
    across = np.trunc(np.where(wide, low[:, 1], low[:, 0])[edge] + slope[edge] * step + 0.5)
    along = np.where(wide, low[:, 0], low[:, 1])[edge] + step
    u = np.where(wide[edge], along, across).astype(np.int64)
    v = np.where(wide[edge], across, along).astype(np.int64)
    turn = np.flatnonzero(u[1:] != u[:-1])
    before, after = u[turn], u[turn + 1]
    column = np.where(after < before, after, after - 1) - _SCALE // 2
    row = np.minimum(v[turn + 1], v[turn])
    inside = (column % _SCALE == 0) & (column >= 0) & (column <= _SCALE * (width - 1))
    rows = np.clip((row[inside] + 0.5) / _SCALE - 0.5, 0, height)
    return np.asarray(column[inside] // _SCALE * height + np.ceil(rows).astype(np.int64), np.int64)
