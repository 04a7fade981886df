"""COCO: one JSON document, written and read back a block at a time.

The id of an image is its id in the workspace, that of a category its class counted from 1. A
label without a box gets the box of its whole image and ``"whole_image": true``, because other
tools need a box; an image without a label is listed all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop import masks
from medloop.export.blocks import Block, Source
from medloop.export.format import Blocks, Format, flushed
from medloop.read.coco import coco_parts


def write_coco(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write a COCO document."""
    with path.open("x", encoding="utf-8", newline="") as stream:
        stream.write('{"info":{"description":"written by medloop"},\n"categories":')
        stream.write(_dumps(_categories(source)))
        _list(stream.write, "images", map(_images, source.blocks(labels=False)))
        _list(stream.write, "annotations", _numbered(blocks()))
        stream.write("}\n")
        flushed(stream)


def _list(write: Callable[[str], Any], name: str, pieces: Iterator[list[dict[str, Any]]]) -> None:
    write(f',\n"{name}":[')
    before = ""
    for piece in pieces:
        if piece:
            write(before + "\n" + _dumps(piece)[1:-1])
            before = ","
    write("\n]")


def _dumps(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _categories(source: Source) -> list[dict[str, Any]]:
    about: dict[str, Any] = {}
    skeleton = source.skeleton
    if skeleton is not None and "keypoints" in source.has:
        about["keypoints"] = list(skeleton.points)
        about["skeleton"] = [[a + 1, b + 1] for a, b in skeleton.edges]
        if skeleton.flip:
            about["flip"] = [[a + 1, b + 1] for a, b in skeleton.flip]
        if skeleton.sigmas:
            about["sigmas"] = list(skeleton.sigmas)
    return [
        {"id": k, "name": name, "supercategory": "", **about}
        for k, name in enumerate(source.classes, start=1)
    ]


def _images(block: Block) -> list[dict[str, Any]]:
    records = []
    rows = zip(
        block.id.tolist(),
        block.file,
        block.size.tolist(),
        block.split,
        block.patient,
        block.looked.tolist(),
        strict=True,
    )
    for image, file, (height, width), split, patient, looked in rows:
        record = {"id": image, "file_name": file, "width": width, "height": height}
        record["split"] = split
        if patient:
            record["patient"] = patient
        if not looked:
            record["looked_at"] = False
        records.append(record)
    return records


def _numbered(blocks: Blocks) -> Iterator[list[dict[str, Any]]]:
    written = 0
    for block in blocks:
        yield _annotations(block, written)
        written += len(block.labels)


def _annotations(block: Block, written: int) -> list[dict[str, Any]]:
    labels = block.labels
    m = len(labels)
    given = np.asarray(np.zeros(m) if labels.box is None else labels.box.any(axis=1), bool)
    whole = np.concatenate([np.zeros((m, 2)), block.size[block.row][:, ::-1]], axis=1)
    corners = whole if labels.box is None else np.where(given[:, None], labels.box, whole)
    sides, exact = sides_of(corners)
    bbox = np.concatenate([corners[:, :2], sides], axis=1)
    rows = zip(
        range(written + 1, written + 1 + m),
        labels.image.tolist(),
        (labels.class_id + 1).tolist(),
        bbox.tolist(),
        (sides[:, 0] * sides[:, 1]).tolist(),
        labels.score.tolist(),
        labels.source.tolist(),
        labels.round.tolist(),
        block.accepted.tolist(),
        strict=True,
    )
    records: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": four,
            "area": area,
            "iscrowd": 0,
            "score": score,
            "source": source,
            "round": round,
            "accepted": accepted,
        }
        for number, image, category, four, area, score, source, round, accepted in rows
    ]
    for row in np.flatnonzero(~given).tolist():
        records[row]["whole_image"] = True
    for row in np.flatnonzero(given & ~exact).tolist():
        records[row]["box"] = corners[row].tolist()
    if labels.mask is not None:
        for record, mask in zip(records, labels.mask, strict=True):
            if mask is not None:
                record["segmentation"], record["area"] = mask, masks.area(mask)
    if labels.keypoints is not None:
        seen = (labels.keypoints[..., 2] > 0).sum(axis=1).tolist()
        there = np.asarray(labels.keypoints.any(axis=(1, 2))).tolist()
        for row, points in enumerate(labels.keypoints.reshape(m, -1).tolist()):
            if there[row]:
                records[row]["keypoints"], records[row]["num_keypoints"] = points, seen[row]
    if labels.probs is not None:
        there = np.asarray(labels.probs.any(axis=1)).tolist()
        for row, probs in enumerate(labels.probs.tolist()):
            if there[row]:
                records[row]["probs"] = probs
    return records


def sides_of(corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return widths and heights that give the far corners back to the last bit, and where none do.

    Examples
    --------
    >>> sides, exact = sides_of(np.array([[0.1, 0.0, 0.7, 1.0]]))
    >>> bool(0.1 + sides[0, 0] == 0.7), exact.tolist()
    (True, [True])
    """
    near, far = corners[:, :2], corners[:, 2:]
    sides = far - near
    for other in (np.inf, -np.inf):
        wrong = near + sides != far
        if wrong.any():
            tried = np.nextafter(sides, other)
            sides = np.where(wrong & (near + tried == far), tried, sides)
    return sides, (near + sides == far).all(axis=1)


COCO = Format("coco", write_coco, partial(coco_parts, trusted=True))
