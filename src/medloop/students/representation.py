"""Numbers that stand for an image, learned from the pool without a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.engine import map_batches
from medloop.engine.threads import one_thread
from medloop.prepare.window import square
from medloop.progress import Progress, silent
from medloop.students.patch_features import PatchFeatures
from medloop.students.vary import vary

Floats = NDArray[np.float32]

#: Images from which dictionary and projection are learned; more change nothing that matters.
SAMPLE = 2000
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Representation:
    """Patch features, standardised and projected on their principal components.

    Parameters
    ----------
    patches : PatchFeatures
    mean, scale : (length,) float
    projection : (length, d) float
    mirror : bool
        Average the features of an image and of its mirror image.
    """

    patches: PatchFeatures
    mean: Floats
    scale: Floats
    projection: Floats
    mirror: bool

    @property
    def dimensions(self) -> int:
        """Length d of what ``transform`` returns for an image."""
        return int(self.projection.shape[1])

    @staticmethod
    def learn(
        dataset: Dataset,
        *,
        size: int,
        patch: int,
        grid: int,
        n_centroids: int,
        n_components: int,
        mirror: bool,
        seed: int,
        progress: Progress = silent,
    ) -> Representation:
        """Learn from a seeded sample of at most ``SAMPLE`` images.

        Parameters
        ----------
        dataset : Dataset
            The pool: images of the training split, labelled or not.
        size, patch : int
            Sides of an image and of a patch in pixels.
        grid, n_centroids, n_components, seed : int
        mirror : bool
        progress : Progress
        """
        sample = _sample(dataset, seed)
        images = _load(sample, size, 3 if _has_colour(sample) else 1)
        with one_thread():
            patches = PatchFeatures.learn(
                images, patch=patch, grid=grid, n_centroids=n_centroids, seed=seed
            )
            codes = np.empty((len(images), patches.length), np.float32)
            done = 0
            for batch in map_batches(_encoder(patches, mirror), images, batch=_BATCH):
                codes[done : done + len(batch)] = batch
                done += len(batch)
                progress("learning features", done, len(images))
            mean = codes.mean(axis=0)
            scale = codes.std(axis=0) + np.float32(1e-6) * codes.std() + np.float32(1e-12)
            projection = principal((codes - mean) / scale, n_components)
        return Representation(patches, mean, scale, projection, mirror)

    def nuisance(
        self, dataset: Dataset, *, variants: int, seed: int, progress: Progress = silent
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Represent a sample of images, and how they scatter when they are varied a little.

        Parameters
        ----------
        dataset : Dataset
            The pool.
        variants : int
            Variants of each of at most ``SAMPLE`` images.
        seed : int
        progress : Progress

        Returns
        -------
        rows : (n, d) float
        nuisance : (d, d) float
            Mean covariance of an image and its variants around their mean.
        """
        sample = _sample(dataset, seed)
        size, channels = self.patches.size, self.patches.channels
        encode = _encoder(self.patches, self.mirror)

        def scatter(ids: Sequence[int]) -> tuple[Floats, NDArray[np.float64]]:
            total = np.zeros((self.dimensions, self.dimensions))
            rows = []
            for image_id in ids:
                image = square(sample.image(image_id), size, channels)
                # One stream an image, so that batches and threads change nothing.
                random = np.random.default_rng((seed, image_id))
                both = [image, *(vary(image, random) for _ in range(variants))]
                x = self._project(encode(both))
                rows.append(x[0])
                apart = x - x.mean(axis=0)
                total += apart.T @ apart
            return np.stack(rows), total

        parts, total, done = [], np.zeros((self.dimensions, self.dimensions)), 0
        with one_thread():
            for rows, part in map_batches(scatter, sample.id.tolist(), batch=_BATCH):
                parts.append(rows)
                total += part
                done += len(rows)
                progress("learning variants", done, len(sample))
        return np.concatenate(parts).astype(np.float64), total / (done * variants)

    def transform(
        self, dataset: Dataset, *, into: Floats | None = None, progress: Progress = silent
    ) -> Floats:
        """Represent every image as a row of (n, d), read and encoded batch by batch.

        ``into`` receives the rows where given, such as a memory-mapped file.
        """
        rows = np.empty((len(dataset), self.dimensions), np.float32) if into is None else into
        size, channels = self.patches.size, self.patches.channels
        encode = _encoder(self.patches, self.mirror)

        def represent(ids: Sequence[int]) -> Floats:
            return self._project(encode([square(dataset.image(i), size, channels) for i in ids]))

        done = 0
        with one_thread():
            for batch in map_batches(represent, dataset.id.tolist(), batch=_BATCH):
                rows[done : done + len(batch)] = batch
                done += len(batch)
                progress("features", done, len(dataset))
        return rows

    def _project(self, codes: Floats) -> Floats:
        # in double precision: an image gets the same features alone and among others
        scaled = ((codes - self.mean) / self.scale).astype(np.float64)
        return np.asarray((scaled @ self.projection.astype(np.float64)).astype(np.float32))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every learned array by name, for safetensors."""
        return {
            "whitening": self.patches.whitening,
            "centroids": self.patches.centroids,
            "mean": self.mean,
            "scale": self.scale,
            "projection": self.projection,
        }

    def settings(self) -> dict[str, int | bool]:
        """Every setting by name, for JSON."""
        return {
            "size": self.patches.size,
            "patch": self.patches.patch,
            "grid": self.patches.grid,
            "mirror": self.mirror,
        }

    @staticmethod
    def restore(arrays: dict[str, NDArray[Any]], settings: dict[str, Any]) -> Representation:
        """Put ``arrays`` and ``settings`` together again."""
        patches = PatchFeatures(
            settings["size"],
            settings["patch"],
            settings["grid"],
            arrays["whitening"],
            arrays["centroids"],
        )
        return Representation(
            patches,
            arrays["mean"],
            arrays["scale"],
            arrays["projection"],
            settings["mirror"],
        )


def principal(x: Floats, most: int) -> Floats:
    """Return the leading principal directions of centred rows, as columns (length, d).

    Worked out from the (n, n) matrix of inner products: here n is at most ``SAMPLE``, and
    features are many more.
    """
    values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
    values, vectors = values[::-1][:most], vectors[:, ::-1][:, :most]
    kept = values > 1e-6 * max(float(values[0]), 1e-12)
    directions = x.T.astype(np.float64) @ (vectors[:, kept] / np.sqrt(values[kept]))
    return np.ascontiguousarray(directions, np.float32)


def _sample(dataset: Dataset, seed: int) -> Dataset:
    count = min(SAMPLE, len(dataset))
    return dataset[np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count])]


def _encoder(patches: PatchFeatures, mirror: bool) -> Callable[[Sequence[Floats]], Floats]:
    def encode(images: Sequence[Floats]) -> Floats:
        codes = np.stack([patches.encode(image) for image in images])
        if mirror:
            codes += np.stack([patches.encode(image[:, ::-1]) for image in images])
            codes /= 2
        return codes

    return encode


def _has_colour(dataset: Dataset) -> bool:
    return any(dataset.image(int(i)).ndim == 3 for i in dataset.id[:64])


def _load(dataset: Dataset, size: int, channels: int) -> list[Floats]:
    def load(ids: Sequence[int]) -> list[Floats]:
        return [square(dataset.image(int(i)), size, channels) for i in ids]

    parts = map_batches(load, dataset.id.tolist(), batch=_BATCH)
    return [image for part in parts for image in part]
