"""YOLO: a ``data.yaml``, and one text file an image with shares of its width and height.

A line is a class and a box (centre, width, height), with keypoints behind it where ``kpt_shape``
says so, or a class and a polygon; a number more is a score. Text files lie where ultralytics looks
for them: ``labels`` takes the place of the last ``images`` in the path. An image without a text
file was not looked at; one with an empty file holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from medloop import masks
from medloop.annotations import Annotations, Skeleton
from medloop.errors import DataError, ImageError, UsageError
from medloop.read.gather import Gather, floats
from medloop.read.image import inside, shown
from medloop.read.listing import find_images
from medloop.read.parts import Part, assemble, told, unscaled
from medloop.read.sizes import image_size
from medloop.read.table import slashed

_LARGEST_YAML = 4_000_000
_LARGEST_LABELS = 50_000_000
_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def read_yolo(path: str | Path) -> Annotations:
    """Read a YOLO data set, by its ``data.yaml`` or its folder; folders of classes too.

    Positions are taken to a millionth of a pixel. Sizes come from the heads of the image files;
    where an image cannot be read, its lines are refused.

    Raises
    ------
    UsageError
        There is no such file, or no ``data.yaml`` in the folder.
    DataError
        The yaml names no classes or no images.
    """
    path = Path(path)
    if path.is_dir():
        found = [p for p in sorted(path.glob("*.y*ml")) if b"names" in p.read_bytes()]
        if not found:
            from medloop.read.folder import read_folder

            return read_folder(path)
        path = found[0]
    return assemble(yolo_parts(path))


def yolo_parts(path: Path, *, trusted: bool = False) -> Iterator[Part]:
    """Read a YOLO data set some images at a time."""
    root = path.parent
    about = _yaml(path)
    names = _names(path, about)
    shape = _shape(path, about)
    number = {index: k for k, index in enumerate(names)}
    gather = Gather(list(names.values()), _skeleton(about, shape), trusted=trusted)
    listed = list(_images(path, root, about, gather))
    if not listed and not gather.refused:
        raise DataError(f"{path} names no image: train, val or test must be folders or lists.")
    below = all(name.startswith("images/") for _, name in listed)
    for split, name in listed:
        where = label_name(name)
        lines = _lines(root, where, gather)
        size = (0, 0)
        try:
            size = image_size(root, name)
        except ImageError as error:
            if lines:
                gather.refuse(where, f"its image cannot be measured: {error}")
                lines = []
        file = name.removeprefix("images/") if below else name
        if gather.image(file, size, where=name, split=split, looked=lines is not None):
            for at, line in enumerate(lines or (), start=1):
                _finding(gather, f"{where} line {at}", line.split(), number, size, shape)
        if gather.full:
            yield gather.part()
    yield gather.part()


def label_name(image: str) -> str:
    """Return where the labels of an image lie, relative to the data set.

    Examples
    --------
    >>> label_name("images/train/a.png"), label_name("train/images/a.png"), label_name("a.png")
    ('labels/train/a.txt', 'train/labels/a.txt', 'a.txt')
    """
    parts = list(PurePosixPath(image).with_suffix(".txt").parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            parts[at] = "labels"
            break
    return "/".join(parts)


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise DataError(f"{path} is larger than any data.yaml.")
        about = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise DataError(f"{path} is nested too deep.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path} is not YAML: {said}.") from None
    if not isinstance(about, dict):
        raise DataError(f"{path} must hold names and images.")
    return about


def _names(path: Path, about: dict[str, Any]) -> dict[int, str]:
    names = about.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path} must have names: a list, or numbers with names.")
    for index, name in names.items():
        plain = isinstance(name, str | int | float) and type(index) is int and index >= 0
        if not plain or not str(name):
            raise DataError(f"{path}: names must be whole numbers with a name each.")
    plain_names = {index: str(names[index]) for index in sorted(names)}
    if len(set(plain_names.values())) < len(plain_names):
        raise DataError(f"{path}: names must be distinct.")
    return plain_names


def _shape(path: Path, about: dict[str, Any]) -> tuple[int, int] | None:
    shape = about.get("kpt_shape")
    if shape is None:
        return None
    fits = isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)
    if not fits or not 0 < shape[0] <= 10_000 or shape[1] not in (2, 3):
        raise DataError(f"{path}: kpt_shape must be [points, 2 or 3].")
    return shape[0], shape[1]


def _skeleton(about: dict[str, Any], shape: tuple[int, int] | None) -> Skeleton | None:
    if shape is None:
        return None
    count = shape[0]
    named = about.get("kpt_names")
    if isinstance(named, dict):
        named = next(iter(named.values()), None)
    fits = isinstance(named, list) and len(named) == count
    points = [str(name) for name in named] if fits and named else [f"p{i}" for i in range(count)]
    order = about.get("flip_idx")
    flip: tuple[tuple[int, int], ...] = ()
    if isinstance(order, list) and sorted(order, key=str) == sorted(range(count), key=str):
        flip = tuple((a, b) for a, b in enumerate(order) if a < b and order[b] == a)
    return Skeleton(points=tuple(points), flip=flip)


def _images(
    path: Path, root: Path, about: dict[str, Any], gather: Gather
) -> Iterator[tuple[str, str]]:
    """Yield split and path, relative to the data set, of every image."""
    home = _within(root, about.get("path")) or ""
    for key, split in _SPLITS.items():
        stated = about.get(key)
        for place in stated if isinstance(stated, list) else [stated]:
            if not isinstance(place, str) or not place:
                continue
            name = _place(root, home, place)
            if name is None:
                gather.refuse(f"{path.name} {key}", f"is not in the data set: {told(place)}")
            elif (root / name).is_dir():
                for image in find_images(root / name):
                    yield split, image if name == "." else f"{name}/{image}"
            else:
                for image in _list(root, name, gather):
                    yield split, image


def _place(root: Path, home: str, place: str) -> str | None:
    """Return a folder or list of the data set, relative to it."""
    # exporters that write ../train/images mean the folder beside the yaml
    short = place
    while short.startswith("../"):
        short = short[3:]
    for name in (f"{home}/{place}" if home else place, place, short):
        found = _within(root, name)
        if found is not None and (root / found).exists():
            return found
    return None


def _within(root: Path, name: Any) -> str | None:
    """Return a path relative to the data set, or None where it leads out of it."""
    if not isinstance(name, str) or not name:
        return None
    try:
        if name.startswith("/"):
            name = str(Path(name).relative_to(root.absolute()))
        plain = slashed(name)
        return plain if plain == "." else inside(plain)
    except (ImageError, ValueError):
        return None


def _list(root: Path, name: str, gather: Gather) -> Iterator[str]:
    folder = str(PurePosixPath(name).parent)
    for at, line in enumerate(_text(root / name).splitlines(), start=1):
        line = line.strip()
        if not line:
            continue
        stated = line if folder == "." or line.startswith("/") else f"{folder}/{line}"
        image = _within(root, stated)
        if image is None or image == ".":
            gather.refuse(f"{name} line {at}", f"leaves the data set: {told(line)}")
        else:
            yield image


def _lines(root: Path, name: str, gather: Gather) -> list[str] | None:
    """Return the lines that are not empty; None where there is no file."""
    path = root / name
    if not path.is_file():
        return None
    try:
        return [line for line in _text(path).splitlines() if line.strip()]
    except DataError as error:
        gather.refuse(name, str(error))
        return []


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_LABELS:
            raise DataError(f"{shown(path.name)} is larger than {_LARGEST_LABELS:,} bytes.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{shown(path.name)} is not UTF-8 text.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _finding(
    gather: Gather,
    where: str,
    words: list[str],
    number: dict[int, int],
    size: tuple[int, int],
    shape: tuple[int, int] | None,
) -> None:
    values = floats(words)
    if values is None or values[0] != int(values[0]) or int(values[0]) not in number:
        gather.refuse(where, "is no line of a class that is listed and of finite numbers")
        return
    class_id, rest = number[int(values[0])], values[1:]
    width = 4 + (shape[0] * shape[1] if shape else 0)
    sides = np.array([size[1], size[0]])
    if len(rest) in (width, width + 1):
        columns: dict[str, Any] = {"box": _corners(rest[:4], sides)}
        if len(rest) > width:
            columns["score"] = rest[-1]
        if shape:
            columns["keypoints"] = _points(rest[4:width], shape, sides)
        gather.finding(class_id, where=where, **columns)
    elif not shape and len(rest) >= 6:
        score = rest[-1] if len(rest) % 2 else None
        polygon = unscaled(np.array(rest[: len(rest) // 2 * 2]).reshape(-1, 2), sides)
        try:
            mask = masks.from_polygons([polygon.ravel()], *size)
        except DataError as error:
            gather.refuse(where, f"has a polygon that is none: {error}")
            return
        box = masks.box(mask)
        if not any(box):
            gather.refuse(where, "has a polygon that covers no pixel")
            return
        gather.finding(class_id, where=where, mask=mask, box=box, score=score)
    else:
        gather.refuse(where, f"has {len(words)} numbers, expected {1 + width}")


def _corners(shares: list[float], sides: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    centre, half = np.array(shares[:2]), np.array(shares[2:]) / 2
    return unscaled(np.concatenate([centre - half, centre + half]), np.tile(sides, 2))


def _points(
    shares: list[float], shape: tuple[int, int], sides: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    points = np.array(shares).reshape(shape)
    # two numbers a point: seen, unless both are 0
    seen = points[:, 2:] if shape[1] == 3 else 2.0 * points.any(axis=1, keepdims=True)
    return np.concatenate([unscaled(points[:, :2], sides), seen], axis=1)
