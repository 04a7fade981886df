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
        A pixel is not finite.

    Examples
    --------
    >>> to_unit(np.array([[0, 51]], np.uint8)).tolist()
    [[0.0, 0.20000000298023224]]
    """
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.float32) / np.float32(255)
    if pixels.dtype == bool:
        return pixels.astype(np.float32)
    values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError("pixels must be finite, got nan or inf.")
    low, high = np.percentile(values, [_TAIL, 100 - _TAIL])
    if high <= low:
        low, high = float(values.min()), float(values.max())
    unit = (values - low) / max(float(high - low), 1e-12)
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

    Examples
    --------
    >>> square(np.full((4, 6, 3), 255, np.uint8), 2, 1).tolist()
    [[[1.0], [1.0]], [[1.0], [1.0]]]
    """
    from PIL import Image

    unit = to_unit(pixels)
    if unit.ndim == 3 and channels == 1:
        unit = unit @ np.array([0.299, 0.587, 0.114], np.float32)
    planes = [unit] if unit.ndim == 2 else [unit[..., c] for c in range(3)]
    if unit.shape[:2] != (size, size):
        resized = [
            Image.fromarray(np.ascontiguousarray(p)).resize((size, size), Image.Resampling.BOX)
            if min(p.shape) >= size
            else Image.fromarray(np.ascontiguousarray(p)).resize(
                (size, size), Image.Resampling.BILINEAR
            )
            for p in planes
        ]
        planes = [np.asarray(p, np.float32) for p in resized]
    stacked = np.stack(planes * (channels // len(planes)), axis=-1)
    return np.clip(stacked, 0, 1)
