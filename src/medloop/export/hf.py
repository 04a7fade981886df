"""A Hugging Face image folder: copies of the images, and a ``metadata.jsonl`` a split."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from medloop.export.blocks import Block, Source
from medloop.export.coco import sides_of
from medloop.export.format import Blocks, Format, flushed, only
from medloop.export.pictures import copy_picture, pixels_of, renamed
from medloop.read.hf import NAME, hf_parts


def write_hf(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write an image folder."""
    pixels = pixels_of(source)
    path.mkdir()
    for split in source.splits:
        folder = path / split
        folder.mkdir()
        plain = source.blocks(split=split, labels=False)
        stored = (file for block in plain for file in zip(block.file, block.sha256, strict=True))
        with (folder / NAME).open("x", encoding="utf-8", newline="") as stream:
            for block in blocks(split=split):
                bounds = block.bounds()
                for at, file in enumerate(block.file):
                    copy_picture(pixels, *next(stored), folder / file)
                    record = _record(source, block, at, slice(bounds[at], bounds[at + 1]))
                    stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            flushed(stream)
    os.sync()


def _record(source: Source, block: Block, at: int, rows: slice) -> dict[str, Any]:
    height, width = block.size[at].tolist()
    labels = block.labels
    names = [source.classes[k] for k in labels.class_id[rows].tolist()]
    objects: dict[str, Any] = {
        "categories": names,
        "score": labels.score[rows].tolist(),
        "source": labels.source[rows].tolist(),
        "round": labels.round[rows].tolist(),
        "accepted": block.accepted[rows].tolist(),
    }
    if "box" in source.has:
        box = labels.box[rows] if labels.box is not None else None
        corners = [[]] * len(names) if box is None else box.tolist()
        objects["box"] = [four if any(four) else [] for four in corners]
        sides = [[]] * len(names) if box is None else sides_of(box)[0].tolist()
        pairs = zip(objects["box"], sides, strict=True)
        objects["bbox"] = [[*four[:2], *two] if four else [] for four, two in pairs]
    if "keypoints" in source.has:
        held = labels.keypoints
        points = [[]] * len(names) if held is None else held[rows].tolist()
        objects["keypoints"] = [p if any(map(any, p)) else [] for p in points]
    if "mask" in source.has:
        masks = [None] * len(names) if labels.mask is None else list(labels.mask[rows])
        objects["segmentation"] = masks
    record = {"file_name": block.file[at], "height": height, "width": width}
    record |= {"split": block.split[at], "patient": block.patient[at]}
    record["looked_at"] = bool(block.looked[at])
    record["label"] = names[0] if len(names) == 1 else ""
    return record | {"objects": objects}


def _also(source: Source) -> list[str]:
    said = [
        "files come back below the folder of their split",
        "classes come back in the order of their names",
    ]
    return said + (["keypoints lose their names and lines"] if "keypoints" in source.has else [])


HF = Format(
    "hf",
    write_hf,
    partial(hf_parts, bare=True),
    holds=lambda source: frozenset(
        (
            *("file", "size", "split", "patient", "looked"),
            *("label", "score", "source", "round", "box", "keypoints", "mask"),
        )
    ),
    held=lambda source, block: only(renamed(block), "box", "keypoints", "mask"),
    also=_also,
)
