"""Annotations: what a label file says about images, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError
from medloop.labels import Labels, aligned


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """The keypoints of an object.

    Parameters
    ----------
    points : tuple of str
        Name of each of the P points.
    edges : tuple of (int, int)
        Points that are drawn joined, counted from 0.
    flip : tuple of (int, int)
        Points that change places when the image is mirrored left to right.
    sigmas : tuple of float, optional
        (P,) Spread of each point where people label it, as a share of the square root of the
        object's area; the ``k / 2`` of COCO's object keypoint similarity.

    Raises
    ------
    DataError
        An edge or a pair names a point that is not there, or a sigma is not above 0.

    Examples
    --------
    >>> eyes = Skeleton(points=("left", "right"), edges=((0, 1),), flip=((0, 1),))
    >>> eyes.mirrored().tolist()
    [1, 0]
    """

    points: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    flip: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.points)
        for name in ("edges", "flip"):
            for pair in getattr(self, name):
                if len(pair) != 2 or not all(0 <= point < count for point in pair):
                    raise DataError(
                        f"skeleton {name} must be pairs of points in [0, {count}), got {pair}."
                    )
        if self.sigmas is not None:
            if len(self.sigmas) != count:
                raise DataError(
                    f"a skeleton of {count} points needs as many sigmas, got {len(self.sigmas)}."
                )
            if not all(0 < sigma < np.inf for sigma in self.sigmas):
                raise DataError(f"sigmas must be finite and above 0, got {self.sigmas}.")

    def mirrored(self) -> NDArray[np.int64]:
        """Return (P,): which point takes the place of each when the image is mirrored."""
        order = np.arange(len(self.points))
        for one, other in self.flip:
            order[[one, other]] = other, one
        return order


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """Images by name, and what is said about them.

    Parameters
    ----------
    file : (n,) str
        Relative path of every image that is listed, those without a finding too; ``/`` between
        folders.
    classes : sequence of str
    labels : Labels
        ``image`` counts along ``file``; ``looked_at`` holds the images that were examined.
    size : (n, 2) int, optional
        Height and width of each image in pixels; 0 where unknown.
    skeleton : Skeleton, optional
        Given where ``labels`` has keypoints.
    patient, split : (n,) str, optional
        Pseudonym of the patient; ``"train"``, ``"val"``, ``"test"`` or ``""`` for not said.
    refused : list of (str, str)
        What could not be taken over: where it stands, and why.

    Raises
    ------
    DataError
        Columns of different lengths, repeated files or classes, a label of an unknown image or
        class, or keypoints that the skeleton does not fit.
    """

    file: NDArray[np.object_]
    classes: tuple[str, ...]
    labels: Labels
    size: NDArray[np.int64] = None  # type: ignore[assignment]
    skeleton: Skeleton | None = None
    patient: Sequence[str] | None = None
    split: Sequence[str] | None = None
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "file", aligned("file", self.file, np.object_, None))
        put(self, "classes", tuple(self.classes))
        n = len(self.file)
        size = np.zeros((n, 2), np.int64) if self.size is None else self.size
        put(self, "size", aligned("size", size, np.int64, n, (2,)))
        for name in ("patient", "split"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise DataError(f"{name} must have one entry an image, {n}, got {len(column)}.")
        if len(set(self.file.tolist())) < n:
            raise DataError("file must hold distinct names.")
        if len(set(self.classes)) < len(self.classes):
            raise DataError(f"classes must be distinct names, got {self.classes!r}.")
        looked = self.labels.looked_at
        if len(looked) and not (looked[0] >= 0 and looked[-1] < n):
            raise DataError(f"labels name image {looked[-1]}, but there are {n} files.")
        if len(self.labels) and self.labels.class_id.max() >= len(self.classes):
            raise DataError(
                f"labels name class {self.labels.class_id.max()}, "
                f"but there are {len(self.classes)}."
            )
        points = self.labels.keypoints
        if points is not None and len(points):
            held = 0 if self.skeleton is None else len(self.skeleton.points)
            if points.shape[1] != held:
                raise DataError(
                    f"keypoints have {points.shape[1]} points, their skeleton has {held}."
                )

    def __len__(self) -> int:
        return len(self.file)
