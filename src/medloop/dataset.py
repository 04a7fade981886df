"""Dataset: a table of images whose pixels are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, ImageError, did_you_mean
from medloop.labels import aligned, rows_of

SPLITS = ("train", "val", "test")

#: No detector counts this far; beyond it, differences of 32-bit floats overflow.
_LARGEST = 1e30


class Pixels(Protocol):
    """Where pixels come from: a folder, or arrays in memory."""

    def read(self, name: str) -> NDArray[Any]:
        """Return (h, w) or (h, w, 3) pixels as stored; raise ImageError where that fails."""
        ...

    def raw(self, name: str) -> bytes:
        """Return the bytes that identify the image."""
        ...

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Turn what ``raw`` returned into pixels."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A table of n images in aligned columns.

    Parameters
    ----------
    pixels : Pixels
        Reads one image by its name.
    file : (n,) str
        Name of each image, relative to where it was read from.
    classes : sequence of str
        Names of the classes; ``Labels.class_id`` counts along it.
    id : (n,) int, optional
        Stable number of each image; a subset keeps the numbers of the whole.
    group : (n,) int, optional
        Patient (or sequence) of each image as a pseudonymous number. Images that share a group
        never stand on two sides of a split. Every image is its own group where not given.
    split : (n,) str, optional
        ``"train"``, ``"val"`` or ``"test"``; ``"train"`` where not given.
    sha256 : (n,) str, optional
        Content hash of each image.
    columns : dict of str to (n,) array, optional
        Everything else that the table held, such as ``text``.

    Raises
    ------
    DataError
        Columns of different lengths, repeated ids or classes, or an unknown split.

    Examples
    --------
    >>> from medloop.dataset import ArrayPixels
    >>> images = np.zeros((3, 8, 8), np.uint8)
    >>> dataset = Dataset(pixels=ArrayPixels({"train": images}), classes=["no", "yes"],
    ...                   file=["train/0", "train/1", "train/2"], split=["train", "test", "train"])
    >>> dataset.where(split="test").id.tolist()
    [1]
    >>> dataset.image(1).shape
    (8, 8)
    """

    pixels: Pixels
    file: NDArray[np.object_]
    classes: tuple[str, ...]
    id: NDArray[np.int64] = None  # type: ignore[assignment]
    group: NDArray[np.int64] = None  # type: ignore[assignment]
    split: NDArray[np.str_] = None  # type: ignore[assignment]
    sha256: NDArray[np.str_] | None = None
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "file", aligned("file", self.file, np.object_, None))
        if isinstance(self.classes, str) or len(set(self.classes)) < len(tuple(self.classes)):
            raise DataError(f"classes must be distinct names, got {self.classes!r}.")
        put(self, "classes", tuple(self.classes))
        n = len(self.file)
        put(self, "id", aligned("id", np.arange(n) if self.id is None else self.id, np.int64, n))
        group = self.id if self.group is None else self.group
        put(self, "group", aligned("group", group, np.int64, n))
        split = np.full(n, "train") if self.split is None else self.split
        put(self, "split", aligned("split", split, np.str_, n))
        if self.sha256 is not None:
            put(self, "sha256", aligned("sha256", self.sha256, np.str_, n))
        for name, column in self.columns.items():
            if np.shape(column) != (n,):
                raise DataError(f"{name} must have shape ({n},), got {np.shape(column)}.")
        if len(np.unique(self.id)) != n:
            raise DataError("id must hold distinct numbers.")
        unknown = sorted(set(np.unique(self.split).tolist()) - set(SPLITS))
        if unknown:
            raise DataError(f"unknown split {unknown[0]!r}.{did_you_mean(unknown[0], SPLITS)}")

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, rows: ArrayLike | slice) -> Dataset:
        """Take rows by mask, slice or position; ids stay as they are."""
        rows = rows_of(rows, len(self))
        return replace(
            self,
            file=self.file[rows],
            id=self.id[rows],
            group=self.group[rows],
            split=self.split[rows],
            sha256=None if self.sha256 is None else self.sha256[rows],
            columns={name: np.asarray(column)[rows] for name, column in self.columns.items()},
        )

    def where(self, *, split: str | None = None, images: ArrayLike | None = None) -> Dataset:
        """Keep the images of one split, or those with these ids (in the order of the table).

        Raises
        ------
        DataError
            There is no such split.
        """
        if split is not None and split not in SPLITS:
            raise DataError(f"unknown split {split!r}.{did_you_mean(split, SPLITS)}")
        keep = np.ones(len(self), bool)
        if split is not None:
            keep &= self.split == split
        if images is not None:
            keep &= np.isin(self.id, np.asarray(images, np.int64))
        return self[keep]

    def position(self, images: ArrayLike) -> NDArray[np.int64]:
        """Return the row of each of these ids.

        Raises
        ------
        DataError
            An id is not in the table.
        """
        images = aligned("images", images, np.int64, None)
        order = self._order
        at = np.searchsorted(self.id, images, sorter=order)
        found = at < len(self)
        rows = order[at[found]]
        found[found] = self.id[rows] == images[found]
        if not found.all():
            bad = int(images[np.argmin(found)])
            raise DataError(f"image {bad} is not in this data set of {len(self):,} images.")
        return np.asarray(rows, dtype=np.int64)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        # sorted once: images are asked for one by one, a million times
        return np.argsort(self.id, kind="stable")

    def image(self, image: int) -> NDArray[Any]:
        """Read the pixels of the image with this id: (h, w) or (h, w, 3), as stored."""
        return self.pixels.read(str(self.file[self.position([image])[0]]))


