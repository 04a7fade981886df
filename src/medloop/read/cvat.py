"""CVAT for images 1.1: one XML file with boxes, polygons, points, tags and masks.

Boxes and tags are findings; polygons and masks become run-length masks; skeletons become
keypoints, in the box around the points that are seen. Ellipses, lines, cuboids and turned boxes
are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medloop import masks
from medloop.annotations import Annotations, Skeleton
from medloop.errors import DataError
from medloop.labels import HUMAN, MODEL
from medloop.read.gather import Gather, floats
from medloop.read.parts import Part, assemble
from medloop.read.xml import elements, side

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def read_cvat(path: str | Path) -> Annotations:
    """Read a CVAT XML file of images; classes are in order of their names.

    What CVAT's ``source`` calls ``auto`` is a model's; everything else is a person's.

    Raises
    ------
    UsageError
        The file cannot be opened.
    DataError
        It is not XML, or holds no image.
    """
    found = assemble(cvat_parts(Path(path)), sort_classes=True)
    if not len(found):
        raise DataError(f"{path} holds no <image>; tracks of videos are not read.")
    return found


def cvat_parts(path: Path) -> Iterator[Part]:
    """Read a CVAT XML file some images at a time."""
    gather = Gather()
    names: list[str] = []
    for number, image in enumerate(elements(path, "image")):
        where = f"image {number}"
        size = (side(image.get("height")), side(image.get("width")))
        size = size if all(size) else (0, 0)
        split = _SPLITS.get((image.get("subset") or "").lower(), "")
        if gather.image(image.get("name"), size, where=where, split=split):
            for at, shape in enumerate(image):
                place = f"{where} {shape.tag} {at}"
                try:
                    columns = _columns(gather, names, shape, size)
                except DataError as error:
                    gather.refuse(place, str(error).rstrip("."))
                else:
                    gather.finding(shape.get("label") or "", where=place, **columns)
        if gather.full:
            yield gather.part()
    yield gather.part()


def _columns(gather: Gather, names: list[str], shape: Any, size: tuple[int, int]) -> dict[str, Any]:
    columns: dict[str, Any] = {"source": MODEL if shape.get("source") == "auto" else HUMAN}
    if shape.tag == "tag":
        return columns
    if float((floats([shape.get("rotation") or 0]) or [1])[0]):
        raise DataError("is turned, which no box holds.")
    if shape.tag == "box":
        corners = floats([shape.get(name) for name in ("xtl", "ytl", "xbr", "ybr")])
        if corners is None:
            raise DataError("has no four finite corners.")
        return columns | {"box": corners}
    if shape.tag == "skeleton":
        return columns | _skeleton(gather, names, shape)
    if shape.tag not in ("polygon", "mask"):
        raise DataError("is of a kind that is not read.")
    if not all(size):
        raise DataError("needs the width and height of its image.")
    mask = _polygon(shape, size) if shape.tag == "polygon" else _mask(shape, size)
    box = masks.box(mask)
    if not any(box):
        raise DataError("covers no pixel.")
    return columns | {"mask": mask, "box": box}


def _pairs(stated: str | None) -> np.ndarray[Any, Any]:
    values = [floats(pair.split(",")) for pair in (stated or "").split(";")]
    points = [value for value in values if value is not None and len(value) == 2]
    if not points or len(points) < len(values):
        raise DataError("has points that are not finite pairs.")
    return np.array(points)


def _polygon(shape: Any, size: tuple[int, int]) -> masks.Mask:
    return masks.from_polygons([_pairs(shape.get("points")).ravel()], *size)


def _mask(shape: Any, size: tuple[int, int]) -> masks.Mask:
    """Lay a mask, which CVAT stores as runs along the rows of its own box, into its image."""
    place = floats([shape.get(name) for name in ("left", "top", "width", "height")])
    runs = floats((shape.get("rle") or "").split(","))
    if place is None or runs is None or any(v != int(v) or v < 0 for v in (*place, *runs)):
        raise DataError("has a mask that is none.")
    left, top, width, height = map(int, place)
    fits = left + width <= size[1] and top + height <= size[0]
    if not fits or sum(runs) != width * height:
        raise DataError("has a mask that does not fit its image.")
    masks.size_of({"size": list(size)})
    counts = np.array(runs, np.int64)
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    whole = np.zeros(size, bool)
    whole[top : top + height, left : left + width] = flat.reshape(height, width)
    return masks.encode(whole)


def _skeleton(gather: Gather, names: list[str], shape: Any) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for point in shape.iter("points"):
        place = _pairs(point.get("points"))[0].tolist()
        hidden, outside = point.get("occluded") == "1", point.get("outside") == "1"
        seen = 0 if outside else 1 if hidden else 2
        found[point.get("label") or ""] = [*place, seen] if seen else [0.0, 0.0, 0.0]
    if not names:
        names += sorted(found, key=lambda name: (len(name), name))
        gather.skeleton = Skeleton(points=tuple(names))
    if not found or not set(found) <= set(names):
        raise DataError("has a point that the first skeleton does not have.")
    points = np.array([found.get(name, [0.0, 0.0, 0.0]) for name in names])
    there = points[points[:, 2] > 0, :2]
    if len(there) < 2 or (there.max(axis=0) <= there.min(axis=0)).any():
        return {"keypoints": points}
    return {"keypoints": points, "box": [*there.min(axis=0), *there.max(axis=0)]}
