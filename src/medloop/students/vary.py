"""Variants of an image that keep its label: what a student should not care about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ROTATION = 8.0  # degrees either way
ZOOM = 0.1  # log factor
SHIFT = 0.06  # of the side
CONTRAST = 0.3  # log factor, for gamma and for contrast
BRIGHTNESS = 0.1
BLUR = 0.8  # pixels


def vary(image: Floats, random: np.random.Generator) -> Floats:
    """Turn, shift, zoom, brighten and blur an image a little.

    Parameters
    ----------
    image : (h, w, channels) float in [0, 1]
    random : Generator

    Returns
    -------
    (h, w, channels) float in [0, 1]

    Examples
    --------
    >>> vary(np.zeros((8, 8, 1), np.float32), np.random.default_rng(0)).shape
    (8, 8, 1)
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    angle = np.deg2rad(random.uniform(-ROTATION, ROTATION))
    zoom = np.exp(random.uniform(-ZOOM, ZOOM))
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    turn = np.array([[cos, -sin], [sin, cos]])
    sides = np.array(image.shape[:2])
    centre = (sides - 1) / 2
    offset = centre - turn @ (centre + random.uniform(-SHIFT, SHIFT, 2) * sides)
    gamma, gain = np.exp(random.uniform(-CONTRAST, CONTRAST, 2))
    lift = random.uniform(-BRIGHTNESS, BRIGHTNESS)
    blur = random.uniform(0, BLUR) * random.integers(0, 2)
    planes = []
    for plane in np.moveaxis(image, -1, 0):
        moved = affine_transform(plane, turn, offset, order=1, mode="nearest")
        lit = (np.clip(moved, 0, 1) ** gamma - 0.5) * gain + 0.5 + lift
        planes.append(gaussian_filter(lit, blur) if blur > 0.1 else lit)
    return np.asarray(np.clip(np.stack(planes, axis=-1), 0, 1), np.float32)
