"""What every student that finds boxes does with what it sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.progress import Progress, silent
from medloop.students.detector_work import AS_IT_IS, VIEWS, Views, moved_by, single
from medloop.students.student import Untaught


class BoxFinder(Untaught):
    """A frozen dataclass with a ``temperature`` that can look at images in several views."""

    def label(self, dataset: Dataset, *, progress: Progress = silent) -> Labels:
        """Find objects in every image.

        Returns
        -------
        Labels
            From the highest score down within an image; ``looked_at`` holds every image. With two
            classes or more ``probs`` (m, K) is the score of each there as a share of 1.

        Raises
        ------
        UsageError
            The student is not fitted.
        DataError
            The data set has other classes.
        """
        return self._seen(dataset, AS_IT_IS, progress)[0]

    def spread(
        self, dataset: Dataset, labels: Labels, *, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """Measure how far boxes move when the image is mirrored, shrunk and enlarged.

        Parameters
        ----------
        dataset : Dataset
        labels : Labels
            (m,) rows with boxes, such as ``label`` returns.

        Returns
        -------
        (m,) float
            Mean distance of the corners from those found in each view, over the square root of
            the box's area; 1 for a view in which nothing overlaps the box.

        Raises
        ------
        UsageError, DataError
            As :meth:`label`; or the labels have no boxes.
        """
        if labels.box is None:
            raise DataError("the spread of boxes needs labels with boxes.")
        views = self._seen(dataset.where(images=labels.image), VIEWS, progress)
        return single(np.mean([moved_by(labels, view) for view in views], axis=0))

    def with_temperature(self, temperature: float) -> Self:
        """Return the same student with another temperature."""
        finder: Any = self
        made: Self = replace(finder, temperature=temperature)
        return made

    def _seen(self, dataset: Dataset, views: Views, progress: Progress) -> list[Labels]:
        """Return what is found in each view, in the images as they are."""
        raise NotImplementedError
