"""How well boxes and maps tell where something is, and the baselines that every rule must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError
from medloop.overlap import iou

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: IoU from which a box counts as right; MaxBoxAccV2 is the mean over them (Choe et al. 2020).
LEVELS = (0.3, 0.5, 0.7)
_BINS = 256


def best_iou(box: ArrayLike, truth: Sequence[ArrayLike]) -> Floats:
    """Return the IoU of each image's box with the true box that fits it best.

    Parameters
    ----------
    box : (n, 4) float
        ``x0, y0, x1, y1`` in pixels; a row of NaN is an image for which no box was found.
    truth : sequence of n (t, 4) arrays

    Returns
    -------
    (n,) float
        0 where there is no box; NaN where there is no true box to find.

    Raises
    ------
    DataError
        The two do not have the same length.

    Examples
    --------
    >>> best_iou([[0, 0, 2, 2]], [[[0, 0, 1, 2], [5, 5, 9, 9]]]).tolist()
    [0.5]
    """
    boxes = np.asarray(box, float).reshape(-1, 4)
    if len(boxes) != len(truth):
        raise DataError(f"there are {len(boxes)} boxes, but {len(truth)} images with the truth.")
    found = np.zeros(len(boxes))
    for row, (one, true) in enumerate(zip(boxes, truth, strict=True)):
        right = np.asarray(true, float).reshape(-1, 4)
        if not len(right):
            found[row] = np.nan
        elif not np.isnan(one).any():
            found[row] = iou(one[None], right).max()
    return found


def box_accuracy(values: ArrayLike, levels: Sequence[float] = LEVELS) -> Floats:
    """Return the share of images whose IoU reaches each level; images without truth do not count.

    Parameters
    ----------
    values : (n,) float
        As from :func:`best_iou`.
    levels : sequence of float

    Examples
    --------
    >>> box_accuracy([0.4, 0.6, 0.0, float("nan")]).round(2).tolist()
    [0.67, 0.33, 0.0]
    """
    found: Floats = np.asarray(values, float)
    found = found[~np.isnan(found)]
    if not len(found):
        return np.full(len(levels), np.nan)
    return np.array([np.mean(found >= level) for level in levels])


def max_box_accuracy(
    maps: Sequence[ArrayLike],
    sizes: ArrayLike,
    truth: Sequence[ArrayLike],
    *,
    levels: Sequence[float] = LEVELS,
    steps: int = 50,
) -> tuple[Floats, Floats]:
    """Return how many maps give a right box at the one threshold that is best for all of them.

    MaxBoxAccV2 of Choe et al. 2020 ("Evaluating weakly supervised object localization methods
    right"): every map is scaled to [0, 1] and cut at each threshold; every connected part (4
    neighbours) gives a box; an image is right where any of them fits any true box.

    Parameters
    ----------
    maps : sequence of n (h, w) float
    sizes : (n, 2) int
        Height and width in pixels of each image.
    truth : sequence of n (t, 4) arrays
        Images without a true box do not count.
    levels : sequence of float
    steps : int
        Thresholds, evenly from 0 to 1.

    Returns
    -------
    accuracy : (len(levels),) float
        MaxBoxAccV2 is its mean.
    threshold : (len(levels),) float
        The best one for each level.

    Examples
    --------
    >>> map_ = np.zeros((8, 8))
    >>> map_[2:4, 2:6] = 1
    >>> max_box_accuracy([map_], [[16, 16]], [[[4, 4, 12, 8]]])[0].tolist()
    [1.0, 1.0, 1.0]
    """
    thresholds = np.linspace(0, 1, steps, endpoint=False)
    hits, count = np.zeros((len(levels), steps)), 0
    for values, size, true in zip(maps, np.asarray(sizes), truth, strict=True):
        right = np.asarray(true, float).reshape(-1, 4)
        if not len(right):
            continue
        count += 1
        unit = unit_map(values)
        for column, threshold in enumerate(thresholds):
            boxes = component_boxes(unit > threshold, (int(size[0]), int(size[1])))
            if len(boxes):
                hits[:, column] += iou(boxes, right).max() >= np.asarray(levels)
    if not count:
        return np.full(len(levels), np.nan), np.full(len(levels), np.nan)
    best = hits.argmax(axis=1)
    return hits[np.arange(len(levels)), best] / count, thresholds[best]


def pointing(maps: Sequence[ArrayLike], sizes: ArrayLike, truth: Sequence[ArrayLike]) -> Floats:
    """Tell for each map whether its maximum lies inside a true box (the pointing game).

    Returns
    -------
    (n,) float
        1 or 0; NaN where there is no true box. Of several equal maxima the share that hits.

    Examples
    --------
    >>> pointing([[[0, 1], [0, 0]]], [[10, 10]], [[[5, 0, 10, 5]]]).tolist()
    [1.0]
    """
    found = np.full(len(maps), np.nan)
    for row, (values, size, true) in enumerate(zip(maps, np.asarray(sizes), truth, strict=True)):
        right = np.asarray(true, float).reshape(-1, 4)
        array = np.asarray(values, float)
        if not len(right):
            continue
        y, x = np.nonzero(array == array.max())
        y, x = (y + 0.5) * size[0] / array.shape[0], (x + 0.5) * size[1] / array.shape[1]
        inside = (x[:, None] >= right[:, 0]) & (x[:, None] < right[:, 2])
        inside &= (y[:, None] >= right[:, 1]) & (y[:, None] < right[:, 3])
        found[row] = inside.any(axis=1).mean()
    return found


def centre_box(sizes: ArrayLike, share: float) -> Floats:
    """Return the box in the middle of each image whose sides are this share of the image's.

    Examples
    --------
    >>> centre_box([[10, 20]], 0.5).tolist()
    [[5.0, 2.5, 15.0, 7.5]]
    """
    size = np.asarray(sizes, float).reshape(-1, 2)
    height, width = size[:, 0], size[:, 1]
    low, high = (1 - share) / 2, (1 + share) / 2
    return np.stack([low * width, low * height, high * width, high * height], axis=1)


def best_centre_box(sizes: ArrayLike, truth: Sequence[ArrayLike]) -> tuple[float, Floats]:
    """Return the share, in steps of 5%, whose centre boxes fit the truth best, and these boxes.

    It looks at the truth, so it is a baseline that is hard to beat, and no method.
    """
    shares = [round(0.05 * step, 2) for step in range(2, 21)]
    fits = [float(np.nanmean(best_iou(centre_box(sizes, share), truth))) for share in shares]
    share = shares[int(np.argmax(fits))]
    return share, centre_box(sizes, share)


def otsu_box(values: ArrayLike, size: tuple[int, int]) -> Floats:
    """Return the box (4,) of the largest part of a map above its Otsu threshold.

    A map that is the same everywhere says nothing: its box is the whole image.

    Examples
    --------
    >>> map_ = np.zeros((4, 4))
    >>> map_[1:3, 1:3] = 5
    >>> otsu_box(map_, (8, 8)).tolist()
    [2.0, 2.0, 6.0, 6.0]
    """
    array = np.asarray(values, float)
    return mask_box(largest_part(array > otsu(array)), size)


def otsu(values: ArrayLike) -> float:
    """Return the threshold that parts values into two groups of least variance (Otsu 1979).

    Worked out on 256 bins from the least to the largest value; what is above it is foreground.
    Values that are all the same give a threshold below them.

    Examples
    --------
    >>> 1.0 <= otsu([1, 1, 1, 9, 9]) < 9
    True
    """
    flat = np.asarray(values, float).ravel()
    low, high = float(flat.min()), float(flat.max())
    if not high > low:
        return low - 1.0
    counts, edges = np.histogram(flat, bins=_BINS, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    mean_below = np.cumsum(counts * centres)[:-1] / np.maximum(below, 1)
    mean_above = np.cumsum((counts * centres)[::-1])[::-1][1:] / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2
    return float(edges[1 + int(np.argmax(between))])


def largest_part(mask: ArrayLike) -> Bools:
    """Keep the largest connected part of a mask (4 neighbours; the first of equal ones).

    Examples
    --------
    >>> largest_part([[True, False, True], [True, False, False]]).tolist()
    [[True, False, False], [True, False, False]]
    """
    from scipy.ndimage import label

    parts, count = label(np.asarray(mask, bool))
    if count <= 1:
        return np.asarray(parts > 0)
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def mask_box(mask: ArrayLike, size: tuple[int, int]) -> Floats:
    """Return the box (4,) of a mask in pixels of an image of this height and width.

    The mask covers the whole image, at whatever resolution. An empty one gives the whole image.

    Examples
    --------
    >>> mask_box([[False, True], [False, True]], (4, 6)).tolist()
    [3.0, 0.0, 6.0, 4.0]
    """
    inside = np.asarray(mask, bool)
    height, width = size
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return np.array([0.0, 0.0, width, height])
    down, right = height / inside.shape[0], width / inside.shape[1]
    return np.array(
        [
            columns[0] * right,
            rows[0] * down,
            (columns[-1] + 1) * right,
            (rows[-1] + 1) * down,
        ]
    )


def component_boxes(mask: ArrayLike, size: tuple[int, int]) -> Floats:
    """Return the box of every connected part of a mask, (k, 4) in pixels of the image.

    Examples
    --------
    >>> component_boxes([[True, False, True]], (1, 3)).tolist()
    [[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]]
    """
    from scipy.ndimage import find_objects, label

    inside = np.asarray(mask, bool)
    down, right = size[0] / inside.shape[0], size[1] / inside.shape[1]
    found = [
        (x.start * right, y.start * down, x.stop * right, y.stop * down)
        for y, x in find_objects(label(inside)[0])
    ]
    return np.array(found, float).reshape(-1, 4)


def unit_map(values: ArrayLike) -> Floats:
    """Scale a map to [0, 1]; one that is the same everywhere becomes 0.

    Examples
    --------
    >>> unit_map([[1.0, 3.0]]).tolist()
    [[0.0, 1.0]]
    """
    array = np.asarray(values, float)
    if array.ndim != 2 or not array.size:
        raise DataError(f"an activation map must have shape (h, w), got {array.shape}.")
    if not np.isfinite(array).all():
        raise DataError("an activation map must be finite, got nan or inf.")
    low, high = float(array.min()), float(array.max())
    return (array - low) / (high - low) if high > low else np.zeros_like(array)
