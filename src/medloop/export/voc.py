"""Pascal VOC: ``Annotations`` with one XML file an image, named by number and image.

``filename`` is the image relative to the folder of the images, which are not copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from medloop.errors import DataError
from medloop.export.blocks import Block, Source
from medloop.export.format import Blocks, Format, only
from medloop.read.voc import voc_parts

#: Images in one folder.
_FOLDER = 1_000


def write_voc(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write VOC files."""
    home = path / "Annotations"
    home.mkdir(parents=True)
    written = 0
    for block in blocks():
        bounds = block.bounds()
        for at, file in enumerate(block.file):
            # the number keeps their order, and keeps a.png and a.jpg apart
            name = f"{written:08d}_{PurePosixPath(file).stem[:100]}.xml"
            folder = home / f"{written // _FOLDER:05d}"
            folder.mkdir(exist_ok=True)
            lines = _lines(source, block, at, range(bounds[at], bounds[at + 1]))
            with (folder / name).open("x", encoding="utf-8", newline="") as stream:
                stream.writelines(f"{line}\n" for line in lines)
            written += 1
    os.sync()


def _lines(source: Source, block: Block, at: int, rows: range) -> Iterator[str]:
    height, width = block.size[at].tolist()
    yield "<annotation>"
    yield f"  <filename>{_text(block.file[at])}</filename>"
    yield f"  <size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    yield f"  <segmented>0</segmented><split>{block.split[at]}</split>"
    if not block.looked[at]:
        yield "  <looked_at>0</looked_at>"
    labels = block.labels
    for row in rows:
        yield f"  <object><name>{_text(source.classes[labels.class_id[row]])}</name>"
        yield "    <pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        if labels.box is not None and labels.box[row].any():
            corners = zip(("xmin", "ymin", "xmax", "ymax"), labels.box[row].tolist(), strict=True)
            inner = "".join(f"<{name}>{_number(value)}</{name}>" for name, value in corners)
            yield f"    <bndbox>{inner}</bndbox>"
        yield f"    <score>{float(labels.score[row])!r}</score>"
        yield f"    <source>{labels.source[row]}</source><round>{labels.round[row]}</round>"
        yield f"    <accepted>{int(block.accepted[row])}</accepted></object>"
    yield "</annotation>"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _text(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise DataError(f"VOC does not hold the name {value!r}: XML loses some of its letters.")
    return escape(value)


VOC = Format(
    "voc",
    write_voc,
    partial(voc_parts, trusted=True),
    holds=lambda source: frozenset(
        ("file", "size", "split", "looked", "label", "score", "source", "round", "box")
    ),
    held=lambda source, block: only(block, "box"),
    also=lambda source: ["classes come back in the order of their names"],
)
