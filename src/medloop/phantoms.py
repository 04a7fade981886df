"""Generated images for demonstrations and tests: round and spiculated masses in speckle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = ("round", "spiculated")


@dataclass(frozen=True, eq=False)
class Phantoms:
    """Images of two classes; every patient has two, of one class.

    Parameters
    ----------
    images : (n, size, size) uint8
    class_id, patient : (n,) int
    """

    images: NDArray[np.uint8]
    class_id: NDArray[np.int64]
    patient: NDArray[np.int64]


def draw_phantoms(n: int, *, size: int = 48, seed: int = 0) -> Phantoms:
    """Draw n phantoms: a dark mass in speckle, with a smooth or a spiculated border.

    Examples
    --------
    >>> phantoms = draw_phantoms(4, size=32)
    >>> phantoms.images.shape, phantoms.patient.tolist()
    ((4, 32, 32), [0, 0, 1, 1])
    """
    patient = np.arange(n) // 2
    class_id = np.random.default_rng(seed).permutation(int(n / 2 + 1) + 1)[patient] % 2
    images = np.stack(
        [_mass(int(class_id[i]), size, np.random.default_rng((seed, i))) for i in range(n)]
    )
    return Phantoms(images, class_id, patient)


def _mass(class_id: int, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    cx, cy = random.uniform(-0.25, 0.25, 2)
    angle = np.arctan2(y - cy, x - cx)
    radius = random.uniform(0.4, 0.6)
    spikes = random.uniform(0.2, 0.4) if class_id else random.uniform(0, 0.12)
    lobes = random.integers(7, 11) if class_id else random.integers(2, 4)
    edge = radius * (1 + spikes * np.sin(lobes * angle + random.uniform(0, 6)))
    inside = 1 / (1 + np.exp((np.hypot(x - cx, (y - cy) * 1.2) - edge) * 25))
    tissue = 0.6 + 0.1 * random.standard_normal() * x + 0.08 * np.sin(3 * y + random.uniform(0, 6))
    speckle = 0.7 + 0.3 * random.rayleigh(0.8, (size, size))
    image = (tissue * (1 - inside) + 0.22 * inside) * speckle * random.uniform(0.8, 1.2)
    return np.asarray(np.clip(image, 0, 1) * 255, np.uint8)
