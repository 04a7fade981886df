"""Features of small patches, learned from unlabelled images (Coates & Ng 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError

Floats = NDArray[np.float32]

#: Added to the variance of a patch, so that flat patches are not blown up to noise: the 10 of
#: Coates & Ng for grey levels up to 255.
_CONTRAST = 10 / 255**2
#: Added to the variance of each whitened direction.
_WHITEN = 0.1
#: Keeps squared distances above zero whatever the rounding.
_ABOVE_ZERO = 1e-3


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Distances of every patch to k learned centroids, summed over a grid of cells.

    Each patch x is normalised in contrast and whitened (ZCA); with z_j its distance to centroid
    j, its code is ``max(0, mean(z) - z_j)``, the "triangle" encoding. Codes are averaged over the
    patches of each of ``grid * grid`` cells.

    Parameters
    ----------
    size : int
        Images are (size, size, channels).
    patch : int
        Side of a patch in pixels.
    grid : int
        Cells along a side.
    whitening : (p, p) float, p = patch * patch * channels
    centroids : (k, p) float
    """

    size: int
    patch: int
    grid: int
    whitening: Floats
    centroids: Floats

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.whitening) // (self.patch * self.patch)

    @property
    def length(self) -> int:
        """Number of features of an image."""
        return self.grid * self.grid * len(self.centroids)

    @staticmethod
    def learn(
        images: Sequence[Floats], *, patch: int, grid: int, n_centroids: int, seed: int
    ) -> PatchFeatures:
        """Learn the whitening and the centroids from a sample of images.

        Parameters
        ----------
        images : sequence of (size, size, channels) float in [0, 1]
        patch, grid, n_centroids, seed : int

        Raises
        ------
        DataError
            There is no image, or none has any contrast.
        """
        from sklearn.cluster import MiniBatchKMeans

        if not len(images):
            raise DataError("patch features need at least one image.")
        random = np.random.default_rng(seed)
        each = max(1, 200_000 // len(images))
        patches = np.concatenate([_sample(image, patch, each, random) for image in images])
        patches = _normalise(patches[patches.std(axis=1) > 1e-4])
        if len(patches) < 2 * patches.shape[1]:
            raise DataError("patch features need images with some contrast.")
        values, vectors = np.linalg.eigh(np.cov(patches.T))
        whitening = (vectors / np.sqrt(np.maximum(values, 0) + _WHITEN)) @ vectors.T
        whitening = whitening.astype(np.float32)
        k = min(n_centroids, len(patches) // 4)
        means = MiniBatchKMeans(k, random_state=seed, n_init=1, batch_size=8192, max_iter=30)
        means.fit(patches @ whitening)
        centroids = means.cluster_centers_.astype(np.float32)
        return PatchFeatures(images[0].shape[0], patch, grid, whitening, centroids)

    def encode(self, image: Floats) -> Floats:
        """Encode one (size, size, channels) image in [0, 1] as (grid * grid * k,) features.

        The work goes cell by cell, so that the (patches, k) distances of one cell stay in the
        processor's cache between the matrix product that makes them and the sum that eats them.
        """
        p, n = self.patch, self.size - self.patch + 1
        k = len(self.centroids)
        whitening, product = self._whitening, self._product
        window = np.lib.stride_tricks.sliding_window_view(image, (p, p), axis=(0, 1))
        inverse = _inverse_contrast(image, p)
        edges = np.linspace(0, n, self.grid + 1).round().astype(int)
        side = int(np.diff(edges).max())
        columns = len(self.whitening)
        points = np.empty((side * side, columns + 2), np.float32)
        points[:, -1] = 1
        distance = np.empty((side * side, k), np.float32)
        ones, share = np.ones(side * side, np.float32), np.full(k, 1 / k, np.float32)
        features = np.empty((self.grid * self.grid, k), np.float32)
        for cell in range(self.grid * self.grid):
            row, column = divmod(cell, self.grid)
            here = np.s_[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
            block = window[here]
            m = block.shape[0] * block.shape[1]
            y, z = points[:m], distance[:m]
            white = y[:, :columns]
            np.matmul(block.reshape(m, columns), whitening, out=white)
            white *= inverse[here].reshape(m, 1)
            np.einsum("ij,ij->i", white, white, out=y[:, columns])
            np.matmul(y, product, out=z)
            np.sqrt(z, out=z)
            average = z @ share
            np.minimum(z, average[:, None], out=z)
            features[cell] = (average.sum() - ones[:m] @ z) / np.float32(m)
        return features.ravel()

    @cached_property
    def _whitening(self) -> Floats:
        """Whitening that also takes the mean of a patch away: (I - 11'/p) W."""
        return np.asarray(self.whitening - self.whitening.mean(axis=0), np.float32)

    @cached_property
    def _product(self) -> Floats:
        """Matrix that turns (white patch, its squared norm, 1) into squared distances."""
        norms = (self.centroids**2).sum(axis=1) + np.float32(_ABOVE_ZERO)
        ones = np.ones_like(norms)
        return np.concatenate([-2 * self.centroids.T, ones[None], norms[None]])


def _sample(image: Floats, patch: int, count: int, random: np.random.Generator) -> Floats:
    window = np.lib.stride_tricks.sliding_window_view(image, (patch, patch), axis=(0, 1))
    rows = random.integers(0, window.shape[0], count)
    columns = random.integers(0, window.shape[1], count)
    return np.ascontiguousarray(window[rows, columns]).reshape(count, -1)


def _normalise(patches: Floats) -> Floats:
    centred = patches - patches.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + _CONTRAST))


def _inverse_contrast(image: Floats, patch: int) -> Floats:
    """One over the standard deviation of every patch, (n, n); sums over windows as products."""
    size, count = image.shape[0], patch * patch * image.shape[2]
    offset = np.arange(size) - np.arange(size - patch + 1)[:, None]
    window = ((offset >= 0) & (offset < patch)).astype(np.float32)
    mean = window @ image.sum(axis=2) @ window.T / np.float32(count)
    square = window @ np.einsum("ijc,ijc->ij", image, image) @ window.T / np.float32(count)
    variance = np.maximum(square - mean * mean, 0)
    return np.asarray(1 / np.sqrt(variance + np.float32(_CONTRAST)))
