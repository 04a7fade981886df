"""A folder per class with copies of the images, below a folder per split.

The class of an image is its most confident label, a person's before a model's. Images that were
examined and hold nothing lie in ``_none``, those to be labelled in ``_unlabelled``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medloop.errors import UsageError
from medloop.export.blocks import Block, Source
from medloop.export.format import Blocks, Format, only
from medloop.export.pictures import copy_picture, pixels_of, renamed
from medloop.labels import HUMAN
from medloop.read.folder import NONE, UNLABELLED, folder_parts
from medloop.read.parts import clean_names


def write_folder(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write a folder per split and class."""
    for name in source.classes:
        plain = clean_names([name])[0] == name and "/" not in name and name[:1] not in (".", "_")
        if not plain or name != name.strip():
            raise UsageError(f"class {name!r} cannot be the name of a folder; choose a format.")
    pixels = pixels_of(source)
    path.mkdir()
    plain_blocks = source.blocks(labels=False)
    stored = (file for block in plain_blocks for file in zip(block.file, block.sha256, strict=True))
    for block in blocks():
        folder = np.where(block.looked == "", UNLABELLED, NONE).astype(object)
        folder[block.row] = [source.classes[k] for k in block.labels.class_id.tolist()]
        for at, file in enumerate(block.file):
            name, sha256 = next(stored)
            copy_picture(pixels, name, sha256, path / block.split[at] / str(folder[at]) / file)
    os.sync()


def _held(source: Source, block: Block) -> Block:
    """Keep one label an image."""
    block = only(renamed(block))
    labels = block.labels
    # the last of these keys is the first that counts
    order = np.lexsort((np.arange(len(labels)), -labels.score, labels.source != HUMAN, block.row))
    first = np.ones(len(order), bool)
    first[1:] = block.row[order][1:] != block.row[order][:-1]
    keep = order[first]
    return replace(block, labels=labels[keep], row=block.row[keep], accepted=block.accepted[keep])


FOLDER = Format(
    "folder",
    write_folder,
    partial(folder_parts, bare=True),
    holds=lambda source: frozenset(("file", "split", "looked", "label")),
    held=_held,
    also=lambda source: [
        "an image has one label, its most confident one",
        "files come back below the folders of their split and class",
    ],
    ordered=False,
)
