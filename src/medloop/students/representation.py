"""Numbers that stand for an image, learned from the pool without a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.engine import map_batches
from medloop.prepare.window import square
from medloop.progress import Progress, silent
from medloop.students.patch_features import PatchFeatures

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
    """

    patches: PatchFeatures
    mean: Floats
    scale: Floats
    projection: Floats

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
        progress : Progress
        """
        from sklearn.decomposition import PCA

        random = np.random.default_rng(seed)
        count = min(SAMPLE, len(dataset))
        chosen = np.sort(random.permutation(len(dataset))[:count])
        sample = dataset[chosen]
        channels = 3 if _has_colour(sample) else 1
        images = _load(sample, size, channels)
        with _one_thread_each():
            patches = PatchFeatures.learn(
                images, patch=patch, grid=grid, n_centroids=n_centroids, seed=seed
            )
            codes = np.empty((count, patches.length), np.float32)
            done = 0
            for batch in map_batches(_encoder(patches), images, batch=_BATCH):
                codes[done : done + len(batch)] = batch
                done += len(batch)
                progress("learning features", done, count)
            mean, scale = codes.mean(axis=0), codes.std(axis=0) + np.float32(1e-6)
            codes = (codes - mean) / scale
            d = min(n_components, count - 1, patches.length)
            pca = PCA(max(d, 1), svd_solver="randomized", random_state=seed).fit(codes)
        projection = np.ascontiguousarray(pca.components_.T, np.float32)
        return Representation(patches, mean, scale, projection)

    def transform(
        self, dataset: Dataset, *, into: Floats | None = None, progress: Progress = silent
    ) -> Floats:
        """Represent every image as a row of (n, d), read and encoded batch by batch.

        ``into`` receives the rows where given, such as a memory-mapped file.
        """
        rows = np.empty((len(dataset), self.dimensions), np.float32) if into is None else into
        size, channels = self.patches.size, self.patches.channels
        encode = _encoder(self.patches)

        def represent(positions: Sequence[int]) -> Floats:
            images = [square(dataset.image(int(i)), size, channels) for i in positions]
            codes = (encode(images) - self.mean) / self.scale
            return np.asarray(codes @ self.projection)

        done = 0
        with _one_thread_each():
            for batch in map_batches(represent, dataset.id.tolist(), batch=_BATCH):
                rows[done : done + len(batch)] = batch
                done += len(batch)
                progress("features", done, len(dataset))
        return rows

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every learned array by name, for safetensors."""
        return {
            "whitening": self.patches.whitening,
            "centroids": self.patches.centroids,
            "mean": self.mean,
            "scale": self.scale,
            "projection": self.projection,
        }

    def settings(self) -> dict[str, int]:
        """Every setting by name, for JSON."""
        return {"size": self.patches.size, "patch": self.patches.patch, "grid": self.patches.grid}

    @staticmethod
    def restore(arrays: dict[str, NDArray[Any]], settings: dict[str, int]) -> Representation:
        """Put ``arrays`` and ``settings`` together again."""
        patches = PatchFeatures(
            settings["size"],
            settings["patch"],
            settings["grid"],
            arrays["whitening"],
            arrays["centroids"],
        )
        return Representation(patches, arrays["mean"], arrays["scale"], arrays["projection"])


def _one_thread_each() -> Any:
    """Keep BLAS and OpenMP to one thread: batches run side by side, and sums keep their order."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _encoder(patches: PatchFeatures) -> Any:
    def encode(images: Sequence[Floats]) -> Floats:
        return np.stack([patches.encode(image) for image in images])

    return encode


def _has_colour(dataset: Dataset) -> bool:
    return any(dataset.image(int(i)).ndim == 3 for i in dataset.id[:64])


def _load(dataset: Dataset, size: int, channels: int) -> list[Floats]:
    def load(ids: Sequence[int]) -> list[Floats]:
        return [square(dataset.image(int(i)), size, channels) for i in ids]

    parts = map_batches(load, dataset.id.tolist(), batch=_BATCH)
    return [image for part in parts for image in part]
