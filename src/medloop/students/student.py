"""The protocol of a student: a labeler that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.labels import Labels
from medloop.progress import Progress, silent


class Model(Protocol):
    """Labels images, and can be kept. Methods return; nothing is kept between calls.

    ``temperature`` divides the logits of every image that is labelled; it is 1 until
    :func:`medloop.students.calibration.fit_temperature` has been asked for a better one.
    """

    @property
    def name(self) -> str:
        """Name by which it is asked for."""
        ...

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        ...

    def with_temperature(self, temperature: float) -> Self:
        """Return the same model with another temperature."""
        ...

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Return one row an image, in the order of the data set, with ``probs`` (n, K)."""
        ...

    def save(self, folder: Path) -> None:
        """Write safetensors and JSON into a folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote."""
        ...


class Student(Model, Protocol):
    """A model that learns."""

    def prepare(self, dataset: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Learn what needs no label, from all images of the pool."""
        ...

    def remember(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Compute once what every fit and label needs again; ``folder`` keeps it on disk."""
        ...

    def adapt(
        self,
        dataset: Dataset,
        *,
        seed: int,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Learn from the pool what may change in an image without changing its label."""
        ...

    def settle(self, dataset: Dataset, labels: Labels, *, seed: int) -> Self:
        """Choose once, by cross-validation over patients, what every later fit then keeps."""
        ...

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: NDArray[np.float64] | None = None,
        seed: int,
        progress: Progress = silent,
    ) -> Self:
        """Learn from one label an image; from its ``probs`` where the table has them.

        ``weight`` is (m,), aligned with ``labels``; all ones where not given.
        """
        ...


class Untaught:
    """What students need not do before they are fitted that vary their images while they train."""

    def prepare(self, dataset: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Return itself: nothing is learned without labels."""
        return self

    def remember(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Return itself: every fit varies the pixels anew, so nothing can be computed once."""
        return self

    def adapt(
        self,
        dataset: Dataset,
        *,
        seed: int,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Return itself: it varies its images while it trains."""
        return self

    def settle(self, dataset: Dataset, labels: Labels, *, seed: int) -> Self:
        """Return itself: nothing is chosen by cross-validation, which would cost many fits."""
        return self
