"""Labels as CSV: ``file,label,score,source,round,accepted``, one row a label.

Boxes, keypoints and masks follow in columns of their own where there are any. An image without a
label has one row with an empty label, and a source where somebody examined it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medloop.export.blocks import Block, Source
from medloop.export.format import Blocks, Format, flushed
from medloop.labels import HUMAN, MODEL
from medloop.read.cells import defused
from medloop.read.findings import CORNERS, HEADER, findings_parts

_QUOTE = '"'


def write_csv(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write every current label, in order of the images.

    ``accepted`` is true for a person's labels and for machine labels that a certificate vouches
    for; without a certificate nothing vouches for a machine label.
    """
    classes = list(quoted(defused(source.classes)))
    extra = [name for name in ("box", "keypoints", "mask") if name in source.has]
    names = [name for kind in extra for name in (CORNERS if kind == "box" else (kind,))]
    with path.open("x", encoding="utf-8", newline="") as stream:
        stream.write(_lines([[name] for name in (*HEADER, *names)])[0])
        for block in blocks():
            files = quoted(defused(block.file))
            lines = _lines(_columns(block, files, classes, extra))
            bare = block.bare()
            if len(bare):
                lines = _with_bare(lines, block, files, bare, len(names))
            stream.write("".join(lines))
        flushed(stream)


def quoted(cells: Sequence[str]) -> Sequence[str]:
    """Write a column as the csv library does; joining a row's cells takes a third of its time.

    Examples
    --------
    >>> quoted(["a", "b,c", 'd"e'])
    ['a', '"b,c"', '"d""e"']
    """
    if not _special("\0".join(cells)):
        return cells
    return [f'"{cell.replace(_QUOTE, 2 * _QUOTE)}"' if _special(cell) else cell for cell in cells]


def _special(text: str) -> bool:
    return any(letter in text for letter in (",", _QUOTE, "\n", "\r"))


def _lines(columns: Sequence[Iterable[str]]) -> list[str]:
    return [f"{line}\n" for line in map(",".join, zip(*columns, strict=True))]


def _columns(
    block: Block, files: Sequence[str], classes: Sequence[str], extra: Sequence[str]
) -> list[Iterable[str]]:
    """Return the cells of the labels, ready to be joined."""
    labels = block.labels
    m = len(labels)
    rounds = {number: str(number) for number in set(labels.round.tolist())}
    columns: list[Iterable[str]] = [
        map(files.__getitem__, block.row.tolist()),
        map(classes.__getitem__, labels.class_id.tolist()),
        map(repr, labels.score.tolist()),
        map((MODEL, HUMAN).__getitem__, (labels.source == HUMAN).tolist()),
        map(rounds.__getitem__, labels.round.tolist()),
        map(("false", "true").__getitem__, block.accepted.tolist()),
    ]
    for name in extra:
        held = getattr(labels, name)
        if held is None:
            columns += [[""] * m] * (4 if name == "box" else 1)
        elif name == "mask":
            columns.append(quoted(["" if mask is None else json.dumps(mask) for mask in held]))
        elif name == "keypoints":
            there = held.any(axis=(1, 2)).tolist()
            points = held.tolist()
            told = [json.dumps(p) if t else "" for p, t in zip(points, there, strict=True)]
            columns.append(quoted(told))
        else:
            columns += _corners(held)
    return columns


def _corners(box: np.ndarray[Any, Any]) -> list[list[str]]:
    columns = [list(map(repr, column)) for column in box.T.tolist()]
    none = ~box.any(axis=1)
    for column in columns:
        for row in np.flatnonzero(none).tolist():
            column[row] = ""
    return columns


def _with_bare(
    lines: list[str], block: Block, files: Sequence[str], bare: np.ndarray[Any, Any], extra: int
) -> list[str]:
    """Add a line for every image without a label, where it belongs."""
    looked = block.looked.tolist()
    rest = ",," + "," * extra
    every = [*lines, *(f"{files[at]},,,{looked[at]}{rest}\n" for at in bare.tolist())]
    order = np.argsort(np.concatenate([block.row, bare]), kind="stable")
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
    images=("file",),
    also=_also,
)