class ArrayPixels:
    """Images in memory, named ``part/number``, as in a MedMNIST file.

    Parameters
    ----------
    parts : dict of str to (n, h, w) or (n, h, w, 3) array
    """

    def __init__(self, parts: dict[str, NDArray[Any]]) -> None:
        self.parts = parts

    def names(self) -> Sequence[str]:
        """Name every image, part by part."""
        return [f"{part}/{i}" for part, images in self.parts.items() for i in range(len(images))]

    def read(self, name: str) -> NDArray[Any]:
        """Return one image as stored."""
        return self.decode(b"", name)

    def raw(self, name: str) -> bytes:
        """Return the bytes of its pixels."""
        return np.ascontiguousarray(self.read(name)).tobytes()

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Return one image as stored; the bytes are not needed."""
        part, _, number = name.rpartition("/")
        images = self.parts.get(part)
        known = images is not None and number.isdecimal() and int(number) < len(images)
        if images is None or not known:
            held = ", ".join(f"{part} of {len(images)}" for part, images in self.parts.items())
            raise ImageError(f"no image {name!r}; there are {held or 'none'}.")
        return usable(np.asarray(images[int(number)]), name)


def usable(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    """Return pixels that a student can learn from, or refuse them.

    Raises
    ------
    ImageError
        There are none, or a value is not finite or beyond 1e30.

    Examples
    --------
    >>> usable(np.array([[np.nan]]), "a.tif")
    Traceback (most recent call last):
    ...
    medloop.errors.ImageError: a.tif has a pixel of nan, expected finite values below 1e+30.
    """
    if pixels.size == 0:
        raise ImageError(f"{name} has no pixels: its shape is {pixels.shape}.")
    if pixels.dtype.kind == "f":
        fits = abs(pixels) < _LARGEST
        if not fits.all():
            raise ImageError(
                f"{name} has a pixel of {pixels[~fits][0]}, expected finite values "
                f"below {_LARGEST:g}."
            )
    return pixels


def plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers of the types that the rest of the package knows, without losing a digit."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype == np.float32 or (values.dtype.kind in "iu" and values.dtype.itemsize <= 2):
        return values.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):  # inf is refused later, by name
        single = values.astype(np.float32)
        if values.dtype.kind == "f":
            exact = np.array_equal(single.astype(values.dtype), values, equal_nan=True)
            return single if exact else values.astype(np.float64, copy=False)
        return single if np.array_equal(single, values) else values.astype(np.float64)
