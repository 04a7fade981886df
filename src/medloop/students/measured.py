"""A student that tells good frames from bad by what can be measured of their quality.

A regression knows the ways of being bad that it was shown, and no others: a frame behind smoke has
no blur, and is called good. So a frame is as bad as the worse of two scores says: how unlike the
good frames it is (the Mahalanobis distance of its measures), and the regression's, each in spreads
of good frames. The regression's counts half: it takes another patient's good frames for bad
ones more readily than the distance does (docs/results.md).
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
#: How many spreads of the regression's score weigh as much as one of the distance.
_LESS = 2.0
#: What is told of a frame's light, but differs more from patient to patient than from good to bad.
_TOLD = ("dark", "bright", "entropy")
_COLUMNS = [i for i, name in enumerate(FEATURES) if name not in _TOLD]
#: Smaller differences of any measure mean nothing.
_LEAST_SPREAD = 0.02
#: Of the last step, which only turns a score into a probability.
_LOOSE = 10.0
_LEAST_GOOD = 5
#: Good frames are held out in so many parts.
_PARTS = 5
#: Frames that are all alike must have a distance, too.
_LEAST_SHRUNK = 1e-3


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
        """Return (n, 17) measures, in the order of the data set."""
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
    centre, spread : (14,) float
        Of the measures of good frames.
    precision : (14, 14) float
        Inverse of their correlation, shrunk after Ledoit & Wolf (2004).
    levels : (2, 2) float
        Median and spread over good frames: of the regression's logit, and of the log distance.
    last : Line
        From the larger of both to probabilities.
    """

    centre: Floats
    spread: Floats
    precision: Floats
    levels: Floats
    last: Line

    @staticmethod
    def of(good: Floats) -> Unlike:
        """Learn from the measures of good frames; how to join it with a regression is left open."""
        from sklearn.covariance import LedoitWolf

        good = used(good)
        centre, spread = good.mean(axis=0), np.maximum(good.std(axis=0), _LEAST_SPREAD)
        x = (good - centre) / spread
        less = max(LedoitWolf(assume_centered=True).fit(x).shrinkage_, _LEAST_SHRUNK)
        cover = (1 - less) * (x.T @ x) / len(x) + less * np.eye(x.shape[1])
        ends = np.array([[0.0, 0.0], [1.0, 1.0]])
        prior = Line(np.zeros((2, 1)), np.zeros(2), np.zeros(2), _LOOSE)
        return Unlike(centre, spread, np.linalg.inv(cover), ends, prior)

    def scores(self, rows: Floats, logit: Floats) -> Floats:
        """Return (n,) the larger of both scores of measures and logits."""
        return self.larger(np.stack([logit, self.distance(rows)], axis=1))

    def larger(self, both: Floats) -> Floats:
        """Return (n,) the larger of (n, 2) logits and distances, in spreads of good frames."""
        apart: Floats = (both - self.levels[0]) / self.levels[1]
        return np.asarray(np.maximum(apart[:, 0] / _LESS, apart[:, 1]))

    def distance(self, rows: Floats) -> Floats:
        """Return (n,) the log of the Mahalanobis distance to the good frames."""
        away = (used(rows) - self.centre) / self.spread
        return np.asarray(np.log(np.einsum("ij,jk,ik->i", away, self.precision, away) + 1e-6))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name, for safetensors."""
        last = {f"last_{name}": values for name, values in self.last.arrays().items()}
        own = {name: getattr(self, name) for name in ("centre", "spread", "precision", "levels")}
        return {f"unlike_{name}": values for name, values in own.items()} | last

    @staticmethod
    def restore(arrays: dict[str, NDArray[Any]]) -> Unlike | None:
        """Put ``arrays`` together again; None where they hold none."""
        if "unlike_centre" not in arrays:
            return None
        return Unlike(
            centre=arrays["unlike_centre"],
            spread=arrays["unlike_spread"],
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
        logit, distant = self._logit(rows), Unlike.of(rows[is_good])
        both = np.stack([logit, distant.distance(rows)], axis=1)
        good = both[is_good]
        levels = np.stack([np.median(good, axis=0), good.std(axis=0) + 1e-6])
        made = replace(distant, levels=levels)
        # frames that shaped the distance lie nearer than new ones will
        both[is_good, 1] = _held_out(rows[is_good], dataset.group[is_good])
        last = fit_line(
            made.larger(both)[:, None],
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
            line, x = self.unlike.last, self.badness(rows)[:, None]
        return labels_of(dataset, line.probs(x, tau=0.0, temperature=self.temperature))

    def badness(self, rows: Floats) -> Floats:
        """Return (n,) how bad frames are by their measures, upwards; in spreads of good frames.

        Raises
        ------
        DataError
            It is not fitted to the class "good" and one other.
        """
        if self.unlike is None:
            raise DataError('this student was not fitted to "good" and one other class.')
        return self.unlike.scores(rows, self._logit(rows))

    def embed(self, dataset: Dataset) -> Floats:
        """Return (n, 17) measures."""
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
            if arrays["mean"].shape != (len(FEATURES),):
                raise ValueError("it was fitted to other measures")
            settings = {f.name: about["settings"][f.name] for f in fields(cls)[:2]}
            return cls(
                **settings,
                classes=tuple(about["classes"]),
                line=Line.restore(arrays, settings["penalty"]),
                space=(arrays["mean"], arrays["spread"]),
                unlike=Unlike.restore(arrays),
            )

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


def _held_out(good: Floats, group: NDArray[np.int64]) -> Floats:
    """Return (n,) distances of good frames to those of other groups, by parts of the groups."""
    part = np.unique(group, return_inverse=True)[1] % _PARTS
    if len(good) - np.bincount(part).max() < _LEAST_GOOD - 1:  # nearly all of one patient
        part = np.arange(len(good)) % _PARTS
    found = np.empty(len(good))
    for number in np.unique(part):
        there = part == number
        found[there] = Unlike.of(good[~there]).distance(good[there])
    return found


def used(rows: Floats) -> Floats:
    """Return (n, 14) the measures that good and bad frames are told apart by.

    Examples
    --------
    >>> used(np.zeros((2, len(FEATURES)))).shape
    (2, 14)
    """
    return np.asarray(rows[:, _COLUMNS], np.float64)


def wide(rows: Floats, mean: Floats, spread: Floats) -> Floats:
    """Standardise measures, tame what lies far out, and add squares.

    Examples
    --------
    >>> wide(np.array([[3.0]]), np.array([1.0]), np.array([1.0])).tolist()
    [[2.0, 1.3333333333333333]]
    """
    x = np.clip((rows - mean) / spread, -_FAR, _FAR)
    return np.concatenate([x, x * x / 3], axis=1)
