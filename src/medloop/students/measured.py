"""A student that tells good frames from bad by what can be measured of their quality.

A regression knows the ways of being bad that it was shown, and no others: a frame behind smoke has
no blur, and is called good. So a frame is as bad as the worse of two scores says: the regression's,
and how unlike the good frames it is (the Mahalanobis distance of its measures), each in spreads of
good frames.
"""

from __future__ import annotations

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
from medloop.students.student_file import read_student, write_student

Floats = NDArray[np.float64]
_BATCH = 32
#: What lies so many spreads out says no more by lying further.
_FAR = 6.0
#: The class that all others are unlike.
_GOOD = "good"
#: Of the last step, which only turns a score into a probability.
_LOOSE = 10.0
_LEAST_GOOD = 5


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


@dataclass(frozen=True, eq=False)
class Unlike:
    """How unlike the good frames a frame is, and how that is joined with a regression's score.

    Parameters
    ----------
    centre : (15,) float
        Of the standardised measures of good frames.
    precision : (15, 15) float
        Inverse of their covariance, shrunk (Ledoit & Wolf 2004).
    levels : (2, 2) float
        Median and spread over good frames: of the regression's logit, and of the log distance.
    last : Line
        From the larger of both to probabilities.
    """

    centre: Floats
    precision: Floats
    levels: Floats
    last: Line

    def scores(self, x: Floats, logit: Floats) -> Floats:
        """Return (n, 1) the larger of both scores of standardised measures and logits."""
        both = np.stack([logit, self.distance(x)], axis=1)
        apart: Floats = (both - self.levels[0]) / self.levels[1]
        return np.asarray(apart.max(axis=1, keepdims=True))

    def distance(self, x: Floats) -> Floats:
        """Return (n,) the log of the Mahalanobis distance to the good frames."""
        away = x - self.centre
        return np.asarray(np.log(np.einsum("ij,jk,ik->i", away, self.precision, away) + 1e-6))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name, for safetensors."""
        last = {f"last_{name}": values for name, values in self.last.arrays().items()}
        own = {"centre": self.centre, "precision": self.precision, "levels": self.levels}
        return {f"unlike_{name}": values for name, values in own.items()} | last

    @staticmethod
    def restore(arrays: dict[str, NDArray[Any]]) -> Unlike | None:
        """Put ``arrays`` together again; None where they hold none."""
        if "unlike_centre" not in arrays:
            return None
        return Unlike(
            centre=arrays["unlike_centre"],
            precision=arrays["unlike_precision"],
            levels=arrays["unlike_levels"],
            last=Line(arrays["last_weights"], arrays["last_bias"], arrays["last_prior"], _LOOSE),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """Logistic regression on measures of quality and their squares, and unlikeness to good frames.

    Unlikeness counts where there are two classes and one of them is called "good".

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
    unlike: Unlike | None = None
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
        made = replace(
            self,
            line=line,
            space=space,
            unlike=None,
            penalty=line.penalty,
            classes=dataset.classes,
        )
        return replace(made, unlike=made._unlike(rows, labelled, labels, weight, seed))

    def _unlike(
        self,
        rows: Floats,
        dataset: Dataset,
        labels: Labels,
        weight: Floats | None,
        seed: int,
    ) -> Unlike | None:
        """Learn what good frames are like."""
        if len(self.classes) != 2 or _GOOD not in self.classes:
            return None
        is_good = labels.class_id == self.classes.index(_GOOD)
        if is_good.sum() < _LEAST_GOOD:
            return None
        from sklearn.covariance import LedoitWolf

        x, logit = self._standard(rows), self._logit(rows)
        cover = LedoitWolf().fit(x[is_good])
        ends = np.array([[0.0, 0.0], [1.0, 1.0]])
        prior = Line(np.zeros((2, 1)), np.zeros(2), np.zeros(2), _LOOSE)
        made = Unlike(np.asarray(cover.location_), np.asarray(cover.precision_), ends, prior)
        both = np.stack([logit, made.distance(x)], axis=1)[is_good]
        made = replace(made, levels=np.stack([np.median(both, axis=0), both.std(axis=0) + 1e-6]))
        last = fit_line(
            made.scores(x, logit),
            labels,
            n_classes=2,
            weight=weight,
            group=dataset.group,
            penalty=_LOOSE,
            seed=seed,
        )
        return replace(made, last=last)

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Label every image, in the order of the data set."""
        if self.line is None or self.space is None:
            raise DataError("this student has not been fitted yet.")
        rows = self._rows(dataset, progress)
        if self.unlike is None:
            line, x = self.line, wide(rows, *self.space)
        else:
            line = self.unlike.last
            x = self.unlike.scores(self._standard(rows), self._logit(rows))
        return labels_of(dataset, line.probs(x, tau=0.0, temperature=self.temperature))

    def embed(self, dataset: Dataset) -> Floats:
        """Return (n, 15) measures."""
        return self._rows(dataset, silent)

    def with_temperature(self, temperature: float) -> Self:
        """Return the same student with another temperature."""
        return replace(self, temperature=temperature)

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``student.json``."""
        if self.line is None or self.space is None:
            raise UsageError("student 'measured' is not fitted; there is nothing to save.")
        arrays = self.line.arrays() | {"mean": self.space[0], "spread": self.space[1]}
        arrays |= {} if self.unlike is None else self.unlike.arrays()
        settings = {"penalty": self.penalty, "temperature": self.temperature}
        about = {"student": self.name, "classes": list(self.classes), "settings": settings}
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
            settings = {f.name: about["settings"][f.name] for f in fields(cls)[:2]}
            return cls(
                **settings,
                classes=tuple(about["classes"]),
                line=Line.restore(arrays, settings["penalty"]),
                space=(arrays["mean"], arrays["spread"]),
                unlike=Unlike.restore(arrays),
            )

    def _standard(self, rows: Floats) -> Floats:
        if self.space is None:
            raise DataError("this student has not been fitted yet.")
        return wide(rows, *self.space)[:, : rows.shape[1]]

    def _logit(self, rows: Floats) -> Floats:
        """Return (n,) how much more the regression says for the other class than for "good"."""
        if self.line is None or self.space is None:
            raise DataError("this student has not been fitted yet.")
        good = self.classes.index(_GOOD)
        logits = wide(rows, *self.space) @ self.line.weights.T + self.line.bias
        return np.asarray(logits[:, 1 - good] - logits[:, good])

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
