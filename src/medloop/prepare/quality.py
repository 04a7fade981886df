"""What can be measured of a frame's quality, and who may say good or bad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.certify import upper_bound
from medloop.errors import DataError
from medloop.prepare.border import Border
from medloop.prepare.window import to_unit

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

#: Pixels along the shorter side at which frames are measured, so that cameras can be compared.
SIZE = 224

#: Above it the darkest channel is that of a white pixel.
_WHITE = 0.8

#: What is measured, in this order.
FEATURES = (
    "tenengrad",
    "laplacian",
    "fine",
    "coarse",
    "direction",
    "dark",
    "bright",
    "mean",
    "contrast",
    "specular",
    "entropy",
    "noise",
    "saturation",
    "veil",
    "unevenness",
    "fine_least",
    "coarse_least",
    "fine_direction",
    "glints",
    "white",
    "white_core",
    "pale_core",
    "sharp_low",
    "sharp_high",
    "contrast_low",
    "contrast_high",
    "saturation_low",
    "haze",
    "paleness",
    "edge_colour",
    "colour_detail",
    "redness",
    "quiet",
    "loud",
    "echo",
    "white_parts",
)


def measure(pixels: NDArray[Any], border: Border | None = None) -> Floats:
    """Measure the quality of a frame inside its content area.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 3) array
    border : Border, optional
        Of this frame; the whole frame counts where not given.

    Returns
    -------
    (36,) float
        In the order of ``FEATURES``. ``tenengrad``: log of the mean squared Sobel gradient;
        ``laplacian``: log of the Laplacian's variance; ``fine`` and ``coarse``: log of how much
        the energy of details falls from one scale to the next, which tells blur from a smooth
        subject; ``direction``: how unequal gradients are along two axes, in [0, 1], which tells
        motion; ``dark``, ``bright``: shares below .08 and above .95; ``mean``, ``contrast``:
        mean and standard deviation of grey; ``specular``: share of pixels that are bright and
        colourless; ``entropy``: of 64 grey values in bits; ``noise``: standard deviation after
        Immerkaer 1996; ``saturation``: mean of (max - min) / max of the channels; ``veil``:
        5th percentile of the darkest channel; ``unevenness``: spread of the sharpness over 64
        parts.

        What single parts, directions and colours of details say, behind these: ``fine_least``,
        ``coarse_least``: like ``fine`` and ``coarse``, of gradients along the axis that has less,
        which falls first when the scope moves; ``fine_direction``: log of how unequal those of
        the finest details are; ``glints``: log share of pixels paler than what surrounds them
        (rims of bubbles); ``white``: log share of bright colourless pixels, and ``white_core``,
        ``pale_core``: of what is left of them without rims (glare is wide, moist tissue
        glistens in points); ``sharp_low``, ``sharp_high``, ``contrast_low``, ``contrast_high``:
        10th and 90th percentiles of the log sharpness and the log spread of grey of 64 parts;
        ``saturation_low``: 10th percentile of their saturation; ``haze``: 95th percentile of the
        dark channel (He et al. 2009); ``paleness``: median of the darkest channel;
        ``edge_colour``: correlation of fine changes of grey and of saturation;
        ``colour_detail``: log of the second's energy per the first's; ``redness``: log of the
        mean red per the mean green; ``quiet``, ``loud``: log of the 20th and 99th percentile of
        the finest details; ``echo``: log of the highest peak of their cepstrum 4 to 32 pixels
        away, in its standard deviations (two exposures in one); ``white_parts``: share of the 64
        parts with more than 1% of bright colourless pixels, which counts spots (glare, bubbles)
        rather than their size. Grey values lie in [0, 1].

    Raises
    ------
    DataError
        The shape is another.

    Examples
    --------
    >>> flat = measure(np.full((64, 64), 10, np.uint8))
    >>> dict(zip(FEATURES, flat.tolist()))["dark"]
    1.0
    """
    colour, inside = _small(pixels, border)
    grey = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    # gradients beside the border are the border's
    core = _eroded(inside, 3)
    if not core.any():
        core = inside
    gx, gy = _sobel(grey)
    xx, yy, xy = (float((a * b)[core].mean()) for a, b in ((gx, gx), (gy, gy), (gx, gy)))
    spread = np.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-9)
    laplace = _laplacian(grey)
    scales = [grey]
    for _ in range(3):
        scales.append(_blurred(scales[-1]))
    energy = [float(np.square(one - two)[core].mean()) for one, two in pairwise(scales)]
    values = grey[inside]
    red, green, blue = (colour[..., c] for c in range(3))
    most, least = (end(end(red, green), blue) for end in (np.maximum, np.minimum))
    saturation = np.asarray((most - least) / np.maximum(most, np.float32(0.02)), np.float32)
    counts = np.bincount(np.minimum((values * 64).astype(np.intp), 63), minlength=64)
    shares = counts[counts > 0] / counts.sum()
    white = (least > 0.85) & (saturation < 0.15)
    return np.array(
        [
            np.log(xx + yy + 1e-6),
            np.log(float(laplace[core].var()) + 1e-7),
            np.log((energy[0] + 1e-8) / (energy[1] + 1e-8)),
            np.log((energy[1] + 1e-8) / (energy[2] + 1e-8)),
            spread,
            float((values < 0.08).mean()),
            float((values > 0.95).mean()),
            float(values.mean()),
            float(values.std()),
            float(white[inside].mean()),
            float(-(shares * np.log2(shares)).sum()),
            _noise(grey, core),
            float(saturation[inside].mean()),
            float(np.percentile(least[inside], 5)),
            _unevenness(np.square(laplace), core),
            *_directions(scales, core),
            *_whites(least, inside),
            *_parts(grey, saturation, np.square(laplace), inside, core),
            *_colours(least, grey, saturation, inside, core),
            _redness(colour, inside),
            *_finest(grey - scales[1], core),
            float((_means((least > _WHITE).astype(np.float32), inside) > 0.01).mean()),
        ]
    )


def measure_all(frames: Iterable[NDArray[Any]]) -> Floats:
    """Measure frames inside the content area that is found in each: (n, 36)."""
    from medloop.prepare.content import find_border

    rows = [measure(frame, find_border(frame)) for frame in frames]
    return np.stack(rows) if rows else np.zeros((0, len(FEATURES)))


def _small(pixels: NDArray[Any], border: Border | None) -> tuple[Plane, NDArray[np.bool_]]:
    """Return (h, w, 3) colour in [0, 1], SIZE pixels along the shorter side, and what counts."""
    from PIL import Image

    border = border or Border.whole(pixels.shape)
    unit = to_unit(pixels[border.y0 : border.y1, border.x0 : border.x1])
    if unit.ndim == 2:
        unit = np.repeat(unit[..., None], 3, axis=2)
    h, w = unit.shape[:2]
    scale = SIZE / min(h, w)
    size = max(8, round(w * scale)), max(8, round(h * scale))
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(unit[..., c])).resize(
                size, Image.Resampling.BILINEAR
            )
        )
        for c in range(3)
    ]
    small = np.clip(np.stack(planes, axis=2), 0, 1)
    if border.kind != "circle":
        return small, np.ones(small.shape[:2], bool)
    cx, cy, rx, ry = border.ellipse()
    x = ((np.arange(size[0]) + 0.5) * w / size[0] + border.x0 - cx) / rx
    y = ((np.arange(size[1]) + 0.5) * h / size[1] + border.y0 - cy) / ry
    inside = x[None, :] ** 2 + y[:, None] ** 2 <= 0.98**2
    return small, inside if inside.any() else np.ones(small.shape[:2], bool)


def _eroded(inside: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    return np.asarray(binary_erosion(inside, iterations=by, border_value=0), bool)


def _sobel(grey: Plane) -> tuple[Plane, Plane]:
    from scipy.ndimage import sobel

    return sobel(grey, axis=1, mode="nearest") / 8, sobel(grey, axis=0, mode="nearest") / 8


def _laplacian(grey: Plane) -> Plane:
    from scipy.ndimage import laplace

    return np.asarray(laplace(grey, mode="nearest"), np.float32)


def _blurred(grey: Plane) -> Plane:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(grey, 1.0, mode="nearest", truncate=3), np.float32)


def _noise(grey: Plane, core: NDArray[np.bool_]) -> float:
    """Standard deviation of noise by the difference of two Laplacians (Immerkaer 1996)."""
    from scipy.ndimage import convolve1d

    mask = np.array([1.0, -2.0, 1.0], np.float32)
    both = convolve1d(convolve1d(grey, mask, axis=0, mode="nearest"), mask, axis=1, mode="nearest")
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(both)[core].mean())


def _unevenness(energy: Plane, core: NDArray[np.bool_]) -> float:
    return float(np.std(np.log(_means(energy, core) + 1e-7)))


def _means(values: Plane, inside: NDArray[np.bool_]) -> Floats:
    """Return the means of those of 8 x 8 parts of which at least a fifth counts."""
    h, w = values.shape
    rows, columns = np.arange(h) * 8 // h, np.arange(w) * 8 // w
    part = (rows[:, None] * 8 + columns)[inside]
    count = np.bincount(part, minlength=64)
    held = count >= 0.2 * h * w / 64
    if not held.any():
        return np.zeros(1)
    sums = np.bincount(part, weights=values[inside], minlength=64)
    return np.asarray(sums[held] / count[held])


def _around(values: Plane, inside: NDArray[np.bool_]) -> Plane:
    """Return the Gaussian mean (3 pixels) of what counts around each pixel."""
    from scipy.ndimage import gaussian_filter

    def smooth(plane: Plane) -> Plane:
        return np.asarray(gaussian_filter(plane, 3.0, mode="nearest", truncate=3), np.float32)

    if inside.all():
        return smooth(values)
    weight = inside.astype(np.float32)
    held = np.maximum(smooth(weight), np.float32(1e-3))
    return np.asarray(smooth(values * weight) / held, np.float32)


def _directions(scales: list[Plane], core: NDArray[np.bool_]) -> Iterator[float]:
    """How gradients of details fall from scale to scale along the axis that has least of them."""
    ends = []
    for one, two in pairwise(scales):
        gy, gx = np.gradient(one - two)
        xx, yy, xy = (float((a * b)[core].mean()) for a, b in ((gx, gx), (gy, gy), (gx, gy)))
        apart = float(np.hypot(xx - yy, 2 * xy))
        ends.append(
            (np.log((xx + yy + apart) / 2 + 1e-9), np.log(max((xx + yy - apart) / 2, 0) + 1e-9))
        )
    yield float(ends[0][1] - ends[1][1])
    yield float(ends[1][1] - ends[2][1])
    yield float(ends[0][0] - ends[0][1])


def _finest(details: Plane, core: NDArray[np.bool_]) -> Iterator[float]:
    """How much the finest details are in quiet and in loud places, and whether they come twice."""
    from scipy.fft import irfft2, rfft2

    size = np.abs(details[core])
    for q in (20, 99):
        yield float(np.log(np.percentile(size, q) + 1e-4))
    h, w = details.shape
    window = np.outer(np.hanning(h), np.hanning(w)) * core
    power = np.square(np.abs(rfft2(details * window)))
    spectrum = irfft2(np.log(power + 1e-6 * power.max() + 1e-12), s=(h, w))
    y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in (h, w))
    away = np.hypot(y[:, None], x[None, :])
    ring = np.abs(spectrum[(away >= 4) & (away <= 32)])
    if not len(ring):
        yield 0.0
        return
    yield float(np.log((ring.max() + 1e-6) / (np.sqrt(np.square(ring).mean()) + 1e-6)))


def _whites(least: Plane, inside: NDArray[np.bool_]) -> Iterator[float]:
    """Log shares of what is bright and colourless: in points, in all, in wide spots."""
    from scipy.ndimage import binary_erosion, maximum_filter, minimum_filter

    # what lies outside hides nothing and adds nothing
    opened = minimum_filter(np.where(inside, least, np.float32(1)), 13)
    opened = maximum_filter(np.where(inside, opened, np.float32(0)), 13)
    white = inside & (least > _WHITE)
    kinds = (
        least - opened > 0.12,
        white,
        binary_erosion(white, iterations=2),
        binary_erosion(inside & (least > 0.6), iterations=4),
    )
    for found in kinds:
        yield float(np.log(found[inside].mean() + 1e-3))


def _parts(
    grey: Plane,
    saturation: Plane,
    energy: Plane,
    inside: NDArray[np.bool_],
    core: NDArray[np.bool_],
) -> Iterator[float]:
    """How sharp, contrasty and coloured the worst and best parts of the frame are."""
    sharp = np.log(_means(energy, core) + 1e-7)
    mean = _means(grey, inside)
    spread = np.sqrt(np.maximum(_means(grey * grey, inside) - mean * mean, 0))
    for values in (sharp, np.log(spread + 1e-3)):
        for q in (10, 90):
            yield float(np.percentile(values, q))
    yield float(np.percentile(_means(saturation, inside), 10))


def _colours(
    least: Plane,
    grey: Plane,
    saturation: Plane,
    inside: NDArray[np.bool_],
    core: NDArray[np.bool_],
) -> Iterator[float]:
    """How pale the frame is, and what colour its details have."""
    from scipy.ndimage import minimum_filter

    around = minimum_filter(np.where(inside, least, np.float32(1)), 9)
    yield float(np.percentile(around[inside], 95))
    yield float(np.median(least[inside]))
    light, vivid = ((values - _around(values, inside))[core] for values in (grey, saturation))
    both, one, other = ((a * b).mean() for a, b in ((light, vivid), (light, light), (vivid, vivid)))
    yield float(both / np.sqrt(one * other + 1e-12))
    yield float(np.log(other + 1e-6) - np.log(one + 1e-6))


def _redness(colour: Plane, inside: NDArray[np.bool_]) -> float:
    red, green = (float(colour[..., c][inside].mean()) + 0.02 for c in (0, 1))
    return float(np.log(red / green))


@dataclass(frozen=True)
class Band:
    """Between two thresholds nothing is said; outside, errors are rare.

    Parameters
    ----------
    good_below, bad_above : float
        A frame is called good where its score is below the first, bad where it is above the
        second; -inf and inf where too little is known to say it at all. A score counts upwards
        with badness.
    error_rate, confidence : float
        With this confidence at most this share of what is called good is bad, and likewise of
        what is called bad is good.
    good, bad : int
        Calibration frames that would be called so.
    """

    good_below: float
    bad_above: float
    error_rate: float
    confidence: float
    good: int
    bad: int

    def __call__(self, score: ArrayLike) -> NDArray[np.str_]:
        """Return "good", "bad" or "cannot tell" for each score.

        Examples
        --------
        >>> band = Band(0.2, 0.9, 0.05, 0.95, 100, 100)
        >>> band([0.1, 0.5, 0.95]).tolist()
        ['good', 'cannot tell', 'bad']
        """
        score = np.asarray(score, np.float64)
        words = np.where(score > self.bad_above, "bad", "cannot tell")
        return np.asarray(np.where(score < self.good_below, "good", words))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; a threshold that is not there is None."""
        held = asdict(self)
        for name in ("good_below", "bad_above"):
            held[name] = held[name] if np.isfinite(held[name]) else None
        return held


