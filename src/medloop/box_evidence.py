"""Evidence that boxes lie right, where nobody has drawn any: they stand out from what is beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.engine.threads import one_thread
from medloop.errors import DataError
from medloop.overlap import area
from medloop.prepare.split import group_folds
from medloop.proposals.proposal import Masks
from medloop.region_ranking import CONTENT, plain_ranking, region_features

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Longer side in pixels at which boxes are looked at.
_SIDE = 128
#: By how much of its sides a box is moved.
MOVES = ((-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5))
_FOLDS = 5
#: Penalty of the regression, a box.
_STRENGTH = 0.05


def standing_out(
    images: Callable[[int], Any], boxes: ArrayLike, group: ArrayLike, *, seed: int = 0
) -> Floats:
    """Tell how well each box can be told from the same box a little beside it.

    A quadratic regression learns from the boxes of other patients how the content of a box looks
    beside that of the box moved by half of its width or height: lightness, spread, colours, edges
    and surroundings, but neither place nor size. Boxes that lie right have something in common
    that is not there half a box away. Those that went astray, are far too large, or cut through
    things, have not: 0.5 is chance, 1 is perfect.

    It compares boxes of one way of finding them. What all boxes have in common it cannot see: a
    small box inside every thing, or one a little to the left of it, may stand out as well as one
    around it.

    Parameters
    ----------
    images : callable
        From the row of a box to the pixels of its image as stored.
    boxes : (n, 4) float
        ``x0, y0, x1, y1`` in pixels, one an image; a row of zeros or NaN is none.
    group : (n,) int
        Patient of each image.
    seed : int
        Of the folds of patients.

    Returns
    -------
    (n,) float
        Share of the moved boxes that look less like a box than it does, by a regression that has
        not seen the patient; 0.5 where there is no box.

    Raises
    ------
    DataError
        All boxes are of one patient.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> corner = random.integers(0, 20, (24, 2)).astype(float)
    >>> box = np.concatenate([corner, corner + random.integers(8, 12, (24, 2))], axis=1)
    >>> pixels = random.integers(0, 60, (24, 32, 32)).astype(np.uint8)
    >>> for image, (x0, y0, x1, y1) in zip(pixels, box.astype(int), strict=True):
    ...     image[y0:y1, x0:x1] += 150
    >>> right = standing_out(pixels.__getitem__, box, np.arange(24))
    >>> astray = standing_out(pixels.__getitem__, box[::-1], np.arange(24))
    >>> bool(right.mean() > 0.9 and astray.mean() < 0.8)
    True
    """
    given: Floats = np.nan_to_num(np.asarray(boxes, float).reshape(-1, 4))
    patient = np.asarray(group)
    there = np.flatnonzero(area(given) > 0)
    found = np.full(len(given), 0.5)
    if not len(there):
        return found
    count = min(_FOLDS, len(np.unique(patient[there])))
    if count < 2:
        raise DataError("boxes of one patient alone cannot be judged by those of others.")
    looks = np.stack([looks_of(images(int(row)), given[row]) for row in there])
    fold = group_folds(np.zeros(len(there), np.int64), patient[there], folds=count, seed=seed)
    target = np.zeros(looks.shape[1])
    target[0] = 1.0
    with one_thread():
        for held_out in np.unique(fold):
            own = fold == held_out
            taught = np.concatenate(looks[~own])
            ranking = plain_ranking(
                taught, np.tile(target, int((~own).sum())), strength=_STRENGTH * len(taught)
            )
            for row in np.flatnonzero(own):
                said = ranking.expect(looks[row])
                found[there[row]] = np.mean((said[0] > said[1:]) + 0.5 * (said[0] == said[1:]))
    return found


def looks_of(image: NDArray[Any], box: Floats) -> Floats:
    """Describe what a box and the moved ones hold, (1 + len(MOVES), f)."""
    height, width = image.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    h, w = max(1, round(height * factor)), max(1, round(width * factor))
    all_of = moved(box, (height, width)) * np.array([w / width, h / height] * 2)
    x, y = np.arange(w) + 0.5, np.arange(h) + 0.5
    x0, y0, x1, y1 = all_of.T[:, :, None]
    across, down = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    # a box between two pixels holds the one that its middle lies in
    middle = np.clip(all_of[:, :2] + all_of[:, 2:], 0, 2 * np.array([w, h]) - 1) // 2
    for there, at in ((across, middle[:, 0]), (down, middle[:, 1])):
        there[~there.any(axis=1), at.astype(int)[~there.any(axis=1)]] = True
    masks = Masks(masks=down[:, :, None] & across[:, None, :], size=(height, width))
    return region_features(np.zeros((h, w), np.float32), masks, image)[:, CONTENT]


def moved(box: ArrayLike, size: tuple[int, int]) -> Floats:
    """Return a box, and it moved by half its sides, never out of the image, (1 + len(MOVES), 4).

    Examples
    --------
    >>> moved([0, 4, 10, 10], (20, 40)).tolist()[1:]
    [[0.0, 4.0, 10.0, 10.0], [5.0, 4.0, 15.0, 10.0], [0.0, 1.0, 10.0, 7.0], [0.0, 7.0, 10.0, 13.0]]
    """
    x0, y0, x1, y1 = (float(v) for v in np.asarray(box, float))
    height, width = size
    made = []
    for across, down in ((0.0, 0.0), *MOVES):
        dx = np.clip(across * (x1 - x0), min(-x0, 0), max(width - x1, 0))
        dy = np.clip(down * (y1 - y0), min(-y0, 0), max(height - y1, 0))
        made.append([x0 + dx, y0 + dy, x1 + dx, y1 + dy])
    return np.array(made)
