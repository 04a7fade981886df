"""Dataset: a table of images whose pixels are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.errors import DataError, did_you_mean

SPLITS = ("train", "val", "test")


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
        Columns of different lengths, repeated ids, or an unknown split.

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
        put(self, "file", np.asarray(self.file, object))
        put(self, "classes", tuple(self.classes))
        n = len(self.file)
        ids = np.arange(n) if self.id is None else np.asarray(self.id, np.int64)
        put(self, "id", ids)
        put(self, "group", ids if self.group is None else np.asarray(self.group, np.int64))
        split = np.full(n, "train") if self.split is None else np.asarray(self.split, "U5")
        put(self, "split", split)
        if self.sha256 is not None:
            put(self, "sha256", np.asarray(self.sha256, "U64"))
        for name, column in self._aligned().items():
            if column.shape != (n,):
                raise DataError(f"{name} must have shape ({n},), got {column.shape}.")
        if len(np.unique(ids)) != n:
            raise DataError("id must hold distinct numbers.")
        unknown = set(np.unique(split).tolist()) - set(SPLITS)
        if unknown:
            name = sorted(unknown)[0]
            raise DataError(f"unknown split {name!r}.{did_you_mean(name, SPLITS)}")

    def _aligned(self) -> dict[str, NDArray[Any]]:
        plain = {"file": self.file, "id": self.id, "group": self.group, "split": self.split}
        if self.sha256 is not None:
            plain["sha256"] = self.sha256
        return {**plain, **self.columns}

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, rows: ArrayLike | slice) -> Dataset:
        """Take rows by mask, slice or position; ids stay as they are."""
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        return replace(
            self,
            file=self.file[rows],
            id=self.id[rows],
            group=self.group[rows],
            split=self.split[rows],
            sha256=None if self.sha256 is None else self.sha256[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
        )

    def where(self, *, split: str | None = None, images: ArrayLike | None = None) -> Dataset:
        """Keep the images of one split, or those with these ids (in the order of the table)."""
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
        images = np.asarray(images, np.int64)
        order = np.argsort(self.id, kind="stable")
        if len(order) == 0 and len(images):
            raise DataError(f"image {images[0]} is not in this data set of 0 images.")
        at = np.searchsorted(self.id, images, sorter=order)
        rows = order[np.minimum(at, len(order) - 1)] if len(order) else order
        if not np.array_equal(self.id[rows], images):
            bad = int(images[np.argmax(self.id[rows] != images)])
            raise DataError(f"image {bad} is not in this data set of {len(self)} images.")
        return np.asarray(rows, dtype=np.int64)

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
        if part not in self.parts or not number.isdigit():
            raise DataError(f"no image {name!r}; parts are {sorted(self.parts)}.")
        return np.asarray(self.parts[part][int(number)])
