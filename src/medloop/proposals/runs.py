"""Masks as bits and as runs of pixels, over which sums cost what the outlines are long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Ints = NDArray[np.int64]

#: Pixels that are looked at together where there are too many runs to keep.
_CHUNK = 1 << 22
#: Runs are kept where at most so many octets of each word of 64 pixels hold an end of one.
_MANY = 3
_WORD = np.dtype("<u8")
_ONE = np.uint64(1)
_LAST = np.uint64(63)


@dataclass(frozen=True, eq=False)
class Bits:
    """Masks of one image, a bit a pixel.

    Parameters
    ----------
    words : (r, n) uint64
        Of each mask: row by row in whole words, the first pixel in the lowest bit, then a word
        of zeros, so that no run goes on into the next mask.
    shape : (int, int)
        Height and width in pixels.
    """

    words: Words
    shape: tuple[int, int]

    @property
    def across(self) -> int:
        """Words a row."""
        return _row(self.shape[1]) // 64

    @property
    def rows(self) -> Words:
        """The words by row, (r, h, across)."""
        return self.words[:, :-1].reshape(len(self.words), self.shape[0], self.across)


@dataclass(frozen=True, eq=False)
class Runs:
    """Every run of pixels that follow each other in a mask; one may go on into the next row.

    Parameters
    ----------
    mask : (n,) int
        Which mask each is of.
    start, stop : (n,) int
        Of its first bit, and of that behind its last.
    """

    mask: Ints
    start: Ints
    stop: Ints


def _row(width: int) -> int:
    """Return the bits that a row takes: whole words."""
    return -(-width // 64) * 64


def packed(masks: Bools) -> Bits:
    """Pack (r, h, w) masks.

    Examples
    --------
    >>> packed(np.array([[[True, False, True], [False, True, False]]])).words.tolist()
    [[5, 2, 0]]
    """
    count, height, width = masks.shape
    words = np.zeros((count, height * _row(width) // 64 + 1), _WORD)
    octets = words.view(np.uint8)[:, :-8]
    if width % 64:
        octets = octets.reshape(count, height, _row(width) // 8)[:, :, : -(-width // 8)]
        octets[:] = np.packbits(masks, axis=2, bitorder="little")
    else:
        octets[:] = np.packbits(masks.reshape(count, height * width), axis=1, bitorder="little")
    return Bits(words, (height, width))


def counted(words: Words) -> Ints:
    """Count the bits of each row.

    Examples
    --------
    >>> counted(packed(np.ones((2, 3, 70), bool)).words).tolist()
    [210, 210]
    """
    return np.asarray(np.bitwise_count(words).sum(axis=1, dtype=np.int64))


def edges_of(bits: Bits) -> Ints:
    """Return first column, first row, and those behind the last, of each mask, (r, 4).

    Examples
    --------
    >>> edges_of(packed(np.array([[[False, True, True, False]]]))).tolist()
    [[1, 0, 3, 1]]
    """
    count, rows = len(bits.words), bits.rows
    columns = np.empty((count, bits.across), _WORD)
    down = np.zeros((count, bits.shape[0]), _WORD)
    for word in range(bits.across):
        columns[:, word] = np.bitwise_or.reduce(rows[:, :, word], axis=1)
        down |= rows[:, :, word]
    across = np.unpackbits(columns.view(np.uint8), axis=1, bitorder="little").view(bool)
    found = np.empty((count, 4), np.int64)
    for first, there in ((0, across), (1, down != 0)):
        found[:, first] = there.argmax(axis=1)
        found[:, first + 2] = there.shape[1] - there[:, ::-1].argmax(axis=1)
    return found


def inside_of(bits: Bits) -> Bits:
    """Take from each mask the pixels that border on a pixel outside: left, right, above, below.

    What lies beyond the image is not outside.

    Examples
    --------
    >>> inside_of(packed(np.array([[[True, True, True, False]]]))).words.tolist()
    [[3, 0]]
    """
    words, across = bits.words, bits.across
    border = np.zeros((2, *bits.shape), bool)
    border[0, :, 0] = border[1, :, -1] = True
    first, last = packed(border).words
    inner = _later(words) | first
    right = words >> _ONE
    right[:, :-1] |= words[:, 1:] << _LAST
    right |= last
    inner &= right
    inner &= words
    inner[:, across:-1] &= words[:, : -1 - across]
    inner[:, : -1 - across] &= words[:, across:-1]
    return Bits(inner, bits.shape)


def _later(words: Words) -> Words:
    """Move every bit by one."""
    moved = words << _ONE
    moved[:, 1:] |= words[:, :-1] >> _LAST
    return moved


def runs_of(words: Words) -> Runs:
    """Find the runs of (r, n) words, mask by mask.

    Examples
    --------
    >>> runs = runs_of(packed(np.array([[[True, True, False, True]]])).words)
    >>> runs.start.tolist(), runs.stop.tolist()
    ([0, 3], [2, 4])
    """
    octets = _turns(words)
    return _between(octets, np.flatnonzero(octets != 0), 64 * words.shape[1])


def few_runs(words: Words) -> Runs | None:
    """Return the runs of words; None where they would take several times the memory of the words.

    Examples
    --------
    >>> few_runs(packed(np.eye(64, dtype=bool)[None]).words) is None
    False
    >>> few_runs(packed(np.arange(4096).reshape(1, 64, 64) % 2 > 0).words) is None
    True
    """
    octets = _turns(words)
    held = np.flatnonzero(octets != 0)
    return _between(octets, held, 64 * words.shape[1]) if len(held) <= _MANY * words.size else None


def _turns(words: Words) -> NDArray[np.uint8]:
    """Return octets of bits where each run begins, and behind its end."""
    turns = _later(words)
    turns ^= words
    return turns.view(np.uint8).ravel()


def _between(octets: NDArray[np.uint8], held: Ints, size: int) -> Runs:
    """Return the runs of masks of so many bits each from the octets that hold turns."""
    bit = np.flatnonzero(np.unpackbits(octets[held], bitorder="little").view(bool))
    at = 8 * held[bit >> 3] + (bit & 7)
    mask = at[::2] // size
    return Runs(mask, at[::2] - size * mask, at[1::2] - size * mask)


def running(planes: NDArray[np.floating], shape: tuple[int, int], *, top: int = 0) -> Floats:
    """Sum each plane up over all pixels, row by row as bits lie.

    Parameters
    ----------
    planes : (c, h', w) float
        Rows of an image from ``top`` on; what is above and below is 0.
    shape : (int, int)
        Height and width of the image.
    top : int

    Returns
    -------
    (c, bits of a mask) float
        Sum of all that comes before each bit.

    Examples
    --------
    >>> running(np.array([[[1.0, 2.0, 4.0]]]), (1, 3))[0, :5].tolist()
    [0.0, 1.0, 3.0, 7.0, 7.0]
    """
    (height, width), (count, rows, _) = shape, planes.shape
    row = _row(width)
    tables = np.zeros((count, height * row + 1))
    part = np.zeros((count, rows, row))
    part[:, :, :width] = planes
    out = tables[:, top * row + 1 : (top + rows) * row + 1]
    np.cumsum(part.reshape(count, -1), axis=1, out=out)
    tables[:, (top + rows) * row + 1 :] = out[:, -1:]
    return tables


def summed(tables: Floats, words: Words, runs: Runs | None = None) -> Floats:
    """Sum over the pixels of each mask what was summed up by :func:`running`.

    Parameters
    ----------
    tables : (c, bits of a mask) float
    words : (r, n) uint64
        Of :class:`Bits`.
    runs : Runs, optional
        Of these words, where they are kept.

    Returns
    -------
    (r, c) float

    Examples
    --------
    >>> bits = packed(np.array([[[True, False, True]]]))
    >>> summed(running(np.array([[[1.0, 2.0, 4.0]]]), bits.shape), bits.words).tolist()
    [[5.0]]
    """
    count = len(words)
    step = count if runs is not None else max(1, _CHUNK // tables.shape[1])
    sums = np.empty((count, len(tables)))
    for first in range(0, count, max(step, 1)):
        part = words[first : first + step]
        of = runs or runs_of(part)
        for column, table in enumerate(tables):
            each = table[of.stop] - table[of.start]
            sums[first : first + step, column] = np.bincount(of.mask, each, len(part))
    return sums


def integral(tables: Floats, shape: tuple[int, int]) -> Floats:
    """Return (h + 1, c, w + 1) sums of all that lies above and left, from :func:`running`.

    Examples
    --------
    >>> ones = np.ones((1, 2, 3))
    >>> integral(running(ones, (2, 3)), (2, 3))[:, 0].astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 4, 6]]
    """
    height, width = shape
    count, row = len(tables), _row(width)
    made = np.zeros((height + 1, count, width + 1))
    till = tables[:, 1:].reshape(count, height, row)[:, :, :width]
    before = tables[:, :-1].reshape(count, height, row)[:, :, :1]
    np.subtract(till.swapaxes(0, 1), before.swapaxes(0, 1), out=made[1:, :, 1:])
    for y in range(1, height + 1):  # several times as fast as numpy's own sums along this axis
        made[y] += made[y - 1]
    return made
