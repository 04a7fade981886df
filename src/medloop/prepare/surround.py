"""Put a border round a frame, as a scope does: to measure what borders do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError
from medloop.prepare.border import Border


def surround(
    pixels: NDArray[Any],
    border: Border,
    *,
    softness: float = 0.0,
    black: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Blacken what lies outside the content area.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) uint8
    border : Border
    softness : float
        Standard deviation of the edge's blur in pixels.
    black : float
        Grey value of the border, of 255.
    noise : float
        Standard deviation of noise over the whole frame, of 255.
    seed : int
        Of the noise.

    Raises
    ------
    DataError
        The pixels are not 8-bit, or a number is negative.

    Examples
    --------
    >>> frame = np.full((4, 8), 200, np.uint8)
    >>> surround(frame, Border("rectangle", 2, 0, 6, 4), black=3)[0].tolist()
    [3, 3, 200, 200, 200, 200, 3, 3]
    """
    from scipy.ndimage import gaussian_filter

    if pixels.dtype != np.uint8:
        raise DataError(f"pixels must be uint8, got {pixels.dtype}.")
    if min(softness, black, noise) < 0:
        raise DataError(
            f"softness, black and noise must be 0 or more, got {softness}, {black} and {noise}."
        )
    # beyond the edge of the frame the content goes on
    share = border.mask(pixels.shape[:2]).astype(np.float32)
    if softness > 0:
        share = gaussian_filter(share, softness, mode="nearest")
    share = share.reshape(*share.shape, *[1] * (pixels.ndim - 2))
    out = pixels * share + black * (1 - share)
    if noise > 0:
        out = out + np.random.default_rng(seed).normal(0, noise, out.shape)
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)
