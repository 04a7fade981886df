"""Masks of one image, and the protocol of what proposes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError
from medloop.proposals.runs import Bits, Runs, counted, edges_of, few_runs, packed, running, summed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Masks:
    """Masks of one image, at a resolution that may be below the image's.

    Parameters
    ----------
    masks : (r, h, w) bool
        Each covers the whole image. Those that hold nothing are refused; one that holds
        everything is allowed.
    size : (int, int)
        Height and width in pixels of the image.
    score : (r,) float, optional
        How good each is by itself, in [0, 1]; 1 where not given.

    Raises
    ------
    DataError
        A shape does not fit, or a mask is empty.

    Examples
    --------
    >>> mask = np.zeros((1, 4, 4), bool)
    >>> mask[0, 1:3, 2:] = True
    >>> Masks(masks=mask, size=(8, 8)).box.tolist()
    [[4.0, 2.0, 8.0, 6.0]]
    """

    masks: Bools
    size: tuple[int, int]
    score: Floats = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        put = object.__setattr__
        masks = np.asarray(self.masks)
        if masks.ndim != 3 or masks.dtype != bool or 0 in masks.shape[1:]:
            raise DataError(
                f"masks must be bool of shape (r, h, w), got {masks.dtype} of {masks.shape}."
            )
        put(self, "masks", masks)
        height, width = (int(side) for side in self.size)
        if min(height, width) < 1:
            raise DataError(f"size must be a height and a width of at least 1, got {self.size}.")
        put(self, "size", (height, width))
        score = np.ones(len(masks)) if self.score is None else np.asarray(self.score, float)
        if score.shape != (len(masks),):
            raise DataError(f"score must have shape ({len(masks)},), got {score.shape}.")
        put(self, "score", score)
        if len(masks) and not (self.area > 0).all():
            raise DataError(f"mask {int(np.argmin(self.area))} is empty.")

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, rows: ArrayLike) -> Masks:
        """Take some of the masks, by mask or position."""
        at = np.asarray(rows)
        return Masks(masks=self.masks[at], size=self.size, score=self.score[at])

    @cached_property
    def bits(self) -> Bits:
        """The masks, a bit a pixel."""
        return packed(self.masks)

    @cached_property
    def runs(self) -> Runs | None:
        """Their runs of pixels; None for masks so ragged that it is better not to keep them."""
        return few_runs(self.bits.words)

    @cached_property
    def area(self) -> NDArray[np.int64]:
        """Pixels of each mask at the masks' own resolution, (r,)."""
        return counted(self.bits.words)

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """First column, first row, and those behind the last, at the masks' resolution, (r, 4)."""
        return edges_of(self.bits)

    @cached_property
    def box(self) -> Floats:
        """Box ``x0, y0, x1, y1`` of each mask in pixels of the image, (r, 4)."""
        height, width = self.masks.shape[1:]
        across, down = self.size[1] / width, self.size[0] / height
        return np.asarray(self.edges * np.array([across, down, across, down]))


class Proposer(Protocol):
    """Proposes masks of an image."""

    @property
    def name(self) -> str:
        """Name by which it is asked for."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Everything that the masks depend on beside the image, as JSON has words for."""
        ...

    def propose(self, image: NDArray[Any]) -> Masks:
        """Return the masks of one (h, w) or (h, w, 3) image as it is stored."""
        ...


def within(planes: NDArray[np.floating], masks: Masks, *, top: int = 0) -> Floats:
    """Sum planes of numbers over the pixels of each mask.

    Parameters
    ----------
    planes : (c, h, w) float
        At the masks' resolution; fewer rows where only some, from ``top`` on, are not 0.
    masks : Masks
    top : int

    Returns
    -------
    (r, c) float

    Examples
    --------
    >>> masks = Masks(masks=np.array([[[True, False, True]]]), size=(1, 3))
    >>> within(np.array([[[1.0, 2.0, 4.0]]]), masks).tolist()
    [[5.0]]
    """
    return summed(running(planes, masks.bits.shape, top=top), masks.bits.words, masks.runs)


def distinct(masks: Bools, *, most: float = 0.95) -> NDArray[np.int64]:
    """Return the positions of masks that are no near copies of an earlier one.

    Parameters
    ----------
    masks : (r, h, w) bool
        The better ones first.
    most : float
        A mask whose IoU with an earlier kept one is above this goes.

    Examples
    --------
    >>> masks = np.array([[[1, 1, 0]], [[1, 1, 0]], [[0, 1, 1]]], bool)
    >>> distinct(masks).tolist()
    [0, 2]
    """
    count = len(masks)
    if not count:
        return np.empty(0, np.int64)
    flat = masks.reshape(count, -1).astype(np.float32)
    both = flat @ flat.T  # counts of pixels below 2^24 are exact in float32
    area = np.diag(both)
    near = both > most * (area[:, None] + area - both)
    keep = np.ones(count, bool)
    for row in range(count):
        if keep[row]:
            keep[row + 1 :] &= ~near[row, row + 1 :]
    return np.flatnonzero(keep)
