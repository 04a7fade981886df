"""How exactly people place each keypoint, estimated from their labels where nobody measured it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: With fewer complete objects a shape model says nothing; COCO's own sigmas are around this.
_LEAST, _TYPICAL = 20, 0.03
#: The most exact points of COCO are the eyes, .025: nobody can be held to less.
_LOW, _HIGH = 0.025, 0.1
_PENALTY = 1e-3
#: Share of an object's size that is no movement.
_STILL = 1e-6


def estimate_sigmas(keypoints: ArrayLike, area: ArrayLike) -> Floats:
    """Estimate each point's spread from how well the other points of an object predict it.

    Objects are shifted to their mean and scaled by the square root of their area; ridge regression
    predicts each point from all others, and the root of the mean squared error out of sample (by
    leaving one object out, in closed form) is its sigma. That is the part of a point's place that
    the shape does not explain: what people place at will. It lies in [0.025, 0.1].

    Parameters
    ----------
    keypoints : (m, P, 3) float
        Objects whose points are all visible count.
    area : (m,) float
        In square pixels.

    Returns
    -------
    (P,) float
        0.03 for all points where fewer than 20 objects are complete.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> place = np.array([[0, 0], [10, 0], [10, 10], [0, 10.0]])
    >>> noise = random.normal(size=(200, 4, 2)) * [[[0.2], [0.2], [0.2], [0.8]]]
    >>> points = np.concatenate([place + noise, np.full((200, 4, 1), 2.0)], axis=2)
    >>> sigmas = estimate_sigmas(points, np.full(200, 100.0))
    >>> bool(sigmas[3] > 2 * sigmas[1])
    True
    """
    points, size = np.asarray(keypoints, np.float64), np.sqrt(np.asarray(area, np.float64))
    whole = (points[..., 2] > 0).all(axis=1) & (size > 0)
    count = points.shape[1]
    if whole.sum() < _LEAST or count < 3:
        return np.full(count, _TYPICAL)
    xy = points[whole, :, :2]
    xy = (xy - xy.mean(axis=1, keepdims=True)) / size[whole, None, None]
    return np.array([_unexplained(xy, point) for point in range(count)]).clip(_LOW, _HIGH)


def _unexplained(xy: Floats, point: int) -> float:
    """Root mean squared error of one point, predicted from the others, leaving objects out."""
    others = np.delete(xy, point, axis=1)
    # from the mean of the others, so that the point itself moves nothing
    centre = others.mean(axis=1)
    x = (others - centre[:, None]).reshape(len(xy), -1)
    y = xy[:, point] - centre
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    spread = x.T @ x
    # where all objects have one shape, nothing is left to learn from
    strength = _PENALTY * np.trace(spread) / len(x) + _STILL**2
    solved = np.linalg.solve(spread + strength * np.eye(x.shape[1]), x.T)
    own = (np.einsum("ij,ji->i", x, solved) + 1 / len(x)).clip(max=0.99)
    left_out = (y - x @ (solved @ y)) / (1 - own)[:, None]
    return float(np.sqrt((left_out**2).mean()))
