"""COCO: boxes, polygons, run-length masks, keypoints and classes in one JSON document.

Beyond what COCO says, ``score``, ``source`` (``"human"`` or ``"model"``), ``round`` and ``probs``
of an annotation, ``split``, ``patient`` and ``looked_at`` of an image, and ``flip`` and ``sigmas``
of a category are read. An annotation with ``whole_image`` names the class of its image: its box,
which other tools need, is none. ``box`` holds corners where x + width would not give them back to
the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop import masks
from medloop.annotations import Annotations, Skeleton
from medloop.dataset import SPLITS
from medloop.errors import DataError
from medloop.read.json_items import items
from medloop.read.parts import (
    LARGEST_SIDE,
    Found,
    Part,
    Refused,
    assemble,
    clean_names,
    number,
    numbers,
    told,
)


def read_coco(path: str | Path) -> Annotations:
    """Read a COCO file.

    Nothing is mended: a box is kept as it stands where it overlaps its image, and refused where
    it has no size, is not finite, lies outside, or reaches farther than one image beyond. A
    polygon becomes the pixels that it covers, as pycocotools draws them.

    Raises
    ------
    UsageError
        The file cannot be opened.
    DataError
        It is no JSON, or has no images.

    Examples
    --------
    >>> import json, tempfile
    >>> document = {
    ...     "images": [{"id": 7, "file_name": "a.png", "width": 9, "height": 8}],
    ...     "categories": [{"id": 3, "name": "cell"}],
    ...     "annotations": [
    ...         {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]},
    ...         {"id": 2, "image_id": 8, "category_id": 3, "bbox": [1, 2, 3, 4]},
    ...     ],
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "cells.json"
    ...     _ = file.write_text(json.dumps(document))
    ...     found = read_coco(file)
    >>> found.labels.box.tolist(), found.refused
    ([[1.0, 2.0, 4.0, 6.0]], [('annotations[1]', 'names an image that is not listed, or is \
listed twice')])
    """
    return assemble(coco_parts(Path(path)))


def coco_parts(path: Path, *, trusted: bool = False) -> Iterator[Part]:
    """Read a COCO file piece by piece; what is held grows with its images, not its findings.

    Where the annotations stand before the images or the categories, they are held until then.
    A ``trusted`` file repeats no name and no id.
    """
    reader = _Coco(trusted)
    kept: list[list[Any]] = []
    waiting: list[tuple[Found, list[Any]]] = []
    for key, piece in items(path):
        if key == "images":
            yield from reader.images(piece)
        elif key == "categories":
            reader.categories(piece)
        elif key == "annotations":
            if not reader.seen_images:
                kept.append(piece)
                continue
            found = reader.annotations(piece)
            if reader.seen_categories:
                yield reader.resolve(*found)
            else:
                waiting.append(found)
    if not reader.seen_images or not reader.seen_categories:
        raise DataError(f"{path} is no COCO file: it needs images and categories.")
    for found in waiting:
        yield reader.resolve(*found)
    for piece in kept:
        yield reader.resolve(*reader.annotations(piece))
    yield reader.part(labels=None)


class _Coco:
    def __init__(self, trusted: bool) -> None:
        self.trusted = trusted
        self.image_ids: dict[Any, int] | None = None
        self.numbers: list[NDArray[np.int64]] = []
        self.positions: list[NDArray[np.int64]] = []
        self.sorted: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self.names: set[int] = set()
        self.sizes: list[NDArray[np.int64]] = []
        self.listed = 0
        self.seen_images = self.seen_categories = False
        self.class_of: dict[Any, int] = {}
        self.classes: list[str] = []
        self.skeleton: Skeleton | None = None
        self.points = 0
        self.ids: list[NDArray[np.int64]] = []
        self.records = 0
        self.read = 0
        self.refused: Refused = []

    def part(self, *, labels: Any, **columns: Any) -> Part:
        """Make a part of what was read, with everything that was refused so far."""
        refused, self.refused = self.refused, []
        if labels is not None:
            columns["labels"] = labels
        return Part(classes=tuple(self.classes), skeleton=self.skeleton, refused=refused, **columns)

    # -- images ----------------------------------------------------------------------------

    def images(self, records: list[Any]) -> Iterator[Part]:
        """Take the next images."""
        self.seen_images = True
        first, self.records = self.records, self.records + len(records)
        names = clean_names([r.get("file_name") if isinstance(r, dict) else None for r in records])
        rows = []
        for row, (name, record) in enumerate(zip(names, records, strict=True)):
            where = f"images[{first + row}]"
            if name is None:
                stated = record.get("file_name") if isinstance(record, dict) else record
                reason = f"has no file name inside its folder: {told(repr(stated))}"
                self.refused.append((where, reason))
            elif hash(name) in self.names:
                self.refused.append((where, f"repeats the file {told(name)}"))
            else:
                if not self.trusted:
                    self.names.add(hash(name))
                rows.append(row)
        kept = [records[row] for row in rows]
        size = self._sizes(kept, [first + row for row in rows])
        splits = [r.get("split") for r in kept]
        patients = [r.get("patient") for r in kept]
        looked = [r.get("looked_at") is not False for r in kept]
        self._index([r.get("id") for r in kept])
        self.sizes.append(size)
        yield self.part(
            labels=None,
            file=[str(names[row]) for row in rows],
            size=size,
            split=[s if isinstance(s, str) and s in SPLITS else "" for s in splits],
            patient=[str(p) if isinstance(p, str | int) else "" for p in patients],
            looked=np.array(looked, bool),
        )

    def _sizes(self, records: list[Any], rows: list[int]) -> NDArray[np.int64]:
        stated = np.stack(
            [numbers([r.get(side) for r in records]) for side in ("height", "width")], axis=1
        )
        fine = (stated >= 1) & (stated <= LARGEST_SIDE) & (stated == np.rint(stated))
        given = ~np.isnan(stated)
        for row in np.flatnonzero((given & ~fine).any(axis=1)).tolist():
            where = f"images[{rows[row]}]"
            self.refused.append((where, "has a width or height that is none: taken as unknown"))
        both = fine.all(axis=1)[:, None]
        return np.where(both & fine, stated, 0).astype(np.int64)

    def _index(self, ids: list[Any]) -> None:
        at = np.arange(self.listed, self.listed + len(ids))
        self.listed += len(ids)
        if self.image_ids is None and set(map(type, ids)) <= {int}:
            try:
                self.numbers.append(np.fromiter(ids, np.int64, len(ids)))
                self.positions.append(at)
                self.sorted = None
                return
            except OverflowError:
                pass
        if self.image_ids is None:
            self.image_ids = {}
            for known, place in zip(self.numbers, self.positions, strict=True):
                self._remember(known.tolist(), place.tolist())
        self._remember(ids, at.tolist())

    def _remember(self, ids: list[Any], places: list[int]) -> None:
        known = self.image_ids
        for image, place in zip(ids, places, strict=True):
            if known is not None and isinstance(image, int | str):
                known[image] = -1 if image in known else place

    def _positions(self, ids: list[Any]) -> NDArray[np.int64]:
        """Return the position of each image, -1 for one that is unknown or ambiguous."""
        if self.image_ids is not None:
            known = self.image_ids
            places = (known.get(i, -1) if isinstance(i, int | str) else -1 for i in ids)
            return np.fromiter(places, np.int64, len(ids))
        if self.sorted is None:
            every = np.concatenate(self.numbers or [np.empty(0, np.int64)])
            place = np.concatenate(self.positions or [np.empty(0, np.int64)])
            order = np.argsort(every, kind="stable")
            every, place = every[order], place[order]
            twice = np.zeros(len(every), bool)
            twice[1:] = every[1:] == every[:-1]
            twice[:-1] |= twice[1:]
            self.sorted = every, np.where(twice, -1, place)
        every, place = self.sorted
        if not set(map(type, ids)) <= {int}:
            usable = [i if type(i) is int and abs(i) < 2**63 else None for i in ids]
            found = np.full(len(ids), -1, np.int64)
            rows = [row for row, i in enumerate(usable) if i is not None]
            found[rows] = self._positions([usable[row] for row in rows])
            return found
        try:
            asked = np.fromiter(ids, np.int64, len(ids))
        except OverflowError:
            return self._positions([i if abs(i) < 2**63 else None for i in ids])
        if not len(every):
            return np.full(len(ids), -1, np.int64)
        at = np.minimum(np.searchsorted(every, asked), len(every) - 1)
        return np.where(every[at] == asked, place[at], -1)

    # -- categories ------------------------------------------------------------------------

    def categories(self, records: list[Any]) -> None:
        """Take the categories, in the order of their ids."""
        self.seen_categories = True
        usable = []
        for row, record in enumerate(records):
            where = f"categories[{row}]"
            name = record.get("name") if isinstance(record, dict) else None
            key = record.get("id") if isinstance(record, dict) else None
            if not isinstance(name, str) or not name or not isinstance(key, int | str):
                self.refused.append((where, "needs an id and a name"))
            else:
                usable.append((isinstance(key, str), key, where, name, record))
        usable.sort(key=lambda entry: entry[:2])
        for _, key, where, name, record in usable:
            if key in self.class_of:
                self.refused.append((where, f"repeats the id {key!r:.40}"))
                self.class_of[key] = -1
                continue
            if name in self.classes:
                reason = f"repeats the name {told(name)}: both are taken as one class"
                self.refused.append((where, reason))
            else:
                self.classes.append(name)
            self.class_of[key] = self.classes.index(name)
            if record.get("keypoints"):
                self._skeleton(where, record)

    def _skeleton(self, where: str, record: dict[str, Any]) -> None:
        try:
            points = record["keypoints"]
            if not isinstance(points, list) or not all(isinstance(p, str) for p in points):
                raise DataError("keypoints must be a list of names")
            sigmas = record.get("sigmas")
            skeleton = Skeleton(
                points=tuple(points),
                edges=tuple((a - 1, b - 1) for a, b in record.get("skeleton") or ()),
                flip=tuple((a - 1, b - 1) for a, b in record.get("flip") or ()),
                sigmas=None if sigmas is None else tuple(float(s) for s in sigmas),
            )
        except (DataError, TypeError, ValueError) as error:
            self.refused.append((where, f"has a skeleton that is none: {error}"))
            return
        if self.skeleton not in (None, skeleton):
            self.refused.append((where, "has another skeleton than the category before"))
            return
        self.skeleton = skeleton

    # -- annotations -----------------------------------------------------------------------

    def annotations(self, records: list[Any]) -> tuple[Found, list[Any]]:
        """Take the next annotations, and the id of the category of each."""
        first, self.read = self.read, self.read + len(records)
        wrong: dict[int, str] = {}
        if not set(map(type, records)) <= {dict}:
            wrong = {
                row: "is no object"
                for row, record in enumerate(records)
                if not isinstance(record, dict)
            }
            records = [record if isinstance(record, dict) else {} for record in records]
        if not self.trusted:
            self._repeated([r.get("id") for r in records], wrong)
        crowds = [r.get("iscrowd") for r in records]
        if any(crowds):
            for row, crowd in enumerate(crowds):
                if crowd:
                    wrong.setdefault(row, "marks a crowd, not one object")
        image = self._positions([r.get("image_id") for r in records])
        size = self._size_of(image)
        box = _boxes(records)
        mask = _masks(records, size, wrong)
        if mask is not None:
            for row, record in enumerate(records):
                if mask[row] is not None and not record.get("bbox"):
                    box[row] = masks.box(mask[row])
        stated = [r.get("round") for r in records]
        sources = [r.get("source") for r in records]
        found = Found(
            where=lambda row: f"annotations[{first + row}]",
            image=image,
            size=size,
            class_id=np.empty(0, np.int64),
            score=numbers([r.get("score") for r in records]),
            source=sources if any(sources) else None,
            round=numbers(stated),
            box=box,
            keypoints=self._points(records, wrong),
            probs=_probs(records, wrong),
            mask=mask,
            wrong=wrong,
        )
        return found, [r.get("category_id") for r in records]

    def resolve(self, found: Found, keys: list[Any]) -> Part:
        """Turn categories into classes, now that all are known, and check the rows."""
        class_of = self.class_of
        if set(map(type, keys)) <= {int, str}:
            known = [class_of.get(key, -1) for key in keys]
        else:
            known = [class_of.get(key, -1) if isinstance(key, int | str) else -1 for key in keys]
        found.class_id = np.array(known, np.int64)
        self._fit(found, "keypoints", self.points and len(self._skeleton_of().points))
        self._fit(found, "probs", len(self.classes))
        labels, refused = found.checked()
        self.refused += refused
        return self.part(labels=labels)

    def _skeleton_of(self) -> Skeleton:
        """Return the skeleton, or points without names where no category tells any."""
        if self.skeleton is None:
            self.skeleton = Skeleton(points=tuple(f"p{i}" for i in range(self.points)))
        return self.skeleton

    def _fit(self, found: Found, name: str, count: int) -> None:
        """Refuse the rows whose columns are not as wide as the categories say."""
        held = getattr(found, name)
        if held is None or held.shape[1] == count:
            return
        given = held.reshape(len(held), -1).any(axis=1)
        for row in np.flatnonzero(given).tolist():
            found.wrong.setdefault(row, f"has {held.shape[1]} {name}, expected {count}")
        setattr(found, name, None)

    def _size_of(self, image: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(self.sizes) > 1:
            self.sizes = [np.concatenate(self.sizes)]
        size = np.zeros((len(image), 2), np.int64)
        there = image >= 0
        if there.any():
            size[there] = self.sizes[0][image[there]]
        return size

    def _repeated(self, ids: list[Any], wrong: dict[int, str]) -> None:
        """Refuse ids that came before; ids that are missing are nobody's loss."""
        rows: Sequence[int] = range(len(ids))
        if not set(map(type, ids)) <= {int}:
            rows = [row for row in rows if type(ids[row]) is int]
            ids = [ids[row] for row in rows]
        try:
            values = np.fromiter(ids, np.int64, len(ids))
        except OverflowError:
            rows = [row for row, i in zip(rows, ids, strict=True) if abs(i) < 2**62]
            values = np.array([i for i in ids if abs(i) < 2**62], np.int64)
        last = self.ids[-1][-1] if self.ids else -(2**62)
        if len(values) and not (values[0] > last and (values[1:] > values[:-1]).all()):
            before = set(chain.from_iterable(part.tolist() for part in self.ids))
            for row, value in zip(rows, values.tolist(), strict=True):
                if value in before:
                    wrong.setdefault(row, f"repeats the id {value}")
                before.add(value)
            # one sorted list, so that the next piece may be in order again
            values = np.array(sorted(before), np.int64)
            self.ids = []
        if len(values):
            self.ids.append(values)

    def _points(
        self, records: list[dict[str, Any]], wrong: dict[int, str]
    ) -> NDArray[np.float64] | None:
        given = [r.get("keypoints") for r in records]
        if not any(given):
            return None
        if self.skeleton is not None:
            self.points = len(self.skeleton.points)
        if not self.points:
            widths = Counter(len(points) // 3 for points in given if isinstance(points, list))
            del widths[0]
            self.points = widths.most_common(1)[0][0] if widths else 0
        held = np.zeros((len(records), self.points, 3))
        for row, points in enumerate(given):
            if not points:
                continue
            if not isinstance(points, list) or len(points) != 3 * self.points:
                reason = f"has other than {self.points} keypoints of x, y, visibility"
                wrong.setdefault(row, reason)
            else:
                held[row] = numbers(points).reshape(self.points, 3)
        return held


def _probs(records: list[dict[str, Any]], wrong: dict[int, str]) -> NDArray[np.float64] | None:
    given = [r.get("probs") for r in records]
    if not any(given):
        return None
    count = next((len(p) for p in given if isinstance(p, list) and p), 0)
    held = np.zeros((len(records), count))
    for row, probs in enumerate(given):
        if probs is None:
            continue
        if not isinstance(probs, list) or len(probs) != count:
            wrong.setdefault(row, f"has other than {count} probs, one a class")
        else:
            held[row] = numbers(probs)
    return held


def _boxes(records: list[dict[str, Any]]) -> NDArray[np.float64]:
    given = [r.get("bbox") for r in records]
    box = _four(given)
    box[:, 2:] += box[:, :2]
    whole = [r.get("whole_image") for r in records]
    if any(whole):
        box[np.array([w is True for w in whole], bool)] = np.nan
    exact = [r.get("box") for r in records]
    if any(exact):
        rows = np.array([e is not None for e in exact], bool)
        box[rows] = _four(exact)[rows]
    return box


def _four(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return (n, 4) numbers: NaN where there is no list, infinity where it is none of four."""
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        return numbers(list(chain.from_iterable(values))).reshape(-1, 4)
    held = np.full((len(values), 4), np.nan)
    for row, value in enumerate(values):
        if isinstance(value, list) and len(value) == 4:
            held[row] = [number(v) if v is not None else np.inf for v in value]
        elif value is not None and value != []:
            held[row] = np.inf
    return held


def _masks(
    records: list[dict[str, Any]], size: NDArray[np.int64], wrong: dict[int, str]
) -> list[Any] | None:
    given = [r.get("segmentation") for r in records]
    if not any(given):
        return None
    held: list[Any] = [None] * len(records)
    for row, segmentation in enumerate(given):
        if not segmentation or row in wrong:
            continue
        height, width = (int(side) for side in size[row])
        try:
            if isinstance(segmentation, list):
                if not height:
                    raise DataError("a polygon needs the width and height of its image.")
                held[row] = masks.from_polygons(segmentation, height, width)
            else:
                held[row] = masks.normal(segmentation)
                if height and held[row]["size"] != [height, width]:
                    raise DataError(
                        f"a mask of {held[row]['size']} in an image of {[height, width]}."
                    )
        except DataError as error:
            wrong[row] = f"has a segmentation that is none: {error}"
    return held
