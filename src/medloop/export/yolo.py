"""YOLO: boxes, polygons or keypoints in text files beside copies of the images.

Which of them is chosen by what there is: keypoints, else masks, else boxes; classes of whole
images become folders. ``train.txt`` and its like list the images of each split. A mask becomes the
outline of its pixels, which fills to the same mask; its parts are joined to one polygon.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medloop import masks
from medloop.errors import DataError
from medloop.export.blocks import Block, Source
from medloop.export.folder import FOLDER
from medloop.export.format import Blocks, Format, flushed, only
from medloop.export.pictures import copy_picture, pixels_of, renamed
from medloop.read.image import shown
from medloop.read.parts import DIGITS, Part
from medloop.read.yolo import label_name, yolo_parts


def task_of(source: Source) -> str:
    """Return pose, segment, detect or classify."""
    tasks = {"keypoints": "pose", "mask": "segment", "box": "detect"}
    return next((task for name, task in tasks.items() if name in source.has), "classify")


def write_yolo(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write a YOLO data set."""
    task = task_of(source)
    pixels = pixels_of(source)
    path.mkdir()
    written: dict[str, str] = {}
    for split in source.splits:
        with (path / f"{split}.txt").open("x", encoding="utf-8", newline="") as images:
            plain = source.blocks(split=split, labels=False)
            names = (file for block in plain for file in zip(block.file, block.sha256, strict=True))
            for block in blocks(split=split):
                bounds = block.bounds()
                for at, file in enumerate(block.file):
                    stored, sha256 = next(names)
                    name = f"images/{file}"
                    label = label_name(name)
                    other = written.setdefault(label, file)
                    if other != file:
                        raise DataError(
                            f"{shown(file)} and {shown(other)} would share one label file in YOLO."
                        )
                    copy_picture(pixels, stored, sha256, path / name)
                    images.write(f"./{name}\n")
                    if block.looked[at]:
                        lines = _lines(block, at, slice(bounds[at], bounds[at + 1]), task)
                        target = path / label
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("x", encoding="utf-8", newline="") as stream:
                            stream.writelines(f"{line}\n" for line in lines)
            flushed(images)
    with (path / "data.yaml").open("x", encoding="utf-8") as stream:
        yaml.safe_dump(_about(source, task), stream, sort_keys=False, allow_unicode=True)
        flushed(stream)
    os.sync()


def _about(source: Source, task: str) -> dict[str, Any]:
    about: dict[str, Any] = {name: f"{name}.txt" for name in source.splits}
    about["names"] = dict(enumerate(source.classes))
    if task == "pose" and source.skeleton is not None:
        about["kpt_shape"] = [len(source.skeleton.points), 3]
        about["flip_idx"] = source.skeleton.mirrored().tolist()
        about["kpt_names"] = {k: list(source.skeleton.points) for k in range(len(source.classes))}
    return about


def _lines(block: Block, at: int, rows: slice, task: str) -> Iterator[str]:
    labels = block.labels
    height, width = block.size[at].tolist()
    sides = np.array([width, height])
    for row in range(rows.start, rows.stop):
        mask = None if labels.mask is None else labels.mask[row]
        if mask is not None:
            shares = (masks.one_polygon(mask) / sides).ravel()
        elif labels.box is not None:
            near, far = labels.box[row, :2], labels.box[row, 2:]
            shares = np.concatenate([(near + far) / 2 / sides, (far - near) / sides])
        else:  # held() leaves none of these
            continue
        if task == "pose":
            points = np.zeros((0, 3)) if labels.keypoints is None else labels.keypoints[row]
            rest = np.concatenate([points[:, :2] / sides, points[:, 2:]], axis=1).ravel()
            shares = np.concatenate([shares, rest])
        words = (f"{share:.15g}" for share in shares.tolist())
        yield " ".join([str(labels.class_id[row]), *words])


def _held(source: Source, block: Block) -> Block:
    task = task_of(source)
    block = renamed(block)
    block = only(block, "box", *{"pose": ["keypoints"], "segment": ["mask"]}.get(task, []))
    labels = block.labels
    box = np.zeros((len(labels), 4)) if labels.box is None else labels.box.copy()
    if labels.mask is not None:
        for row, mask in enumerate(labels.mask):
            if mask is not None:
                box[row] = masks.box(mask)
    keep = box.any(axis=1)
    columns: dict[str, Any] = {"box": np.round(box, DIGITS)}
    if task == "pose":
        points = np.zeros((len(labels), source.points, 3))
        columns["keypoints"] = np.round(
            points if labels.keypoints is None else labels.keypoints, DIGITS
        )
    labels = labels.with_(**columns)
    return replace(block, labels=labels[keep], row=block.row[keep], accepted=block.accepted[keep])


def _holds(source: Source) -> frozenset[str]:
    task = task_of(source)
    more = {"pose": ("box", "keypoints"), "segment": ("box", "mask"), "detect": ("box",)}[task]
    return frozenset(("file", "size", "split", "looked", "label", *more))


def _also(source: Source) -> list[str]:
    task = task_of(source)
    said = ["labels without a box are left out", "positions are kept to a millionth of a pixel"]
    if task == "segment":
        said.append("boxes are those of the masks")
    if task == "pose":
        said.append("the lines between keypoints are lost")
    return said


def _instead(source: Source) -> Format | None:
    """Write folders of classes where there is no box."""
    return replace(FOLDER, name="yolo") if task_of(source) == "classify" else None


def _parts(path: Path) -> Iterator[Part]:
    return yolo_parts(path / "data.yaml", trusted=True)


YOLO = Format("yolo", write_yolo, _parts, _holds, _held, _also, instead=_instead)
