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
Whole = NDArray[np.intp]

#: Pixels along the shorter side at which frames are measured, so that cameras can be compared.
SIZE = 224

#: Above it the darkest channel is that of a white pixel, and of a pale one.
_WHITE, _PALE = 0.8, 0.6
#: A part of a frame counts where so much of it lies inside.
_HELD = 0.2
#: Rings are looked for by radius, in pixels at SIZE: the inner and the outer side of a bright rim
#: lie so far from the middle, the outer one this many times farther.
_RADII, _OUTER = (3.0, 4.0, 5.4, 7.3, 9.9, 13.3), 1.2
#: Of the pixels, those with the largest gradients are rims; smaller ones are noise anywhere.
_RIMS, _LEAST_RIM = 0.15, 0.01

#: What is measured, in this order.
FEATURES = (
    "dark",
    "bright",
    "entropy",
    "mean",
    "fine_least",
    "coarse_least",
    "fine_direction",
    "sharp_low",
    "quiet",
    "loud",
    "echo",
    "edge_colour",
    "colour_detail",
    "floor",
    "pale_core",
    "white_parts",
    "rings",
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
    (17,) float
        In the order of ``FEATURES``, of grey values in [0, 1].

        Exposure: ``dark``, ``bright``: shares below .08 and above .95; ``entropy``: of 64 grey
        values in bits; ``mean``.

        Sharpness: ``fine_least``, ``coarse_least``: log of how much the energy of gradients falls
        from the finest details to the next, and from those to the next, along the axis that has
        less of them, which falls first when the scope moves; what falls tells blur from a smooth
        subject. ``fine_direction``: log of how unequal the axes are at the finest.
        ``sharp_low``: 10th percentile over 64 parts of the log energy of the Laplacian.
        ``quiet``, ``loud``: log of the 20th and 99th percentile of the finest details.
        ``echo``: log of the highest peak of their cepstrum 4 to 32 pixels away, in its standard
        deviations: two exposures in one.

        Light and what hides the tissue: ``edge_colour``: correlation of fine changes of grey and
        of saturation; ``colour_detail``: log of the second's energy per the first's.
        ``floor``: 1st percentile of the dark channel (He et al. 2009), which smoke lifts.
        ``pale_core``: log share of pale pixels, without the rims of what they form: wide glare.
        ``white_parts``: share of 64 parts with more than 1% of bright colourless pixels, which
        counts spots rather than their size. ``rings``: log of how round and bright-rimmed things
        are, 92nd percentile of the parts (bubbles; radial symmetry after Loy & Zelinsky 2003, of
        rims that have gradients on both sides).

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
    red, green, blue = (colour[..., c] for c in range(3))
    most, least = (end(end(red, green), blue) for end in (np.maximum, np.minimum))
    saturation = np.asarray((most - least) / np.maximum(most, np.float32(0.02)), np.float32)
    scales = [grey]
    for _ in range(3):
        scales.append(_blurred(scales[-1]))
    values = grey[inside]
    counts = np.bincount(np.minimum((values * 64).astype(np.intp), 63), minlength=64)
    shares = counts[counts > 0] / counts.sum()
    sharp = np.log(_means(np.square(_laplacian(grey)), core) + 1e-7)
    return np.array(
        [
            float((values < 0.08).mean()),
            float((values > 0.95).mean()),
            float(-(shares * np.log2(shares)).sum()),
            float(values.mean()),
            *_directions(scales, core),
            float(np.percentile(sharp, 10)),
            *_finest(grey - scales[1], core),
            *_colours(grey, saturation, inside, core),
            *_pale(least, inside),
            float((_means((least > _WHITE).astype(np.float32), inside) > 0.01).mean()),
            float(np.log(np.percentile(_rings(grey, core), 92) + 0.02)),
        ]
    )


def measure_all(frames: Iterable[NDArray[Any]]) -> Floats:
    """Measure frames inside the content area that is found in each: (n, 17)."""
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


def _parts(inside: NDArray[np.bool_]) -> tuple[Whole, Whole, NDArray[np.bool_]]:
    """Return which of 8 x 8 parts each pixel that counts is in, their sizes, and which count."""
    h, w = inside.shape
    rows, columns = np.arange(h) * 8 // h, np.arange(w) * 8 // w
    part = (rows[:, None] * 8 + columns)[inside]
    count = np.bincount(part, minlength=64)
    return part, count, count >= _HELD * h * w / 64


def _means(values: Plane, inside: NDArray[np.bool_]) -> Floats:
    """Return the means of the parts that count."""
    part, count, held = _parts(inside)
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
    yield from (float(np.log(value + 1e-4)) for value in np.percentile(size, (20, 99)))
    h, w = details.shape
    window = np.outer(np.hanning(h), np.hanning(w)).astype(np.float32) * core
    power = np.square(np.abs(rfft2(details * window)))
    spectrum = irfft2(np.log(power + 1e-6 * power.max() + 1e-12), s=(h, w))
    y, x = (np.minimum(np.arange(n), n - np.arange(n)) for n in (h, w))
    away = np.hypot(y[:, None], x[None, :])
    ring = np.abs(spectrum[(away >= 4) & (away <= 32)])
    if not len(ring):
        yield 0.0
        return
    yield float(np.log((ring.max() + 1e-6) / (np.sqrt(np.square(ring).mean()) + 1e-6)))


def _colours(
    grey: Plane, saturation: Plane, inside: NDArray[np.bool_], core: NDArray[np.bool_]
) -> Iterator[float]:
    """What colour details have."""
    light, vivid = ((values - _around(values, inside))[core] for values in (grey, saturation))
    both, one, other = ((a * b).mean() for a, b in ((light, vivid), (light, light), (vivid, vivid)))
    yield float(both / np.sqrt(one * other + 1e-12))
    yield float(np.log(other + 1e-6) - np.log(one + 1e-6))


def _pale(least: Plane, inside: NDArray[np.bool_]) -> Iterator[float]:
    """How dark the darkest surroundings are, and how much of the frame is pale and wide."""
    from scipy.ndimage import binary_erosion, minimum_filter

    # what lies outside hides nothing and adds nothing
    around = minimum_filter(np.where(inside, least, np.float32(1)), 9)
    yield float(np.percentile(around[inside], 1))
    wide = binary_erosion(inside & (least > _PALE), iterations=4)
    yield float(np.log(wide[inside].mean() + 1e-3))


def _rings(grey: Plane, core: NDArray[np.bool_]) -> Plane:
    """Return how much of a bright ring's rim there is around the best place of each part.

    Each rim votes for the middles that its gradient points to: from inside the ring gradients
    point outwards, from outside inwards. A place counts by the side that has fewer votes, as a
    share of the circle.
    """
    gx, gy = _sobel(grey)
    size = np.hypot(gx, gy)
    held = size[core]
    least = int(len(held) * (1 - _RIMS))
    rim = max(float(np.partition(held, least)[least]), _LEAST_RIM)
    y, x = np.nonzero((size >= rim) & core)
    size = np.maximum(size[y, x], np.float32(1e-6))
    to_x, to_y = gx[y, x] / size, gy[y, x] / size
    best = np.zeros((8, 8), np.float32)
    h, w = grey.shape
    for radius in _RADII:
        cell = max(1.0, radius / 6)  # larger rings are rougher; votes of 3 x 3 cells count
        rows, columns = int(np.ceil(h / cell)), int(np.ceil(w / cell))
        found = np.full((rows, columns), np.inf, np.float32)
        for far in (-radius, radius * _OUTER):
            row = np.floor((y + 0.5 + far * to_y) / cell).astype(np.intp)
            column = np.floor((x + 0.5 + far * to_x) / cell).astype(np.intp)
            there = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            wide = columns + 2
            at = (row[there] + 1) * wide + column[there] + 1
            votes = np.bincount(at, minlength=(rows + 2) * wide).astype(np.int32).reshape(-1, wide)
            near = votes[:-2] + votes[1:-1] + votes[2:]
            near = near[:, :-2] + near[:, 1:-1] + near[:, 2:]
            np.minimum(found, near * np.float32(1 / (2 * np.pi * abs(far))), out=found)
        starts = [np.arange(8) * n // 8 for n in found.shape]
        top = np.maximum.reduceat(np.maximum.reduceat(found, starts[0]), starts[1], axis=1)
        np.maximum(best, top, out=best)
    held = _parts(core)[2]
    return best.ravel()[held] if held.any() else best.ravel()


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
