"""Labels: a table of findings, one row each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError

HUMAN = "human"
MODEL = "model"
#: A person named some of what an image holds, and did not say that there is nothing else.
PARTLY = "partly"

#: Columns that every table has; the others may be None.
_PLAIN = ("image", "class_id", "score", "source", "round")
_OPTIONAL = ("probs", "box", "keypoints", "mask")


@dataclass(frozen=True, eq=False, kw_only=True)
class Labels:
    """A table of m findings in aligned columns, sliced like an array.

    Parameters
    ----------
    image : (m,) int
        Id of the image (``Dataset.id``) that each finding belongs to.
    class_id : (m,) int
        Position of its class in ``Dataset.classes``.
    score : (m,) float, optional
        Confidence in [0, 1]; 1 where not given.
    probs : (m, K) float, optional
        Probability of each class; rows sum to one, which is up to who makes them.
    box : (m, 4) float, optional
        ``x0, y0, x1, y1`` in pixels of the image.
    keypoints : (m, P, 3) float, optional
        ``x, y`` in pixels and visibility 0, 1 or 2, as in COCO.
    mask : (m,) object, optional
        COCO run-length masks.
    source : (m,) str, optional
        ``"human"`` or ``"model"``; ``"model"`` where not given.
    round : (m,) int, optional
        Round of the loop that made it; 0 where not given.
    looked_at : (l,) int, optional
        Ids of the images that were examined, so that "nothing found" differs from "not looked";
        the images of the rows where not given.

    Raises
    ------
    DataError
        A column has the wrong shape, or holds values that are not finite or out of range.

    Examples
    --------
    >>> labels = Labels(image=[0, 1, 2], class_id=[1, 0, 1], score=[0.9, 0.6, 0.8])
    >>> len(labels[labels.score > 0.7])
    2
    >>> labels[[2]].looked_at.tolist()
    [0, 1, 2]
    """

    image: NDArray[np.int64]
    class_id: NDArray[np.int64]
    score: NDArray[np.float64] = None  # type: ignore[assignment]
    probs: NDArray[np.float64] | None = None
    box: NDArray[np.float64] | None = None
    keypoints: NDArray[np.float64] | None = None
    mask: NDArray[np.object_] | None = None
    source: NDArray[np.str_] = None  # type: ignore[assignment]
    round: NDArray[np.int64] = None  # type: ignore[assignment]
    looked_at: NDArray[np.int64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "image", aligned("image", self.image, np.int64, None))
        m = len(self.image)
        put(self, "class_id", aligned("class_id", self.class_id, np.int64, m))
        score = np.ones(m) if self.score is None else self.score
        put(self, "score", aligned("score", score, np.float64, m))
        source = np.full(m, MODEL) if self.source is None else self.source
        put(self, "source", aligned("source", source, np.str_, m))
        rounds = np.zeros(m, np.int64) if self.round is None else self.round
        put(self, "round", aligned("round", rounds, np.int64, m))
        for name, tail in (("probs", (None,)), ("box", (4,)), ("keypoints", (None, 3))):
            value = getattr(self, name)
            if value is not None:
                put(self, name, aligned(name, value, np.float64, m, tail))
        if self.mask is not None:
            put(self, "mask", aligned("mask", self.mask, np.object_, m))
        seen = self.image if self.looked_at is None else self.looked_at
        seen = np.unique(aligned("looked_at", seen, np.int64, None))
        put(self, "looked_at", aligned("looked_at", seen, np.int64, None))
        self._check_values()

    def _check_values(self) -> None:
        _all("class_id must be 0 or more", self.class_id, self.class_id >= 0)
        _all("score must lie in [0, 1]", self.score, (self.score >= 0) & (self.score <= 1))
        known = (self.source == HUMAN) | (self.source == MODEL)
        _all(f"source must be {HUMAN!r} or {MODEL!r}", self.source, known)
        there = np.isin(self.image, self.looked_at)
        _all("looked_at must hold every image that carries a label", self.image, there)
        if self.probs is not None:
            _all("probs must be 0 or more", self.probs, np.all(self.probs >= 0, axis=1))
            classes = self.probs.shape[1]
            below = self.class_id < classes
            _all(f"class_id must lie below K={classes}, as probs has it", self.class_id, below)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Return ``box``, (m, 4); (0, 4) where there is no row, DataError where rows have none."""
        if self.box is None:
            if len(self):
                raise DataError("these labels have no boxes.")
            return np.empty((0, 4))
        return self.box

    def __getitem__(self, rows: ArrayLike | slice) -> Labels:
        """Take rows by mask, slice or index; ``looked_at`` stays as it is."""
        rows = rows_of(rows, len(self))
        return replace(self, **{name: value[rows] for name, value in self.columns()})

    def columns(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the name and the values of every column that is filled."""
        for name in (*_PLAIN, *_OPTIONAL):
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def of(self, images: ArrayLike) -> Labels:
        """Take the rows of these images, and look at no others."""
        images = np.asarray(images, np.int64)
        kept = self[np.isin(self.image, images)]
        return replace(kept, looked_at=np.intersect1d(self.looked_at, images))

    def with_(self, **columns: Any) -> Labels:
        """Return a copy with some columns replaced."""
        known = {f.name for f in fields(self)}
        for name in columns:
            if name not in known:
                raise DataError(f"Labels has no column {name!r}; columns are {sorted(known)}.")
        return replace(self, **columns)

    @staticmethod
    def empty() -> Labels:
        """Make a table without rows."""
        return Labels(image=np.empty(0, np.int64), class_id=np.empty(0, np.int64))

    @staticmethod
    def concat(parts: Sequence[Labels]) -> Labels:
        """Stack tables; a column that one non-empty part lacks is dropped from all.

        Raises
        ------
        DataError
            The parts were made for different numbers of classes or points.

        Examples
        --------
        >>> both = Labels.concat([Labels(image=[4], class_id=[0]), Labels.empty()])
        >>> both.image.tolist()
        [4]
        """
        # parts without rows hold no values, but they were looked at
        filled = [part for part in parts if len(part)] or list(parts) or [Labels.empty()]
        shared = set.intersection(*({name for name, _ in part.columns()} for part in filled))
        columns = {}
        for name in sorted(shared):
            stack = [getattr(part, name) for part in filled]
            if len({array.shape[1:] for array in stack}) > 1:
                shapes = ", ".join(str(array.shape) for array in stack)
                raise DataError(f"{name} must have one shape but for its rows, got {shapes}.")
            columns[name] = np.concatenate(stack)
        looked_at = np.concatenate([part.looked_at for part in (*parts, *filled)])
        return Labels(**columns, looked_at=looked_at)


def rows_of(rows: ArrayLike | slice, length: int) -> NDArray[Any] | slice:
    """Return what selects rows of a table: a mask of its length, positions, or a slice.

    Raises
    ------
    DataError
        It is a mask of another length, a single number, or nothing that counts rows.

    Examples
    --------
    >>> rows_of([True, False], 3)
    Traceback (most recent call last):
    ...
    medloop.errors.DataError: a mask must have shape (3,), got (2,).
    """
    if isinstance(rows, slice):
        return rows
    array = np.asarray(rows)
    if array.dtype == bool and array.shape != (length,):
        raise DataError(f"a mask must have shape ({length},), got {array.shape}.")
    if array.shape == (0,):
        return array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise DataError(
            f"rows must be a mask, a slice or an array (k,) of positions, got {rows!r}."
        )
    return array


def _all(must: str, values: NDArray[Any], fits: NDArray[np.bool_]) -> None:
    if not fits.all():
        row = int(np.argmin(fits))
        raise DataError(f"{must}, got {values[row]} in row {row}.")


def aligned(
    name: str,
    values: ArrayLike,
    dtype: type,
    length: int | None,
    tail: tuple[int | None, ...] = (),
) -> NDArray[Any]:
    """Return a read-only column of this type and of shape ``(length, *tail)``; None fits any.

    Raises
    ------
    DataError
        The shape or the type does not fit, or a number is not finite.

    Examples
    --------
    >>> aligned("box", [[0, 1, 2]], np.float64, 1, (4,))
    Traceback (most recent call last):
    ...
    medloop.errors.DataError: box must have shape (1, 4), got (1, 3).
    """
    try:
        array: NDArray[Any] = np.asarray(values)
        if dtype is np.int64 and array.size and array.dtype.kind not in "biu":
            raise TypeError(f"got {array.dtype}")  # numpy would cut 1.7 to 1
        array = array.astype(dtype, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} must be an array of {dtype.__name__}: {error}.") from None
    want = (length, *tail)
    fits = array.ndim == len(want) and all(
        w is None or w == got for w, got in zip(want, array.shape, strict=True)
    )
    if not fits:
        shape = ", ".join("any" if w is None else str(w) for w in want)
        raise DataError(f"{name} must have shape ({shape}), got {array.shape}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(f"{name} must be finite, got {array[row]} in row {row}.")
    array = array.view()
    array.flags.writeable = False
    return array
