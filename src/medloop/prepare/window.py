"""From stored pixels to numbers that a student can use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError

Floats = NDArray[np.float32]

#: Share of the pixels that may saturate at either end where the bit depth tells no range.
_TAIL = 0.5


def to_unit(pixels: NDArray[Any]) -> Floats:
    """Scale stored pixels to [0, 1].

    8-bit pixels are divided by 255. Deeper ones (12 bits in 16, floats) are stretched between
    their 0.5 and 99.5 percentiles, because their range says little about what was measured.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) array of any real type

    Raises
    ------
    DataError
        A pixel is not finite, or the shape is another.

    Examples
    --------
    >>> to_unit(np.array([[0, 51]], np.uint8)).tolist()
    [[0.0, 0.20000000298023224]]
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise DataError(f"pixels must have shape (h, w) or (h, w, 3), got {pixels.shape}.")
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.float32) / np.float32(255)
    if pixels.dtype == bool:
        return pixels.astype(np.float32)
    with np.errstate(over="ignore"):
        values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError("pixels must be finite, got nan or inf.")
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL]).astype(np.float64)
    if high <= low:  # a few bright pixels on an even ground
        low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(values)
    unit = (values.astype(np.float64) - low) / (high - low)
    return np.asarray(np.clip(unit, 0, 1), np.float32)


def square(pixels: NDArray[Any], size: int, channels: int) -> Floats:
    """Resize to (size, size, channels) in [0, 1], whatever came in.

    The whole image is kept and its aspect ratio is not: a border would tell the student how wide
    the image was. Grey is repeated over channels; colour becomes grey by its luma (BT.601).

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) array
        As stored.
    size : int
        Side in pixels.
    channels : int
        1 or 3.

    Raises
    ------
    DataError
        The shape of the pixels, the size or the number of channels is another.

    Examples
    --------
    >>> square(np.full((4, 6, 3), 255, np.uint8), 2, 1).tolist()
    [[[1.0], [1.0]], [[1.0], [1.0]]]
    """
    from PIL import Image

    if size < 1 or channels not in (1, 3):
        raise DataError(f"size must be at least 1 and channels 1 or 3, got {size} and {channels}.")
    unit = to_unit(pixels)
    if unit.ndim == 3 and channels == 1:
        unit = unit @ np.array([0.299, 0.587, 0.114], np.float32)
    planes = [unit] if unit.ndim == 2 else [unit[..., c] for c in range(3)]
    if unit.shape[:2] != (size, size):
        # means of blocks on the way down, straight lines on the way up
        way = Image.Resampling.BOX if min(unit.shape[:2]) >= size else Image.Resampling.BILINEAR
        planes = [
            np.asarray(Image.fromarray(np.ascontiguousarray(p)).resize((size, size), way))
            for p in planes
        ]
    stacked = np.stack(planes * (channels // len(planes)), axis=-1)
    return np.clip(stacked, 0, 1)
