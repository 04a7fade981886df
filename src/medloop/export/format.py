"""What a format is to the export: how it is written, read back, and what it cannot hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from medloop.errors import DataError, UsageError, WorkspaceError
from medloop.export.blocks import IMAGE_COLUMNS, Block, Source
from medloop.export.digest import Digest
from medloop.read.parts import Part, told
from medloop.store.files import sync_folder
from medloop.store.files import told as told_errors

LABEL = ("label", "score", "source", "round", "box", "keypoints", "mask", "probs")
IMAGE = ("file", "size", "split", "patient", "looked")
EVERYTHING = frozenset((*IMAGE, *LABEL))

_SAID = {
    "size": "image sizes",
    "split": "splits",
    "patient": "patients",
    "looked": "which images were examined",
    "box": "boxes",
    "keypoints": "keypoints",
    "mask": "masks",
    "probs": "probabilities",
    "score": "scores",
    "source": "sources",
    "round": "rounds",
}

Blocks = Iterator[Block]


@dataclass(frozen=True)
class Format:
    """One format.

    Parameters
    ----------
    name : str
    write : callable
        ``write(source, blocks, path)`` writes to a path where nothing is; ``blocks(**options)``
        yields what :meth:`Source.blocks` does, and notes it for the comparison.
    parts : callable
        ``parts(path)`` yields what is there, in the order that it was written.
    holds : callable
        ``holds(source)``: the columns that come back to the last bit.
    held : callable
        ``held(source, block)``: the block as the format can hold it.
    also : callable
        ``also(source)``: sentences on what it cannot hold besides whole columns.
    ordered : bool
        Whether it keeps the order of the images; where not, each has one label at most.
    instead : callable
        ``instead(source)``: another way to write this workspace, or None.
    images : collection of str
        What it writes of the images, of ``file``, ``size``, ``split``, ``patient`` and ``sha256``;
        no more is read.
    """

    name: str
    write: Callable[[Source, Callable[..., Blocks], Path], None]
    parts: Callable[[Path], Iterator[Part]]
    holds: Callable[[Source], frozenset[str]] = lambda source: EVERYTHING
    held: Callable[[Source, Block], Block] = lambda source, block: block
    also: Callable[[Source], list[str]] = lambda source: []
    ordered: bool = True
    instead: Callable[[Source], Format | None] = lambda source: None
    images: Collection[str] = IMAGE_COLUMNS


@dataclass(frozen=True)
class Exported:
    """What was written, and what the format could not hold."""

    path: Path
    format: str
    images: int
    labels: int
    lost: str

    def to_json(self) -> dict[str, Any]:
        """Say it as JSON can."""
        return {
            "out": str(self.path),
            "format": self.format,
            "images": self.images,
            "rows": self.labels,
            "lost": self.lost,
        }


def deliver(source: Source, format: Format, out: Path) -> Exported:
    """Write beside ``out``, read back, compare, and only then rename.

    Raises
    ------
    UsageError
        ``out`` is a folder that is not empty.
    DataError
        What was read back is not what was meant; nothing is left at ``out``.
    WorkspaceError
        It cannot be written.
    """
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is a folder that is not empty; choose another name.")
    format = format.instead(source) or format
    holds = format.holds(source)
    meant, found = (
        Digest(holds, points=source.points, classes=len(source.classes), ordered=format.ordered)
        for _ in range(2)
    )

    def blocks(**options: Any) -> Blocks:
        for block in source.blocks(images=format.images, **options):
            block = format.held(source, block)
            _note(meant, block)
            yield block

    part = out.with_name(f".{out.name}.part")
    with told_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        try:
            format.write(source, blocks, part)
            _read_back(source, format, part, meant, found, out)
            if out.is_dir():
                out.rmdir()
            os.replace(part, out)
        except BaseException:
            with suppress(OSError):
                _remove(part)
            raise
        sync_folder(out.parent)
    return Exported(out, format.name, meant.images, meant.labels, lost(source, format))


def lost(source: Source, format: Format) -> str:
    """Name in one sentence what the format cannot hold of this workspace; empty for nothing."""
    holds = format.holds(source)
    always = {"size", "split", "patient", "looked", "score", "source", "round"}
    there = always | source.has
    names = [said for name, said in _SAID.items() if name in there and name not in holds]
    sentences = [f"{format.name} holds no {_and(names)}"] if names else []
    sentences += format.also(source)
    if not source.one_width:
        sentences.append("columns whose width changed between rounds are left out")
    return f"{'; '.join(sentences)}." if sentences else ""


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _note(digest: Digest, block: Block) -> None:
    # positions count what is written, in the order of writing
    digest.add(
        file=block.file,
        size=block.size,
        split=block.split,
        patient=block.patient,
        looked=block.looked != "",
        labels=block.labels,
        position=digest.images + block.row,
    )


def _read_back(
    source: Source, format: Format, path: Path, meant: Digest, found: Digest, out: Path
) -> None:
    number = {name: k for k, name in enumerate(source.classes)}
    for part in format.parts(path):
        if part.refused:
            where, reason = part.refused[0]
            raise DataError(
                f"{out} was not written: read back as {format.name}, {told(where)} {reason}."
            )
        unknown = [name for name in part.classes if name not in number]
        if unknown:
            raise DataError(
                f"{out} was not written: {format.name} does not hold the class {unknown[0]!r}."
            )
        found.add(
            file=part.file,
            size=part.size,
            split=part.split,
            patient=part.patient,
            looked=part.looked,
            labels=part.labels,
            position=part.labels.image,
            class_of=np.array([number[name] for name in part.classes], np.int64),
        )
    differs = meant.differs(found)
    if differs:
        raise DataError(f"{out} was not written: read back as {format.name}, it has {differs}.")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flushed(stream: IO[Any]) -> None:
    """Flush a file to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def only(block: Block, *names: str) -> Block:
    """Keep these optional columns of the labels, and drop the others."""
    dropped = {
        name: None
        for name in ("box", "keypoints", "mask", "probs")
        if name not in names and getattr(block.labels, name) is not None
    }
    return replace(block, labels=block.labels.with_(**dropped)) if dropped else block


def writable(error: OSError, path: Path) -> WorkspaceError:
    """Word a write that failed for a reason that is not the disk's."""
    return WorkspaceError(f"{path} cannot be written: {error.strerror}.")
