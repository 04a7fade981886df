"""What a detector learns from a table of labels, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import DataError
from medloop.labels import Labels
from medloop.students import frames

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lessons:
    """Images to learn from, and the m objects and regions in them, sorted by image.

    Parameters
    ----------
    images : (n,) int
        Ids of all images that were looked at, those without an object too.
    row : (m,) int
        Row of the labels that each object stands in; -1 for a region.
    place : (m,) int
        Position of its image in ``images``.
    class_id : (m,) int
        -1 where nothing is to be taught.
    box : (m, 4) float
        In pixels of the image.
    weight : (m,) float
        Mean 1 over the objects that are taught.
    """

    images: Ints
    row: Ints
    place: Ints
    class_id: Ints
    box: Floats
    weight: Floats

    @property
    def taught(self) -> NDArray[np.bool_]:
        """(m,) which ones are objects that are taught."""
        return np.asarray(self.class_id >= 0)


def lessons(
    dataset: Dataset, labels: Labels, weight: Floats | None, ignore: Labels | None
) -> Lessons:
    """Sort objects and regions by image.

    Parameters
    ----------
    dataset : Dataset
        With K classes.
    labels : Labels
        (m,) rows with boxes; ``looked_at`` are the images.
    weight : (m,) float or None
        Of each row; a row of weight 0 becomes a region of which nothing is taught.
    ignore : Labels or None
        More such regions; those on other images are left out.

    Raises
    ------
    DataError
        No boxes, none of a positive weight, or classes, weights or images that do not fit.
    """
    m, k = len(labels), len(dataset.classes)
    if labels.box is None:
        raise DataError(f"a detector learns from boxes, and none of the {m} labels has one.")
    weight = np.ones(m) if weight is None else np.asarray(weight, np.float64)
    if weight.shape != (m,):
        raise DataError(f"weight must have shape (m,) with m={m}, got {weight.shape}.")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise DataError("weight must be finite and 0 or more.")
    if m and labels.class_id.max() >= k:
        raise DataError(f"class_id must be below the {k} classes, got {labels.class_id.max()}.")
    images = labels.looked_at
    dataset.position(images)
    solid = (labels.box[:, 2:] > labels.box[:, :2]).all(axis=1)
    taught = solid & (weight > 0)
    if not taught.any():
        raise DataError(f"no box to learn from: got {m}, none with a weight and an area above 0.")
    row, image, box = np.arange(m), labels.image, labels.box
    class_id = np.where(taught, labels.class_id, -1)
    if ignore is not None and len(ignore):
        if ignore.box is None:
            raise DataError("regions to ignore need boxes.")
        here = np.isin(ignore.image, images)
        none = np.full(int(here.sum()), -1)
        row, class_id = np.concatenate([row, none]), np.concatenate([class_id, none])
        image = np.concatenate([image, ignore.image[here]])
        box = np.concatenate([box, ignore.box[here]])
    share = np.zeros(len(row))
    share[:m] = np.where(taught, weight / weight[taught].mean(), 0.0)
    place = np.searchsorted(images, image)
    order = np.argsort(place, kind="stable")
    return Lessons(
        images=images,
        row=row[order],
        place=place[order],
        class_id=class_id[order],
        box=box[order],
        weight=share[order],
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Frames (b, size, size, 3), and the r objects in them.

    ``row`` (r,) counts along the lessons, ``place`` (r,) along the batch; ``box`` (r, 4) lies in
    [0, 1] of the frame.
    """

    pixels: NDArray[np.uint8]
    row: Ints
    place: Ints
    box: Floats


def batches(
    dataset: Dataset, taught: Lessons, order: Ints, batch: int, size: int, keep: int
) -> Iterator[Batch]:
    """Yield batches of images in this order, decoded ahead; kept where all fit into ``keep`` bytes.

    The bytes are the same either way.
    """
    n = len(taught.images)
    first = np.searchsorted(taught.place, np.arange(n + 1))
    if n * size * size * 3 <= keep:
        pixels, squares = np.empty((n, size, size, 3), np.uint8), np.empty((n, 3))
        done = 0
        for part in frames.frames(dataset, taught.images, size, batch):
            pixels[done : done + len(part.pixels)] = part.pixels
            squares[done : done + len(part.pixels)] = part.square
            done += len(part.pixels)
        chosen = [order[i : i + batch] for i in range(0, len(order), batch)]
        source: Iterator[tuple[NDArray[np.uint8], Floats]] = (
            (pixels[at], squares[at]) for at in chosen
        )
    else:
        read = frames.frames(dataset, taught.images[order], size, batch)
        source = ((part.pixels, part.square) for part in read)
    for step, (made, square) in enumerate(source):
        at = order[step * batch :][:batch]
        row = np.concatenate([np.arange(first[i], first[i + 1]) for i in at])
        place = np.repeat(np.arange(len(at)), first[at + 1] - first[at])
        box = frames.into(taught.box[row].reshape(-1, 2, 2), square[place][:, None], 1)
        yield Batch(pixels=made, row=row, place=place, box=box.reshape(-1, 4))


def crops(
    dataset: Dataset, taught: Lessons, order: Ints, batch: int, size: int, margin: float, keep: int
) -> Iterator[tuple[NDArray[np.uint8], Floats]]:
    """Yield crops (b, size, size, 3) around objects in this order, with their squares (b, 3).

    ``order`` counts along the lessons; kept where all distinct ones fit into ``keep`` bytes.
    """
    images = taught.images[taught.place]
    distinct, at = np.unique(order, return_inverse=True)
    if len(distinct) * size * size * 3 > keep:
        yield from frames.crops(dataset, images[order], taught.box[order], size, margin, batch)
        return
    pixels = np.empty((len(distinct), size, size, 3), np.uint8)
    squares, done = np.empty((len(distinct), 3)), 0
    for made, square in frames.crops(
        dataset, images[distinct], taught.box[distinct], size, margin, batch
    ):
        pixels[done : done + len(made)], squares[done : done + len(made)] = made, square
        done += len(made)
    for i in range(0, len(order), batch):
        chosen = at[i : i + batch]
        yield pixels[chosen], squares[chosen]