#: Thresholds are looked for among so many shares of the calibration frames, strictest first.
STEPS = 20
#: Frames are calibrated as a sample of a pool without end.
_POOL = 1_000_000


def abstain_band(
    score: ArrayLike,
    bad: ArrayLike,
    *,
    error_rate: float = 0.05,
    confidence: float = 0.95,
) -> Band:
    """Choose two thresholds so that what is called good or bad is rarely wrong.

    From the strictest threshold on, each is tested as long as the one before passed: of the
    frames beyond it, the exact upper bound on the share of wrong ones must be at most
    ``error_rate``. Such a fixed sequence costs no confidence; the two sides share it by halves.
    It holds for frames like those of the calibration, which must be drawn like the frames to
    come and have taken part in no training.

    Parameters
    ----------
    score : (n,) float
        Upwards with badness.
    bad : (n,) bool
        The truth.
    error_rate, confidence : float
        In (0, 1).

    Raises
    ------
    DataError
        The shapes differ, or a score is not finite.

    Examples
    --------
    >>> score = np.arange(400) / 400
    >>> band = abstain_band(score, score > 0.5)
    >>> 0.4 < band.good_below <= 0.53, 0.49 <= band.bad_above < 0.6
    (True, True)
    """
    score, bad = np.asarray(score, np.float64), np.asarray(bad, bool)
    if score.ndim != 1 or score.shape != bad.shape:
        raise DataError(
            f"score and bad must have one shape (n,), got {score.shape} and {bad.shape}."
        )
    if not np.isfinite(score).all():
        raise DataError("score must be finite, got nan or inf.")
    share = (1 + confidence) / 2
    low = _passed(score, bad, error_rate, share)
    high = _passed(-score, ~bad, error_rate, share)
    while low and high and low[-1] > -high[-1]:  # both may say it: stricter ones passed, too
        more_good = (score < low[-1]).sum() > (score > -high[-1]).sum()
        (low if more_good else high).pop()
    good_below, bad_above = low[-1] if low else -np.inf, -high[-1] if high else np.inf
    good, called_bad = int((score < good_below).sum()), int((score > bad_above).sum())
    return Band(good_below, bad_above, error_rate, confidence, good, called_bad)


def _passed(
    score: Floats, wrong: NDArray[np.bool_], error_rate: float, confidence: float
) -> list[float]:
    """Return the limits, strictest first, below which few enough frames are wrong."""
    order = np.sort(score)
    limits: list[float] = []
    for step in range(1, STEPS):
        # a limit that is itself a score: those below it are a plain sample of what lies below
        limit = float(order[len(score) * step // STEPS]) if len(score) else -np.inf
        called = score < limit
        n, k = int(called.sum()), int(wrong[called].sum())
        if not n or _above(n, 0, error_rate, confidence):
            continue  # too few to show anything, whatever they are
        if _above(n, k, error_rate, confidence):
            break
        limits.append(limit)
    return limits


def _above(n: int, k: int, error_rate: float, confidence: float) -> bool:
    return upper_bound(_POOL, n, k, confidence=confidence) > error_rate * _POOL
