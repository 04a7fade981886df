"""A space in which what survives small changes of an image is large, learned without a label.

A label does not change when an image is turned or lit a little differently, so directions in
which an image and its variants lie apart carry nuisance. With W the covariance of that nuisance,
features are mapped so that W becomes white, and each direction that is left is then weighted by
the share of its variance that is not nuisance. A regression with one common penalty then prefers
what outlives the variants: within-class covariance normalisation (Hatch et al. 2006), with every
image as its own class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Part of the mean nuisance variance added to every direction, so that W can be inverted.
SHRINK = 0.03
#: Power of (all variance / nuisance variance) by which a direction is weighted.
POWER = 0.5


@dataclass(frozen=True, eq=False)
class Space:
    """An affine map of features: ``(x - centre) @ map``.

    Parameters
    ----------
    centre : (d,) float
    map : (d, k) float
    """

    centre: Floats
    map: Floats

    def enter(self, x: Floats) -> Floats:
        """Map (n, d) features to (n, k)."""
        return np.asarray((x - self.centre) @ self.map)

    def leave(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Turn weights (K, k) and bias (K,) of this space into those of the features."""
        back = weights @ self.map.T
        return back, bias - back @ self.centre


def plain_space(x: Floats) -> Space:
    """Centre the features and scale them to a mean norm of 10; learn nothing.

    Parameters
    ----------
    x : (n, d) float
    """
    return _scaled(x, x.mean(axis=0), np.eye(x.shape[1]))


def nuisance_space(x: Floats, nuisance: Floats) -> Space:
    """Learn the space from features and the covariance of their nuisance.

    Parameters
    ----------
    x : (n, d) float
        Features of the pool.
    nuisance : (d, d) float
        Mean covariance of an image's variants around their mean.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> x = random.standard_normal((500, 2)) * [1.0, 3.0]
    >>> space = nuisance_space(x, np.diag([0.01, 8.0]))  # column 1 is nearly all nuisance
    >>> entered = space.enter(x)
    >>> bool(abs(np.corrcoef(entered[:, 0], x[:, 0])[0, 1]) > 0.99)
    True
    """
    values, vectors = np.linalg.eigh(nuisance)
    floor = SHRINK * np.trace(nuisance) / len(nuisance)
    whiten = vectors / np.sqrt(np.maximum(values, 0) + floor)
    centre = x.mean(axis=0)
    white = (x - centre) @ whiten
    ratio, directions = np.linalg.eigh(white.T @ white / len(white))
    ratio, directions = ratio[::-1], directions[:, ::-1]
    kept = ratio > 1e-6 * ratio[0]
    return _scaled(x, centre, (whiten @ directions[:, kept]) * ratio[kept] ** POWER)


def _scaled(x: Floats, centre: Floats, matrix: Floats) -> Space:
    """Scale so that rows have a mean norm of 10: penalties then mean the same everywhere."""
    norm = np.sqrt((((x - centre) @ matrix) ** 2).sum(axis=1).mean())
    return Space(centre, matrix * (10 / max(float(norm), 1e-12)))
