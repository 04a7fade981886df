"""Numbers that describe regions, and a ranking of regions that is learned from a few boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.engine.threads import one_thread
from medloop.errors import DataError
from medloop.proposals.proposal import Masks
from medloop.proposals.runs import counted, inside_of, integral, running, summed

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

#: Strengths of the penalty that are compared.
STRENGTHS = (300.0, 1000.0, 3000.0)

#: Penalty of a ranking without boxes, a region.
_STRENGTH = 1 / 15
#: Share of a map below its peaks.
_PEAKS = 0.8
#: Columns of the features: the soft IoU of the peaks, and the first that knows no map.
_PEAK, _LOOKS = 1, 7
#: Columns that know neither the map nor place, size and shape, but what is in a region.
CONTENT = slice(17, None)
#: Regions that a ranking without boxes learns from at most.
_ROWS = 15_000
_TURNS = 3
#: What :func:`region_features` returns, column by column.
FEATURES = (
    "soft IoU of map and region",
    "soft IoU of the map's peaks and region",
    "share of the map's peaks",
    "mean activation inside",
    "mean activation around",
    "share of the activation",
    "mean activation in the box",
    "log area",
    "box width",
    "box height",
    "share of its box",
    "roundness",
    "centre x",
    "centre y",
    "distance from the centre",
    "touches a border",
    "score of the proposal",
    "lightness",
    "lightness against the surroundings",
    "lightness against the image",
    "spread of lightness",
    "spread around",
    "edge strength on its border",
    "first colour against the surroundings",
    "second colour against the surroundings",
    "first colour",
    "second colour",
    "lightness above",
    "lightness below",
)


def region_features(values: Singles, masks: Masks, image: NDArray[Any]) -> Floats:
    """Describe every region of an image, (r, len(FEATURES)).

    Parameters
    ----------
    values : (h, w) float in [0, 1]
        Activation map at the masks' resolution.
    masks : Masks
    image : (H, W) or (H, W, 3) array
        Pixels as stored.
    """
    h, w = masks.masks.shape[1:]
    light, *colours = _planes(image, (h, w))
    peaks = np.where(values > np.quantile(values, _PEAKS), values**2, np.float32(0))
    planes = np.stack([values, light, light**2, *colours, peaks, _gradient(light)])
    tables = running(planes, (h, w))
    inner = summed(tables, masks.bits.words, masks.runs)
    area = masks.area.astype(float)
    total = tables[:, -1]
    table = integral(tables[:-2], (h, w))
    x0, y0, x1, y1 = masks.edges.T
    wide, high = x1 - x0, y1 - y0
    # the surroundings: the box made larger by half of itself, without the region
    dx, dy = np.maximum(2, wide // 4), np.maximum(2, high // 4)
    ax0, ay0 = np.maximum(x0 - dx, 0), np.maximum(y0 - dy, 0)
    ax1, ay1 = np.minimum(x1 + dx, w), np.minimum(y1 + dy, h)
    rest = (ax1 - ax0) * (ay1 - ay0) - area
    mean, whole = inner / area[:, None], total / (h * w)
    around = _sum(table, range(len(planes) - 2), ax0, ay0, ax1, ay1) - inner[:, :-2]
    outer = np.where(rest[:, None] > 0, around / np.maximum(rest, 1)[:, None], whole[:-2])
    box_area = (wide * high).astype(float)
    in_box = _sum(table, [0], x0, y0, x1, y1)[:, 0] / box_area
    above = _mean(table, 1, ax0, ay0, ax1, y0, whole[1])
    below = _mean(table, 1, ax0, y1, ax1, ay1, whole[1])
    core = inside_of(masks.bits).words
    length = area - counted(core)
    # a region that fills the image has no border
    rim = (inner[:, -1] - summed(tables[-1:], core)[:, 0]) / np.maximum(length, 1)
    x, y = (x0 + x1) / (2 * w) - 0.5, (y0 + y1) / (2 * h) - 0.5
    border = (x0 == 0).astype(float) + (y0 == 0) + (x1 == w) + (y1 == h)
    union = total[0] + area - inner[:, 0]
    spread = _root(mean[:, 2] - mean[:, 1] ** 2)
    spread_out = _root(outer[:, 2] - outer[:, 1] ** 2)
    colour = np.zeros((4, len(area)))
    if colours:
        colour[:2], colour[2:] = (mean[:, 3:5] - outer[:, 3:5]).T, mean[:, 3:5].T
    return np.stack(
        [
            inner[:, 0] / np.maximum(union, 1e-9),
            inner[:, -2] / np.maximum(total[-2] + area - inner[:, -2], 1e-9),
            inner[:, -2] / max(total[-2], 1e-9),
            mean[:, 0],
            outer[:, 0],
            inner[:, 0] / max(total[0], 1e-9),
            in_box,
            np.log(area / (h * w)),
            wide / w,
            high / h,
            area / box_area,
            np.minimum(4 * np.pi * area / np.maximum(length, 1) ** 2, 1.5),
            x,
            y,
            np.hypot(x, y),
            border,
            masks.score,
            mean[:, 1],
            mean[:, 1] - outer[:, 1],
            mean[:, 1] - whole[1],
            spread,
            spread_out,
            rim,
            *colour,
            above - mean[:, 1],
            below - mean[:, 1],
        ],
        axis=1,
    )


def _planes(image: NDArray[Any], shape: tuple[int, int]) -> list[Singles]:
    """Lightness at another resolution; of a colour image red less green, and blue less yellow."""
    from PIL import Image

    from medloop.prepare.window import to_unit

    unit = to_unit(image)
    channels = [unit] * 3 if unit.ndim == 2 else [unit[..., c] for c in range(3)]
    small = []
    for plane in channels[:1] if unit.ndim == 2 else channels:
        same = plane.shape == shape
        small.append(
            plane
            if same
            else np.asarray(
                Image.fromarray(np.ascontiguousarray(plane)).resize(
                    (shape[1], shape[0]), Image.Resampling.BOX
                )
            )
        )
    if unit.ndim == 2:
        return small
    red, green, blue = small
    light = (0.299 * red + 0.587 * green + 0.114 * blue).astype(np.float32)
    yellow = np.asarray((red + green) / 2, np.float32)
    return [light, red - green, blue - yellow]


def _gradient(light: Singles) -> Singles:
    dy, dx = (
        np.gradient(light, axis=axis) if light.shape[axis] > 1 else np.zeros_like(light)
        for axis in (0, 1)
    )
    return np.asarray(np.hypot(dx, dy), np.float32)


def _sum(table: Floats, planes: Sequence[int], x0: Any, y0: Any, x1: Any, y1: Any) -> Floats:
    """Return (r, planes) sums over boxes, from an integral image."""
    row = table.shape[2]
    down = row * table.shape[1]
    at = np.stack([y1 * down + x1, y0 * down + x1, y1 * down + x0, y0 * down + x0])
    corner = table.ravel().take(at + row * np.reshape(planes, (-1, 1, 1)))
    return np.asarray((corner[:, 0] - corner[:, 1] - corner[:, 2] + corner[:, 3]).T)


def _mean(table: Floats, plane: int, x0: Any, y0: Any, x1: Any, y1: Any, empty: float) -> Floats:
    count = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    mean = _sum(table, [plane], x0, y0, x1, y1)[:, 0] / np.maximum(count, 1)
    return np.where(count > 0, mean, empty)


def _root(variance: Floats) -> Floats:
    return np.sqrt(np.maximum(variance, 0))


@dataclass(frozen=True, eq=False)
class Ranking:
    """A quadratic function of region features that expects how well a region's box fits.

    Parameters
    ----------
    mean, scale : (f,) float
        Of the features.
    square_mean, square_scale : (f (f + 3) / 2,) float
        Of the features, their squares and products.
    weights : (f (f + 3) / 2,) float
    bias : float
    strength : float
        Of the penalty.
    peaks : float
        Weight of the soft IoU of the map's peaks, added to the rest.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> features = [random.standard_normal((50, 2)) for _ in range(4)]
    >>> ranking = learn_ranking(features, [f[:, 0] > 1 for f in features])
    >>> int(ranking.expect([[-2.0, 0.0], [2.0, 0.0]]).argmax())
    1
    """

    mean: Floats
    scale: Floats
    square_mean: Floats
    square_scale: Floats
    weights: Floats
    bias: float
    strength: float
    peaks: float = 0.0

    def expect(self, features: ArrayLike) -> Floats:
        """Return what is expected of each region, (r,); the higher, the better."""
        given = np.asarray(features, float)
        x = (given - self.mean) / self.scale
        weights = self.weights / self.square_scale
        count = x.shape[1]
        square = np.zeros((count, count))
        square[np.triu_indices(count)] = weights[count:]
        seen = x @ weights[:count] + ((x @ square) * x).sum(axis=1)
        seen += self.bias - weights @ self.square_mean
        # a ranking of looks alone may not have a map at all
        return np.asarray(seen + self.peaks * given[:, _PEAK] if self.peaks else seen)

    def arrays(self) -> dict[str, Floats]:
        """Every number by name, for safetensors."""
        return {field.name: np.asarray(getattr(self, field.name), float) for field in fields(self)}

    @staticmethod
    def restore(arrays: Mapping[str, Floats]) -> Ranking:
        """Put what ``arrays`` gave together again.

        Raises
        ------
        DataError
            An array is missing.
        """
        try:
            held = {field.name: arrays[field.name] for field in fields(Ranking)}
        except KeyError as error:
            raise DataError(f"the ranking has no array {error}.") from None
        bias, strength, peaks = (float(held.pop(name)) for name in ("bias", "strength", "peaks"))
        return Ranking(**held, bias=bias, strength=strength, peaks=peaks)


def learn_ranking(features: Sequence[Floats], fit: Sequence[ArrayLike]) -> Ranking:
    """Learn from the regions of a few images whose true boxes are known.

    A ridge regression of the squared IoU on standardised features, their squares and products:
    squared, because what counts is that the best ones come first. The penalty is the one under
    which the regions that would be chosen, each image left out in turn, fit best.

    Parameters
    ----------
    features : sequence of n (r, f) arrays
        As from :func:`region_features`; every image has its own number of regions.
    fit : sequence of n (r,) arrays
        IoU of each region's box with the truth; 0 for all regions of an image that holds nothing.

    Raises
    ------
    DataError
        No region, shapes that do not fit, or no region that fits at all.
    """
    if not len(features) or len(features) != len(fit):
        raise DataError(f"there are {len(features)} images with features and {len(fit)} with fits.")
    rows = [np.asarray(f, float) for f in features]
    truth = [np.asarray(f, float) for f in fit]
    if any(len(x) != len(t) for x, t in zip(rows, truth, strict=True)):
        raise DataError("every region needs its features and its fit.")
    if not sum(float(t.sum()) for t in truth) > 0:
        raise DataError("no region fits any of the given boxes; there is nothing to learn from.")
    strength = STRENGTHS[len(STRENGTHS) // 2]
    with one_thread():
        if sum(t.any() for t in truth) >= 3:
            reached = np.zeros(len(STRENGTHS))
            for left in range(len(rows)):
                if not truth[left].any():
                    continue
                kept = [i for i in range(len(rows)) if i != left]
                learned = _fit([rows[i] for i in kept], [truth[i] for i in kept], STRENGTHS)
                for number, ranking in enumerate(learned):
                    reached[number] += truth[left][int(np.argmax(ranking.expect(rows[left])))]
            strength = STRENGTHS[int(np.argmax(reached))]
        return _fit(rows, truth, (strength,))[0]


def self_taught_ranking(
    features: Sequence[Floats], alike: Sequence[Floats], *, seed: int = 0
) -> Ranking:
    """Learn what the things look like that the maps point at, without a single box.

    The region that fits the peaks of an image's map best is taken for the thing in it. A
    regression learns, from how regions look and not from the map, how well each fits what was
    taken. Errors of single maps do not look alike, and drop out. What looks right and fits the
    peaks is taken next; three turns. It can only sharpen what most maps show roughly.

    Parameters
    ----------
    features : sequence of n (r, f) arrays
        As from :func:`region_features`, of images that hold the class, and of some that hold
        nothing.
    alike : sequence of n (r, r) or (0, 0) arrays
        IoU of the regions' boxes with each other; (0, 0) for an image that holds nothing.
    seed : int
        Of the sample of at most 15,000 regions that it learns from.

    Raises
    ------
    DataError
        No image holds anything, or shapes that do not fit.
    """
    rows = [np.asarray(f, float) for f in features]
    holds = [i for i, pairs in enumerate(alike) if len(pairs)]
    if len(rows) != len(alike) or any(len(alike[i]) != len(rows[i]) for i in holds):
        raise DataError("every region needs its features and its row of IoU.")
    if not holds:
        raise DataError("no image holds anything; there is nothing to learn from.")
    every = np.concatenate(rows)
    start = np.cumsum([0, *(len(x) for x in rows)])
    sample = np.sort(np.random.default_rng(seed).permutation(len(every))[:_ROWS])
    held = np.concatenate([np.arange(start[i], start[i + 1]) for i in holds])
    looks = every.copy()
    looks[:, :_LOOKS] = 0.0
    peaks = every[:, _PEAK]
    score, ranking = peaks, None
    with one_thread():
        for _ in range(_TURNS):
            fit = np.zeros(len(every))
            for i in holds:
                own = slice(start[i], start[i + 1])
                fit[own] = alike[i][int(np.argmax(score[own]))]
            ranking = _fit([looks[sample]], [fit[sample]], (_STRENGTH * len(sample),))[0]
            seen = ranking.expect(looks)
            spread = float(peaks[held].std())
            weight = float(seen[held].std()) / spread if spread > 0 else 0.0
            score = seen + weight * peaks
            ranking = replace(ranking, peaks=weight)
    if ranking is None:
        raise DataError("no turn was taken.")
    return ranking


def plain_ranking(features: Floats, wanted: ArrayLike, *, strength: float) -> Ranking:
    """Fit the ranking to (r, f) features of one pile, and to what is wanted of each, in [0, 1]."""
    return _fit([features], [np.sqrt(np.asarray(wanted, float))], (strength,))[0]


def _fit(rows: list[Floats], truth: list[Floats], strengths: Sequence[float]) -> list[Ranking]:
    raw, target = np.concatenate(rows), np.concatenate(truth) ** 2
    mean, scale = raw.mean(axis=0), _scale(raw)
    x = _squares((raw - mean) / scale)
    square_mean, square_scale = x.mean(axis=0), _scale(x)
    x = (x - square_mean) / square_scale
    bias = float(target.mean())
    values, vectors = np.linalg.eigh(x.T @ x)
    along = vectors.T @ (x.T @ (target - bias))
    return [
        Ranking(
            mean=mean,
            scale=scale,
            square_mean=square_mean,
            square_scale=square_scale,
            weights=vectors @ (along / (np.maximum(values, 0) + strength)),
            bias=bias,
            strength=strength,
        )
        for strength in strengths
    ]


def _scale(x: Floats) -> Floats:
    spread = x.std(axis=0)
    # a column that never varies, such as the colour of grey images, says nothing
    return np.where(spread > 1e-9, spread, np.inf)


def _squares(x: Floats) -> Floats:
    """Return features, their squares and their products, (n, f (f + 3) / 2)."""
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, first] * x[:, second]], axis=1)
