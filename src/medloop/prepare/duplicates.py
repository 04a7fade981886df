"""Near-duplicate frames: those that look the same once they are small and grey."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError

Signature = NDArray[np.float32]

#: Side of the small grey picture that is compared.
SIDE = 16
#: Frames that differ by less than this, in the root mean square of grey values in [0, 1], are
#: one. The same picture saved again as a poor JPEG differs by .002, its neighbour in a video of
#: a slowly moving scope by .02 and more.
ALIKE = 0.01


def signature(pixels: NDArray[Any]) -> Signature:
    """Return 16 x 16 means of grey in [0, 1], as (256,).

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) array

    Examples
    --------
    >>> signature(np.full((40, 60), 255, np.uint8)).shape
    (256,)
    """
    from medloop.prepare.window import square

    step = max(1, min(pixels.shape[:2]) // (8 * SIDE))
    return square(pixels[::step, ::step], SIDE, 1).ravel()


class Kept:
    """Signatures of the frames kept so far, which a new one is compared with.

    Parameters
    ----------
    alike : float
        Root mean square difference below which two frames are one; 0 finds exact copies only.

    Raises
    ------
    DataError
        ``alike`` is not in [0, 1].

    Examples
    --------
    >>> kept = Kept()
    >>> frame = np.arange(4096, dtype=np.uint8).reshape(64, 64)
    >>> kept.twin_of("a", signature(frame)), kept.twin_of("b", signature(frame))
    ('', 'a')
    """

    def __init__(self, alike: float = ALIKE) -> None:
        if not 0 <= alike <= 1:
            raise DataError(f"alike must lie in [0, 1], got {alike}.")
        self.alike = alike
        self._names: list[str] = []
        self._signatures = np.zeros((0, SIDE * SIDE), np.float32)

    def twin_of(self, name: str, new: Signature) -> str:
        """Return the kept frame that looks like this one; where there is none, keep it."""
        n = len(self._names)
        if n:
            away = np.square(self._signatures[:n] - new).mean(axis=1)
            nearest = int(np.argmin(away))
            if away[nearest] <= self.alike**2:
                return self._names[nearest]
        self.add(name, new)
        return ""

    def add(self, name: str, new: Signature) -> None:
        """Keep a frame unasked."""
        n = len(self._names)
        if n == len(self._signatures):
            grown = np.zeros((max(64, 2 * n), SIDE * SIDE), np.float32)
            grown[:n] = self._signatures
            self._signatures = grown
        self._signatures[n] = new
        self._names.append(name)
