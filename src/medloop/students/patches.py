"""The student that needs no download: patch features and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError, UsageError
from medloop.labels import Labels
from medloop.presence import table
from medloop.progress import Progress, silent
from medloop.students.feature_file import (
    Features,
    compute_features,
    fingerprint,
    read_arrays,
    write_arrays,
)
from medloop.students.logistic import Line, fit_line, labels_of
from medloop.students.representation import Representation
from medloop.students.space import Space, nuisance_space, plain_space
from medloop.students.student_file import read_student, write_student

Floats = NDArray[np.float64]

_CHUNK = 4096
#: Rows that a regression learns from at most; it has about 1,000 columns, and more rows change its
#: answer less than they cost in memory.
MOST_ROWS = 8192


@dataclass(frozen=True, eq=False, kw_only=True)
class Patches:
    """Coates-Ng features of the pool, then regularised logistic regression.

    Parameters
    ----------
    size : int
        Images are read at (size, size) pixels.
    patch, grid, n_centroids, n_components : int
        See :class:`medloop.students.representation.Representation`.
    mirror : bool
        An image and its mirror image count as one; not for labels that tell left from right.
    variants : int
        Variants of an image from which ``adapt`` learns what a label does not depend on.
    penalty : float, optional
        Inverse strength of the L2 penalty; chosen by cross-validation over patients where not
        given: by ``settle`` once for all, or else by every ``fit`` anew.
    tau : float
        Strength of the logit adjustment for long tails (Menon et al. 2021); 0 is none.
    temperature : float
        Divides the logits.

    Source: Coates & Ng 2011, "The importance of encoding versus training".
    """

    name: ClassVar[str] = "patches"

    size: int = 64
    patch: int = 6
    grid: int = 4
    n_centroids: int = 400
    n_components: int = 1000
    mirror: bool = True
    variants: int = 4
    penalty: float | None = None
    tau: float = 0.0
    temperature: float = 1.0
    representation: Representation | None = None
    features: Features | None = None
    space: Space | None = None
    line: Line | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        leasts = {
            "size": 8,
            "patch": 2,
            "grid": 1,
            "n_centroids": 2,
            "n_components": 1,
            "variants": 1,
        }
        for name, least in leasts.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{name} must be an int of at least {least}, got {value!r}.")
        if self.size < self.patch * self.grid:
            raise UsageError(
                f"size must be at least patch * grid = {self.patch * self.grid}, got {self.size}."
            )
        if self.tau < 0 or self.temperature <= 0:
            raise UsageError(
                f"tau must be 0 or more and temperature above 0, "
                f"got {self.tau} and {self.temperature}."
            )

    def prepare(self, dataset: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Learn the representation from all images of the pool."""
        learned = Representation.learn(
            dataset,
            size=self.size,
            patch=self.patch,
            grid=self.grid,
            n_centroids=self.n_centroids,
            n_components=self.n_components,
            mirror=self.mirror,
            seed=seed,
            progress=progress,
        )
        return replace(self, representation=learned)

    def remember(
        self, dataset: Dataset, *, folder: Path | None = None, progress: Progress = silent
    ) -> Self:
        """Compute the features of all images once, for every fit and label that follows."""
        known = compute_features(self._learned(), dataset, folder=folder, progress=progress)
        return replace(self, features=known)

    def adapt(
        self,
        dataset: Dataset,
        *,
        seed: int,
        folder: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Learn from the pool what may change in an image without changing its label.

        See :mod:`medloop.students.space`. Takes ``variants`` encodings of at most 2,000 images;
        ``folder`` keeps the result. A student that has adapted already stays as it is.
        """
        if self.space is not None:
            return self
        learned = self._learned()
        path = (
            None if folder is None else folder / f"space-{fingerprint(learned, dataset, seed)}.st"
        )
        arrays = read_arrays(path)
        if arrays is None:
            rows, nuisance = learned.nuisance(
                dataset, variants=self.variants, seed=seed, progress=progress
            )
            space = nuisance_space(rows, nuisance)
            arrays = {"centre": space.centre, "map": space.map}
            write_arrays(path, arrays)
        return replace(self, space=Space(**arrays))

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

        Of more than ``MOST_ROWS`` labels those with the largest weights are learned from, and of
        equal weights a seeded sample.

        Raises
        ------
        DataError
            Fewer than two classes are labelled.
        """
        if len(labels) > MOST_ROWS:
            chosen = _heaviest(len(labels), weight, seed=seed)
            labels, weight = labels[chosen], None if weight is None else weight[chosen]
        labelled = dataset[dataset.position(labels.image)]
        rows = self._rows(labelled)
        space = self.space or plain_space(rows)
        line = fit_line(
            space.enter(rows),
            labels,
            n_classes=len(dataset.classes),
            weight=weight,
            group=labelled.group,
            penalty=self.penalty,
            seed=seed,
        )
        weights, bias = space.leave(line.weights, line.bias)
        line = replace(line, weights=weights, bias=bias)
        return replace(self, line=line, penalty=line.penalty, classes=dataset.classes)

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Label every image, in the order of the data set.

        One label an image with ``probs``; a student that was ``joined`` gives a table, see
        :mod:`medloop.presence`.
        """
        line = self._fitted()
        probs = np.empty((len(dataset), len(line.bias)))
        for start in range(0, len(dataset), _CHUNK):
            part = dataset[start : start + _CHUNK]
            probs[start : start + len(part)] = line.probs(
                self._rows(part, progress), tau=self.tau, temperature=self.temperature
            )
        return table(dataset.id, probs) if line.several else labels_of(dataset, probs)

    def joined(self, parts: Sequence[Self | float], classes: tuple[str, ...]) -> Self:
        """Make one student of those that learned one finding each, in the same features.

        Parameters
        ----------
        parts : sequence of Patches or float
            Fitted to images without (class 0) and with (class 1) their finding; a number stands for
            a finding that nothing was learned of: how often it is there.
        classes : tuple of str
            The findings.
        """
        lines = [part if isinstance(part, float) else part._fitted() for part in parts]
        return replace(self, line=Line.joined(lines), penalty=None, classes=classes)

    def rescaled(self, slope: float, shift: float) -> Self:
        """Return a student of two classes whose logit is multiplied, and then shifted."""
        line = self._fitted()
        bias = line.bias * slope + np.array([0.0, shift])
        return replace(self, line=replace(line, weights=line.weights * slope, bias=bias))

    def calibrated(self, temperature: Floats) -> Self:
        """Divide the logits of each finding by a temperature of its own, (K,)."""
        line = self._fitted()
        divided = replace(
            line, weights=line.weights / temperature[:, None], bias=line.bias / temperature
        )
        return replace(self, line=divided)

    def embed(self, dataset: Dataset) -> Floats:
        """Return (n, d) features in the space that was learned, where distances mean something."""
        rows = self._rows(dataset)
        return (self.space or plain_space(rows)).enter(rows)

    def _fitted(self) -> Line:
        if self.line is None:
            raise DataError("this student has not been fitted yet.")
        return self.line

    def _learned(self) -> Representation:
        if self.representation is None:
            raise DataError("this student has not seen a pool yet: call prepare first.")
        return self.representation

    def _rows(self, dataset: Dataset, progress: Progress = silent) -> Floats:
        if self.features is not None and self.features.holds(dataset.id):
            return self.features.of(dataset.id).astype(float)
        return self._learned().transform(dataset, progress=progress).astype(float)

    def _settings(self) -> dict[str, Any]:
        arrays = ("representation", "features", "space", "line", "classes")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays}

    def with_temperature(self, temperature: float) -> Self:
        """Return the same student with another temperature."""
        return replace(self, temperature=temperature)

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``student.json``."""
        learned = self._learned()
        arrays = learned.arrays() | ({} if self.line is None else self.line.arrays())
        about = {"student": self.name, "classes": list(self.classes), "settings": self._settings()}
        write_student(folder, arrays, about)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        DataError
            A file is missing or broken.
        """
        with read_student(folder) as (about, arrays):
            settings = about["settings"]
            return cls(
                **settings,
                classes=tuple(about["classes"]),
                representation=Representation.restore(arrays, settings),
                line=Line.restore(arrays, settings["penalty"]),
            )


def _heaviest(n: int, weight: Floats | None, *, seed: int) -> NDArray[np.int64]:
    """Choose ``MOST_ROWS`` of n rows, the heaviest first and ties at random; in their order."""
    random = np.random.default_rng(seed).random(n)
    order = np.lexsort((random, np.zeros(n) if weight is None else -weight))
    return np.sort(order[:MOST_ROWS])
