"""Bad frames made on purpose, from good ones: to teach and to test what "bad" is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError, UsageError, did_you_mean

Floats = NDArray[np.float32]

#: Sizes are meant for images of so many pixels along their shorter side, and grow with it.
SCALE = 224

#: Weakest and strongest of each kind: blur in standard deviations and motion in lengths of
#: pixels at SCALE, gain as a factor, glare, bubbles and smoke as shares of the frame.
RANGES: dict[str, tuple[float, float]] = {
    "blur": (1.0, 5.0),
    "gain": (0.3, 1.8),
    "motion": (5.0, 30.0),
    "glare": (0.01, 0.12),
    "bubbles": (0.04, 0.35),
    "smoke": (0.25, 0.85),
}


def degrade(
    pixels: NDArray[Any],
    kind: str,
    strength: float | None = None,
    *,
    seed: int = 0,
    name: str = "",
) -> NDArray[Any]:
    """Make a frame bad.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) uint8
        Best without its border, which would be smeared.
    kind : {"blur", "brightness", "both", "motion", "glare", "bubbles", "smoke"}
        The first three are those of the thesis: Gaussian blur, a change of brightness, both.
    strength : float, optional
        0 is the weakest of the range and 1 the strongest; for brightness 0 changes nothing and 1
        is one of the two ends. Drawn where not given: evenly over the range, for brightness
        evenly over gains of .3 to 1.8, which hold harmless ones.
    seed : int
    name : str
        Of the image: with the seed it decides all that is random.

    Raises
    ------
    UsageError
        The kind is unknown.
    DataError
        The pixels are not 8-bit, or the strength is not in [0, 1].

    Examples
    --------
    >>> frame = np.full((8, 8), 100, np.uint8)
    >>> sorted({int(degrade(frame, "brightness", 1.0, seed=seed)[0, 0]) for seed in range(9)})
    [30, 180]
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}.{did_you_mean(kind, KINDS)}")
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise DataError(
            f"pixels must be uint8 of shape (h, w) or (h, w, 3), got {pixels.dtype} of "
            f"{pixels.shape}."
        )
    if strength is not None and not 0 <= strength <= 1:
        raise DataError(f"strength must lie in [0, 1], got {strength}.")
    key = int.from_bytes(hashlib.sha256(f"{kind}/{name}".encode()).digest()[:8], "big")
    random = np.random.default_rng([seed, key])
    out = KINDS[kind](pixels.astype(np.float32), strength, random)
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)


def _amount(kind: str, strength: float | None, random: np.random.Generator) -> float:
    low, high = RANGES[kind]
    return low + (high - low) * (float(random.random()) if strength is None else strength)


def _scale(pixels: Floats) -> float:
    return float(min(pixels.shape[:2])) / SCALE


def _blur(pixels: Floats, strength: float | None, random: np.random.Generator) -> Floats:
    return _smooth(pixels, _amount("blur", strength, random) * _scale(pixels))


def _smooth(pixels: Floats, sigma: float) -> Floats:
    from scipy.ndimage import gaussian_filter

    widths = (sigma, sigma, 0)[: pixels.ndim]
    return np.asarray(gaussian_filter(pixels, widths, mode="nearest", truncate=3), np.float32)


def _brightness(pixels: Floats, strength: float | None, random: np.random.Generator) -> Floats:
    low, high = RANGES["gain"]
    if strength is None:
        return pixels * np.float32(random.uniform(low, high))
    end = low if random.random() < 0.5 else high
    return pixels * np.float32(1 + (end - 1) * strength)


def _both(pixels: Floats, strength: float | None, random: np.random.Generator) -> Floats:
    return _brightness(_blur(pixels, strength, random), strength, random)


