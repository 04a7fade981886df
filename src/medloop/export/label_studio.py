"""Label Studio tasks: a person's labels as annotations, a model's as predictions, one a round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from medloop.export.blocks import Block, Source
from medloop.export.format import Blocks, Format, flushed, only
from medloop.labels import HUMAN
from medloop.read.label_studio import label_studio_parts
from medloop.read.parts import DIGITS

#: What Label Studio shows of its own disk; its setting LOCAL_FILES_DOCUMENT_ROOT is the folder.
_LOCAL = "/data/local-files/?d="


def write_label_studio(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write a list of tasks."""
    with path.open("x", encoding="utf-8", newline="") as stream:
        stream.write("[")
        before = "\n"
        for block in blocks():
            bounds = block.bounds()
            for at in range(len(block)):
                task = _task(source, block, at, range(bounds[at], bounds[at + 1]))
                stream.write(before + json.dumps(task, separators=(",", ":"), ensure_ascii=False))
                before = ",\n"
        stream.write("\n]\n")
        flushed(stream)


def _task(source: Source, block: Block, at: int, rows: range) -> dict[str, Any]:
    height, width = block.size[at].tolist()
    about = {"height": height, "width": width, "split": block.split[at]}
    if block.patient[at]:
        about["patient"] = block.patient[at]
    data = {"image": _LOCAL + quote(block.file[at]), "medloop": about}
    task: dict[str, Any] = {"id": int(block.id[at]), "data": data}
    labels = block.labels
    mine = [row for row in rows if labels.source[row] == HUMAN]
    if mine or (not len(rows) and block.looked[at] == HUMAN):
        task["annotations"] = [{"result": list(_regions(source, block, at, mine))}]
    rounds = sorted({int(labels.round[row]) for row in rows if labels.source[row] != HUMAN})
    predictions = []
    for number in rounds:
        own = [r for r in rows if labels.source[r] != HUMAN and labels.round[r] == number]
        predictions.append(
            {
                "model_version": f"medloop round {number}",
                "score": float(np.mean(labels.score[own])),
                "result": list(_regions(source, block, at, own)),
            }
        )
    if not len(rows) and block.looked[at] not in ("", HUMAN):
        predictions.append({"model_version": "medloop", "result": []})
    if predictions:
        task["predictions"] = predictions
    return task


def _regions(source: Source, block: Block, at: int, rows: list[int]) -> Iterator[dict[str, Any]]:
    labels = block.labels
    height, width = block.size[at].tolist()
    sides = np.array([width, height]) / 100
    for row in rows:
        name = source.classes[labels.class_id[row]]
        region: dict[str, Any] = {"id": f"r{row}", "to_name": "image"}
        region["score"] = float(labels.score[row])
        region["meta"] = {"accepted": bool(block.accepted[row])}
        if labels.box is None or not labels.box[row].any():
            choice = {"from_name": "choice", "type": "choices", "value": {"choices": [name]}}
            yield region | choice
            continue
        box = labels.box[row]
        x, y = (box[:2] / sides).tolist()
        wide, high = ((box[2:] - box[:2]) / sides).tolist()
        place = {"original_width": width, "original_height": height, "image_rotation": 0}
        value = {"x": x, "y": y, "width": wide, "height": high, "rotation": 0}
        value["rectanglelabels"] = [name]
        kind = {"from_name": "label", "type": "rectanglelabels"}
        yield region | place | kind | {"value": value}
        if labels.keypoints is None or not labels.keypoints[row].any() or source.skeleton is None:
            continue
        for number, point in enumerate(source.skeleton.points):
            px, py, seen = labels.keypoints[row, number].tolist()
            px, py = (np.array([px, py]) / sides).tolist()
            spot = {"x": px, "y": py, "width": 0.5, "keypointlabels": [point]}
            yield {
                "id": f"r{row}p{number}",
                "parentID": f"r{row}",
                "to_name": "image",
                "from_name": "point",
                "type": "keypointlabels",
                "meta": {"visibility": int(seen)},
                **place,
                "value": spot,
            }


def _held(source: Source, block: Block) -> Block:
    """Round positions; a model's labels stand after a person's, in the order of their rounds."""
    block = only(block, "box", "keypoints")
    labels = block.labels
    columns: dict[str, Any] = {}
    if labels.box is not None:
        columns["box"] = np.round(labels.box, DIGITS)
    if labels.keypoints is not None:
        points = np.round(labels.keypoints, DIGITS)
        if labels.box is not None:
            points[~labels.box.any(axis=1)] = 0
        columns["keypoints"] = points
    human = labels.source == HUMAN
    # an annotation of a person has no round
    columns["round"] = np.where(human, 0, labels.round)
    labels = labels.with_(**columns)
    order = np.lexsort((np.arange(len(labels)), labels.round, ~human, block.row))
    return replace(
        block, labels=labels[order], row=block.row[order], accepted=block.accepted[order]
    )


LABEL_STUDIO = Format(
    "label-studio",
    write_label_studio,
    partial(label_studio_parts, trusted=True),
    holds=lambda source: frozenset(
        (
            *("file", "size", "split", "patient", "looked"),
            *("label", "score", "source", "round", "box", "keypoints"),
        )
    ),
    held=_held,
    also=lambda source: [
        "positions are kept to a millionth of a pixel, and a person's labels have no round"
    ],
)
