"""Uncompressed TIFFs deeper than 8 bits, which Pillow cuts to 8 or does not know."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# tags, by their names in TIFF 6.0
_WIDTH, _HEIGHT, BITS, _COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _ORIENTATION, _SAMPLES, _COUNTS, PLANAR = 273, 274, 277, 279, 284
_EXTRA, FORMAT = 338, 339

#: (sample format, bits) of numbers that numpy knows
_KINDS: dict[tuple[int, ...], str] = {
    (1, 8): "u1",
    (1, 16): "u2",
    (1, 32): "u4",
    (2, 8): "i1",
    (2, 16): "i2",
    (2, 32): "i4",
    (3, 16): "f2",
    (3, 32): "f4",
    (3, 64): "f8",
}


def tags_of(data: bytes) -> Any:
    """Return the tags of the first page, by number."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
    stream = io.BytesIO(data)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def is_deep(tags: Any) -> bool:
    """Tell whether a sample is anything but an unsigned number of at most 8 bits."""
    return max(_many(tags, BITS, 1)) > 8 or set(_many(tags, FORMAT, 1)) != {1}


def decode_strips(data: bytes, tags: Any, max_pixels: int) -> NDArray[Any] | None:
    """Decode grey or RGB pixels that lie uncompressed in strips; None where they do not.

    Parameters
    ----------
    data : bytes
    tags : mapping
        From ``tags_of``.
    max_pixels : int

    Returns
    -------
    (h, w) or (h, w, 3) array or None
        Type as stored. Unassociated transparency is laid over black, other extra channels are
        dropped, "white is zero" is turned round, and the noted orientation is applied.

    Raises
    ------
    ValueError
        It has more than one page, too many pixels, or too few bytes.
    """
    photometric, samples = tags.get(PHOTOMETRIC), tags.get(_SAMPLES, 1)
    formats, bits = set(_many(tags, FORMAT, 1)), set(_many(tags, BITS, 1))
    kind = _KINDS.get((*formats, *bits))
    wanted = 3 if photometric == 2 else 1
    if (
        kind is None
        or photometric not in (0, 1, 2)
        or tags.get(_COMPRESSION, 1) != 1
        or _OFFSETS not in tags
        or not wanted <= samples <= 6
    ):
        return None
    if tags.next:
        raise ValueError("it has more than one page, expected 1")
    height, width = tags[_HEIGHT], tags[_WIDTH]
    if height * width > max_pixels:
        raise ValueError(f"{width:,} x {height:,} pixels, at most {max_pixels:,} are read")
    dtype = np.dtype(kind).newbyteorder("<" if data[:2] == b"II" else ">")
    size = height * width * samples * dtype.itemsize
    strips = zip(_many(tags, _OFFSETS, 0), _many(tags, _COUNTS, len(data)), strict=False)
    stored = b"" if size > len(data) else b"".join(data[at : at + count] for at, count in strips)
    if len(stored) < size:
        raise ValueError(f"its strips hold {len(stored):,} bytes, expected {size:,}")
    flat = np.frombuffer(stored[:size], dtype).astype(dtype.newbyteorder("="))
    if tags.get(PLANAR, 1) == 2:
        pixels = flat.reshape(samples, height, width).transpose(1, 2, 0)
    else:
        pixels = flat.reshape(height, width, samples)
    if photometric == 0:
        pixels = np.iinfo(pixels.dtype).max - pixels if kind[0] == "u" else -pixels
    if samples == wanted + 1 and 2 in _many(tags, _EXTRA, 0) and kind[0] == "u":
        pixels = over_black(pixels)
    pixels = pixels[..., :3] if wanted == 3 else pixels[..., 0]
    return upright(pixels, tags.get(_ORIENTATION, 1))


def over_black(pixels: NDArray[Any]) -> NDArray[Any]:
    """Lay (h, w, c + 1) pixels, whose last channel is opacity, over black: (h, w, c).

    Examples
    --------
    >>> over_black(np.array([[[200, 255], [200, 51]]], np.uint8)).tolist()
    [[[200], [40]]]
    """
    most = np.iinfo(pixels.dtype).max
    opacity = pixels[..., -1:].astype(np.float64) / most
    return np.rint(pixels[..., :-1] * opacity).astype(pixels.dtype)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (h, w, ...) pixels as the orientation tag (1 to 8) says.

    Examples
    --------
    >>> upright(np.array([[1, 2], [3, 4]]), 6).tolist()
    [[3, 1], [4, 2]]
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def first(tags: Any, tag: int) -> int:
    """Return the first value of a tag, or 1."""
    return _many(tags, tag, 1)[0]


def _many(tags: Any, tag: int, default: int) -> tuple[int, ...]:
    values = tags.get(tag, (default,))
    return values if isinstance(values, tuple) else (values,)
