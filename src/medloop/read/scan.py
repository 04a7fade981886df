"""Every image is opened once, before anything is built on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medloop.dataset import Pixels
from medloop.engine import map_batches
from medloop.errors import ImageError


@dataclass(frozen=True)
class Seen:
    """What one look at an image told; ``reason`` is empty where it can be used."""

    file: str
    sha256: str = ""
    size: int = 0
    height: int = 0
    width: int = 0
    reason: str = ""


def scan(pixels: Pixels, files: Sequence[str], *, batch: int = 64) -> Iterator[list[Seen]]:
    """Hash and decode every file, batch by batch, in order; a bad one becomes a reason."""
    return map_batches(lambda names: [_look(pixels, name) for name in names], files, batch=batch)


def _look(pixels: Pixels, name: str) -> Seen:
    try:
        data = pixels.raw(name)
    except ImageError as error:
        return Seen(name, reason=str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        height, width = pixels.decode(data, name).shape[:2]
    except ImageError as error:
        return Seen(name, sha256, len(data), reason=str(error))
    return Seen(name, sha256, len(data), height, width)
