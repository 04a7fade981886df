"""Square frames cut from images of any size, and the way back to the pixels of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.engine.local import map_batches
from medloop.prepare.window import to_unit

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

#: Grey of what lies outside an image; networks see it as nearly 0.
OUTSIDE = 128


def to_bytes(pixels: NDArray[Any]) -> Bytes:
    """Bring stored pixels to 8 bits, (h, w) or (h, w, 3); 8-bit ones stay as they are.

    Raises
    ------
    DataError
        The shape is another, or a pixel is not finite.

    Examples
    --------
    >>> to_bytes(np.array([[0, 900], [900, 0]], np.uint16)).tolist()
    [[0, 255], [255, 0]]
    """
    if pixels.dtype == np.uint8 and (pixels.ndim == 2 or pixels.shape[2:] == (3,)):
        return pixels
    return np.rint(to_unit(pixels) * 255).astype(np.uint8)


def whole(height: int, width: int) -> Floats:
    """Return ``x0, y0, side`` of the smallest square around an image, both centred alike.

    Examples
    --------
    >>> whole(40, 60).tolist()
    [0.0, -10.0, 60.0]
    """
    side = max(height, width)
    return np.array([(width - side) / 2, (height - side) / 2, side], np.float64)


def around(box: Floats, margin: float) -> Floats:
    """Return ``x0, y0, side`` of a square around each box, its longer side grown by a share.

    Parameters
    ----------
    box : (m, 4) float
    margin : float
        0.2 adds a fifth.

    Returns
    -------
    (m, 3) float

    Examples
    --------
    >>> around(np.array([[0.0, 10.0, 20.0, 20.0]]), 0.5).tolist()
    [[-5.0, 0.0, 30.0]]
    """
    side = np.maximum((box[:, 2:] - box[:, :2]).max(axis=1), 1.0) * (1 + margin)
    centre = (box[:, :2] + box[:, 2:]) / 2
    return np.column_stack([centre - side[:, None] / 2, side])


def cut(pixels: Bytes, square: Floats, size: int) -> Bytes:
    """Cut a square out of an image and resize it; grey where it reaches over the border.

    A pixel that the image covers in part is grey too.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) uint8
    square : (3,) float
        ``x0, y0, side`` in pixels of the image.
    size : int
        Side of what comes out.

    Returns
    -------
    (size, size, 3) uint8

    Examples
    --------
    >>> cut(np.full((2, 4), 9, np.uint8), np.array([0.0, -1.0, 4.0]), 4)[:, 0, 0].tolist()
    [128, 9, 9, 128]
    """
    from PIL import Image

    out = np.full((size, size, 3), OUTSIDE, np.uint8)
    shape = np.array(pixels.shape[1::-1], np.float64)
    corner, step = square[:2], square[2] / size
    # whole pixels of the frame that the image covers: nothing is padded, however far it reaches
    first = np.ceil(np.clip(-corner / step - 1e-6, 0, size)).astype(int)
    last = np.floor(np.clip((shape - corner) / step + 1e-6, 0, size)).astype(int)
    if (last <= first).any():
        return out
    low, high = np.maximum(corner + first * step, 0), np.minimum(corner + last * step, shape)
    left, top = np.floor(low).astype(int)
    right, bottom = np.ceil(high).astype(int)
    inner = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    made = np.asarray(
        inner.resize(
            tuple((last - first).tolist()),
            Image.Resampling.BILINEAR,
            box=(low[0] - left, low[1] - top, high[0] - left, high[1] - top),
        )
    )
    made = made[..., None] if made.ndim == 2 else made
    out[first[1] : last[1], first[0] : last[0]] = made
    return out


@dataclass(frozen=True, eq=False, kw_only=True)
class Frames:
    """Frames (n, size, size, 3), their squares (n, 3), and (n, 2) height and width of images."""

    pixels: Bytes
    square: Floats
    size: Floats


def frames(
    dataset: Dataset, images: Sequence[int] | NDArray[np.int64], size: int, batch: int
) -> Iterator[Frames]:
    """Read images batch by batch as frames."""

    def read(ids: Sequence[int]) -> Frames:
        pixels = [to_bytes(dataset.image(int(i))) for i in ids]
        squares = [whole(*p.shape[:2]) for p in pixels]
        made = [cut(p, s, size) for p, s in zip(pixels, squares, strict=True)]
        sizes = np.array([p.shape[:2] for p in pixels], np.float64)
        return Frames(pixels=np.stack(made), square=np.stack(squares), size=sizes)

    yield from map_batches(read, [int(i) for i in images], batch=batch)


def crops(
    dataset: Dataset,
    images: NDArray[np.int64],
    box: Floats,
    size: int,
    margin: float,
    batch: int,
) -> Iterator[tuple[Bytes, Floats]]:
    """Cut a square around each box, batch by batch: (n, size, size, 3), with their squares (n, 3).

    An image is read once for boxes that follow each other in a batch.
    """
    squares = around(box, margin)

    def read(rows: Sequence[int]) -> tuple[Bytes, Floats]:
        made, last, pixels = [], None, np.empty((0, 0), np.uint8)
        for row in rows:
            if images[row] != last:
                last = images[row]
                pixels = to_bytes(dataset.image(int(last)))
            made.append(cut(pixels, squares[row], size))
        return np.stack(made), squares[list(rows)]

    yield from map_batches(read, range(len(images)), batch=batch)


def into(points: Floats, square: Floats, size: int) -> Floats:
    """Move ``(..., 2)`` places from an image into the frame of a square (..., 3).

    Examples
    --------
    >>> into(np.array([[10.0, 5.0]]), np.array([[0.0, -5.0, 20.0]]), 40).tolist()
    [[20.0, 20.0]]
    """
    return np.asarray((points - square[..., :2]) * (size / square[..., 2:]))


def back(points: Floats, square: Floats, size: int) -> Floats:
    """Move ``(..., 2)`` places from the frame of a square (..., 3) into its image.

    Examples
    --------
    >>> back(np.array([[20.0, 20.0]]), np.array([[0.0, -5.0, 20.0]]), 40).tolist()
    [[10.0, 5.0]]
    """
    return np.asarray(points * (square[..., 2:] / size) + square[..., :2])
