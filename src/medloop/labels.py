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
        Probability of each class; rows sum to one.
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
        put(self, "image", _column("image", self.image, np.int64, None))
        m = len(self.image)
        put(self, "class_id", _column("class_id", self.class_id, np.int64, m))
        score = np.ones(m) if self.score is None else self.score
        put(self, "score", _column("score", score, np.float64, m))
        source = np.full(m, MODEL) if self.source is None else self.source
        put(self, "source", _column("source", source, np.str_, m))
        rounds = np.zeros(m, np.int64) if self.round is None else self.round
        put(self, "round", _column("round", rounds, np.int64, m))
        for name, tail in (("probs", (None,)), ("box", (4,)), ("keypoints", (None, 3))):
            value = getattr(self, name)
            if value is not None:
                put(self, name, _column(name, value, np.float64, m, tail))
        if self.mask is not None:
            put(self, "mask", _column("mask", self.mask, np.object_, m))
        seen = self.image if self.looked_at is None else self.looked_at
        put(self, "looked_at", np.unique(np.asarray(seen, np.int64)))
        if m and self.class_id.min() < 0:
            raise DataError(f"class_id must be 0 or more, got {self.class_id.min()}.")
        if m and not ((self.score >= 0) & (self.score <= 1)).all():
            bad = int(np.argmax(~((self.score >= 0) & (self.score <= 1))))
            raise DataError(f"score must lie in [0, 1], got {self.score[bad]} in row {bad}.")
        if not np.isin(self.image, self.looked_at).all():
            raise DataError("looked_at must hold every image that carries a label.")

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: ArrayLike | slice) -> Labels:
        """Take rows by mask, slice or index; ``looked_at`` stays as it is."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.dtype == bool and len(rows) != len(self):
                raise DataError(f"a mask must have length m={len(self)}, got {len(rows)}.")
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

        Examples
        --------
        >>> both = Labels.concat([Labels(image=[4], class_id=[0]), Labels.empty()])
        >>> both.image.tolist()
        [4]
        """
        filled = [part for part in parts if len(part)]
        looked_at = np.concatenate([part.looked_at for part in parts] or [np.empty(0, np.int64)])
        if not filled:
            return replace(Labels.empty(), looked_at=looked_at)
        shared = set.intersection(*({name for name, _ in part.columns()} for part in filled))
        columns = {
            name: np.concatenate([getattr(part, name) for part in filled]) for name in shared
        }
        return Labels(**columns, looked_at=looked_at)


def _column(
    name: str,
    values: ArrayLike,
    dtype: type,
    length: int | None,
    tail: tuple[int | None, ...] = (),
) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
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
