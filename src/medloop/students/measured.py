"""A student that tells classes by what can be measured of a frame's quality."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.engine import map_batches
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.prepare.quality import FEATURES
from medloop.progress import Progress, silent
from medloop.students.feature_file import Features, compute_features
from medloop.students.logistic import Line, fit_line, labels_of

Floats = NDArray[np.float64]
_BATCH = 32
#: What lies so many spreads out says no more by lying further.
_FAR = 6.0


class Measures:
    """Turns images into rows of :func:`medloop.prepare.quality.measure`; learns nothing."""

    dimensions = len(FEATURES)

    def transform(
        self,
        dataset: Dataset,
        *,
        into: NDArray[np.float32] | None = None,
        progress: Progress = silent,
    ) -> NDArray[np.float32]:
        """Return (n, 15) measures, in the order of the data set."""
        from medloop.prepare.quality import measure_all

        rows = np.empty((len(dataset), self.dimensions), np.float32) if into is None else into

        def look(ids: Sequence[int]) -> Floats:
            return measure_all(dataset.image(int(i)) for i in ids)

        done = 0
        for part in map_batches(look, dataset.id.tolist(), batch=_BATCH):
            rows[done : done + len(part)] = part
            done += len(part)
            progress("measuring frames", done, len(dataset))
        return rows

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return nothing: nothing is learned."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Name what is measured."""
        return {"measures": list(FEATURES)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """Logistic regression on measures of quality and their squares.

    Parameters
    ----------
    penalty : float, optional
        Inverse strength of the L2 penalty; chosen by cross-validation over patients where not
        given.
    temperature : float
        Divides the logits.
    """

    name: ClassVar[str] = "measured"

    penalty: float | None = None
    temperature: float = 1.0
    features: Features | None = None
    line: Line | None = None
    space: tuple[Floats, Floats] | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UsageError(f"temperature must be above 0, got {self.temperature}.")

    def prepare(self, dataset: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Return itself: what is measured is not learned."""
        return self

    def remember(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Measure all frames once."""
        found = compute_features(Measures(), dataset, folder=folder, progress=progress)
        return replace(self, features=found)

    def adapt(
        self,
        dataset: Dataset,
        *,
        seed: int,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Return itself: blur and light are what it measures, not what it should overlook."""
        return self

    def settle(self, dataset: Dataset, labels: Labels, *, seed: int) -> Self:
        """Choose the penalty from these labels, once for all fits; one that is given stays."""
        if self.penalty is not None:
            return self
        return replace(self, penalty=self.fit(dataset, labels, seed=seed).penalty)

    def fit(
        self,
        dataset: Dataset,
        labels: Labels,
        *,
        weight: Floats | None = None,
        seed: int,
        progress: Progress = silent,
    ) -> Self:
        """Fit the regression to one label an image, or to its probabilities.

        Raises
        ------
        DataError
            Fewer than two classes are labelled.
        """
        labelled = dataset[dataset.position(labels.image)]
        rows = self._rows(labelled, progress)
        space = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        line = fit_line(
            wide(rows, *space),
            labels,
            n_classes=len(dataset.classes),
            weight=weight,
            group=labelled.group,
            penalty=self.penalty,
            seed=seed,
        )
        return replace(self, line=line, space=space, penalty=line.penalty, classes=dataset.classes)

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Label every image, in the order of the data set."""
        if self.line is None or self.space is None:
            raise DataError("this student has not been fitted yet.")
        rows = wide(self._rows(dataset, progress), *self.space)
        return labels_of(dataset, self.line.probs(rows, tau=0.0, temperature=self.temperature))

    def embed(self, dataset: Dataset) -> Floats:
        """Return (n, 15) measures."""
        return self._rows(dataset, silent)

    def with_temperature(self, temperature: float) -> Self:
        """Return the same student with another temperature."""
        return replace(self, temperature=temperature)

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``student.json``."""
        from safetensors.numpy import save

        from medloop.store.files import write_atomic, write_json

        if self.line is None or self.space is None:
            raise UsageError("student 'measured' is not fitted; there is nothing to save.")
        arrays = self.line.arrays() | {"mean": self.space[0], "spread": self.space[1]}
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "weights.safetensors", save(arrays))
        settings = {"penalty": self.penalty, "temperature": self.temperature}
        about = {"student": self.name, "classes": list(self.classes), "settings": settings}
        write_json(folder / "student.json", about)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        DataError
            A file is missing or broken.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            about = json.loads((folder / "student.json").read_text())
            arrays = load((folder / "weights.safetensors").read_bytes())
            settings = {f.name: about["settings"][f.name] for f in fields(cls)[:2]}
            return cls(
                **settings,
                classes=tuple(about["classes"]),
                line=Line.restore(arrays, settings["penalty"]),
                space=(arrays["mean"], arrays["spread"]),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{folder} holds no readable student: {error}.") from None

    def _rows(self, dataset: Dataset, progress: Progress) -> Floats:
        if self.features is not None and self.features.holds(dataset.id):
            return self.features.of(dataset.id).astype(float)
        return Measures().transform(dataset, progress=progress).astype(float)


def wide(rows: Floats, mean: Floats, spread: Floats) -> Floats:
    """Standardise measures, tame what lies far out, and add squares.

    Examples
    --------
    >>> wide(np.array([[3.0]]), np.array([1.0]), np.array([1.0])).tolist()
    [[2.0, 1.3333333333333333]]
    """
    x = np.clip((rows - mean) / spread, -_FAR, _FAR)
    return np.concatenate([x, x * x / 3], axis=1)
