"""Labels as CSV: ``file,label,score,source,round,accepted``, one row a label.

Boxes, keypoints and masks follow in columns of their own where there are any. An image without a
label has one row with an empty label, and a source where somebody examined it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medloop.export.blocks import Block, Source
from medloop.export.format import Blocks, Format, flushed
from medloop.read.cells import defused
from medloop.read.findings import CORNERS, HEADER, findings_parts


def write_csv(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write every current label, in order of the images.

    ``accepted`` is true for a person's labels and for machine labels that a certificate vouches
    for; without a certificate nothing vouches for a machine label.
    """
    classes = list(defused(source.classes))
    extra = [name for name in ("box", "keypoints", "mask") if name in source.has]
    names = [name for kind in extra for name in (CORNERS if kind == "box" else (kind,))]
    with path.open("x", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow((*HEADER, *names))
        for block in blocks():
            table = _table(block, classes, extra)
            bare = np.setdiff1d(np.arange(len(block)), block.row)
            if len(bare):
                table = _with_bare(table, block, bare, len(names))
            rows.writerows(table)
        flushed(stream)


def _table(block: Block, classes: list[str], extra: Sequence[str]) -> list[Sequence[Any]]:
    labels = block.labels
    files = defused(block.file)
    columns: list[Sequence[Any]] = [
        [files[row] for row in block.row.tolist()],
        [classes[k] for k in labels.class_id.tolist()],
        labels.score.tolist(),
        labels.source.tolist(),
        labels.round.tolist(),
        np.where(block.accepted, "true", "false").tolist(),
    ]
    m = len(labels)
    for name in extra:
        held = getattr(labels, name)
        if held is None:
            columns += [[""] * m] * (4 if name == "box" else 1)
        elif name == "mask":
            columns.append(["" if mask is None else json.dumps(mask) for mask in held])
        elif name == "keypoints":
            there = held.any(axis=(1, 2)).tolist()
            points = held.tolist()
            columns.append([json.dumps(p) if t else "" for p, t in zip(points, there, strict=True)])
        else:
            columns += _corners(held)
    return list(zip(*columns, strict=True))


def _corners(box: np.ndarray[Any, Any]) -> list[list[Any]]:
    columns: list[list[Any]] = box.T.tolist()
    none = ~box.any(axis=1)
    for column in columns:
        for row in np.flatnonzero(none).tolist():
            column[row] = ""
    return columns


def _with_bare(
    table: list[Sequence[Any]], block: Block, bare: np.ndarray[Any, Any], extra: int
) -> list[Sequence[Any]]:
    """Add a row for every image without a label, where it belongs."""
    files, looked = defused(block.file), block.looked.tolist()
    empty = [""] * extra
    rows = [(files[at], "", "", looked[at], "", "", *empty) for at in bare.tolist()]
    order = np.argsort(np.concatenate([block.row, bare]), kind="stable")
    every: list[Sequence[Any]] = [*table, *rows]
    return [every[at] for at in order.tolist()]


def _also(source: Source) -> list[str]:
    said = ["classes come back in the order of their names, those without a label not at all"]
    if "keypoints" in source.has:
        said.append("keypoints lose their names and lines")
    return said


_HOLDS = frozenset(
    ("file", "looked", "label", "score", "source", "round", "box", "keypoints", "mask")
)
CSV = Format(
    "csv",
    write_csv,
    partial(findings_parts, together=True),
    holds=lambda source: _HOLDS,
    also=_also,
)
