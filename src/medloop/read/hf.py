"""A Hugging Face image folder: images with a ``metadata.jsonl`` beside them, one a split.

``label`` is the class of an image, ``objects`` holds lists as long as there are findings:
``categories`` with ``bbox`` (x, y, width, height) or ``box`` (corners), ``keypoints``,
``segmentation`` (run-length masks), ``score``, ``source`` and ``round``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medloop import masks
from medloop.annotations import Annotations
from medloop.errors import DataError, UsageError
from medloop.read.gather import Gather, floats
from medloop.read.parts import Part, assemble, number

NAME = "metadata.jsonl"
_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def read_hf(path: str | Path) -> Annotations:
    """Read an image folder; files are named below ``path``.

    Raises
    ------
    UsageError
        There is no metadata.
    DataError
        It is not UTF-8.
    """
    path = Path(path)
    return assemble(hf_parts(path if path.is_dir() else path.parent), sort_classes=True)


def hf_parts(path: Path, *, bare: bool = False) -> Iterator[Part]:
    """Read an image folder some images at a time; ``bare`` leaves out the folder of the split."""
    places = [
        (folder, split) for folder, split in _FOLDERS.items() if (path / folder / NAME).is_file()
    ]
    if (path / NAME).is_file():
        places.insert(0, ("", ""))
    if not places:
        raise UsageError(f"{path} has no {NAME}.")
    gather = Gather(trusted=bare)
    for folder, split in places:
        source = path / folder / NAME
        try:
            with source.open(encoding="utf-8-sig") as stream:
                for at, line in enumerate(stream, start=1):
                    if line.strip():
                        where = f"{folder}/{NAME} line {at}".lstrip("/")
                        _line(gather, where, line, "" if bare else folder, split)
                    if gather.full:
                        yield gather.part()
        except UnicodeDecodeError:
            raise DataError(f"{source} is not UTF-8 text.") from None
    yield gather.part()


def _line(gather: Gather, where: str, line: str, folder: str, split: str) -> None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        gather.refuse(where, "is not JSON")
        return
    name = record.get("file_name") if isinstance(record, dict) else None
    if not isinstance(name, str) or not name:
        gather.refuse(where, "has no file_name")
        return
    sides = [record.get("height"), record.get("width")]
    known = all(type(side) is int and 0 < side <= 1_000_000 for side in sides)
    size = (int(sides[0]), int(sides[1])) if known else (0, 0)
    # an absolute name stays one, and is refused
    file = f"{folder}/{name}" if folder and not name.startswith("/") else name
    taken = gather.image(
        file,
        size,
        where=where,
        split=record.get("split") or split,
        patient=record.get("patient", ""),
        looked=record.get("looked_at") is not False,
    )
    if not taken:
        return
    label, objects = record.get("label"), record.get("objects")
    if isinstance(label, str) and label and not isinstance(objects, dict):
        gather.finding(label, where=where)
    if isinstance(objects, dict):
        _objects(gather, where, objects)


def _objects(gather: Gather, where: str, objects: dict[str, Any]) -> None:
    names = objects.get("categories", objects.get("category"))
    if not isinstance(names, list):
        gather.refuse(where, "has objects without a list of categories")
        return
    columns = {
        key: held
        for key, held in objects.items()
        if isinstance(held, list) and len(held) == len(names)
    }
    for at, name in enumerate(names):
        place = f"{where} object {at}"
        row = {key: held[at] for key, held in columns.items()}
        if not isinstance(name, str):
            gather.refuse(place, "has a category that is no name")
            continue
        try:
            gather.finding(name, where=place, **_columns(row))
        except DataError as error:
            gather.refuse(place, str(error).rstrip("."))


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"source": row.get("source")}
    for name in ("score", "round"):
        if row.get(name) is not None:
            found[name] = number(row[name])
    stated = row.get("box") or row.get("bbox")
    if stated:
        box = floats(stated) if isinstance(stated, list) else None
        if box is None or len(box) != 4:
            raise DataError("has a box without four finite numbers.")
        if not row.get("box"):
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        found["box"] = box
    if row.get("keypoints"):
        flat = floats(v for p in row["keypoints"] for v in (p if isinstance(p, list) else [p]))
        if flat is None or len(flat) % 3:
            raise DataError("has keypoints that are not x, y, visibility.")
        found["keypoints"] = np.array(flat).reshape(-1, 3)
    if row.get("segmentation"):
        found["mask"] = masks.normal(row["segmentation"])
    return found