def _motion(pixels: Floats, strength: float | None, random: np.random.Generator) -> Floats:
    """Average along a line: the scope moved while the shutter was open."""
    from scipy.signal import oaconvolve

    length = _amount("motion", strength, random) * _scale(pixels)
    angle = random.uniform(0, np.pi)
    half = int(length / 2) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    at = np.linspace(-length / 2, length / 2, 8 * half + 1)
    x, y = half + at * np.cos(angle), half + at * np.sin(angle)
    left, top = x.astype(np.intp), y.astype(np.intp)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - np.abs(x - left - dx)) * (1 - np.abs(y - top - dy))
            np.add.at(
                kernel, (np.minimum(top + dy, 2 * half), np.minimum(left + dx, 2 * half)), share
            )
    kernel = kernel.reshape(*kernel.shape, *[1] * (pixels.ndim - 2)) / kernel.sum()
    around = [(half, half), (half, half), (0, 0)][: pixels.ndim]
    wide = np.pad(pixels, around, mode="edge")
    return np.asarray(oaconvolve(wide, kernel, mode="valid", axes=(0, 1)), np.float32)


def _glare(pixels: Floats, strength: float | None, random: np.random.Generator) -> Floats:
    """Lay white spots with soft rims over the frame, until they cover a share of it."""
    share = _amount("glare", strength, random)
    shape = pixels.shape[:2]
    cover = np.zeros(shape, np.float32)
    for _ in range(200):
        if cover.mean() >= share:
            break
        spot = _ellipse_distance(shape, random, 0.01, 0.02 + 0.6 * share)
        np.maximum(cover, np.clip((1.3 - spot) / 0.3, 0, 1), out=cover)
    return _blend(pixels, cover, 255.0)


def _bubbles(pixels: Floats, strength: float | None, random: np.random.Generator) -> Floats:
    """Lay foam over the frame: bright rims, a pale inside and one highlight a bubble."""
    share = _amount("bubbles", strength, random)
    shape = pixels.shape[:2]
    covered = np.zeros(shape, bool)
    out = pixels
    for _ in range(300):
        if covered.mean() >= share:
            break
        away = _ellipse_distance(shape, random, 0.015, 0.08, round_=True)
        covered |= away < 1
        out = _blend(out, np.where(away < 1, np.float32(0.25), np.float32(0)), 210.0)
        out = _blend(out, np.float32(0.7) * np.exp(-(((away - 1) / 0.12) ** 2)), 240.0)
        out = _blend(out, (away < 0.2).astype(np.float32), 255.0)
    return out


def _smoke(pixels: Floats, strength: float | None, random: np.random.Generator) -> Floats:
    """Blend the frame with an uneven grey veil."""
    density = _amount("smoke", strength, random)
    field = random.normal(size=(8, 8)).astype(np.float32)
    from scipy.ndimage import zoom

    h, w = pixels.shape[:2]
    uneven = zoom(field, (h / 8, w / 8), order=1, grid_mode=True, mode="nearest")[:h, :w]
    uneven = _smooth(uneven, 12 * _scale(pixels))
    veil = np.clip(density * (1 + 0.25 * uneven), 0, 0.97).astype(np.float32)
    return _blend(pixels, veil, float(random.uniform(150, 210)))


def _ellipse_distance(
    shape: tuple[int, ...],
    random: np.random.Generator,
    least: float,
    most: float,
    *,
    round_: bool = False,
) -> Floats:
    """Return how far pixels lie from a random ellipse's middle, in its half axes."""
    h, w = shape
    size = min(h, w)
    cy, cx = random.uniform(0, h), random.uniform(0, w)
    a = random.uniform(least, most) * size
    b = a if round_ else a * random.uniform(0.3, 1)
    angle = random.uniform(0, np.pi)
    y = (np.arange(h, dtype=np.float32) - np.float32(cy))[:, None]
    x = (np.arange(w, dtype=np.float32) - np.float32(cx))[None, :]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = (x * cos + y * sin) / np.float32(a), (y * cos - x * sin) / np.float32(b)
    return np.sqrt(along * along + across * across)


def _blend(pixels: Floats, share: Floats, grey: float) -> Floats:
    share = share.reshape(*share.shape, *[1] * (pixels.ndim - 2))
    return pixels + share * (np.float32(grey) - pixels)


#: What makes a frame bad, by name.
KINDS: dict[str, Callable[[Floats, float | None, np.random.Generator], Floats]] = {
    "blur": _blur,
    "brightness": _brightness,
    "both": _both,
    "motion": _motion,
    "glare": _glare,
    "bubbles": _bubbles,
    "smoke": _smoke,
}
