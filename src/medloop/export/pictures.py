"""The images themselves, for formats that have them beside their labels."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

from medloop.dataset import Pixels
from medloop.errors import DataError, ImageError, UsageError
from medloop.export.blocks import Block, Source
from medloop.read.image import SUFFIXES, FolderPixels, inside, shown


def pixels_of(source: Source) -> Pixels:
    """Return where the images of a workspace are read from.

    Raises
    ------
    UsageError
        They are not there any more.
    """
    stated = str(source.workspace.config.get("images", ""))
    root = Path(stated)
    if stated and root.is_dir():
        return FolderPixels(root)
    if stated and root.is_file():
        from medloop.read.listing import list_images

        return list_images(root, need_labels=False).pixels
    folder = source.workspace.folder
    raise UsageError(f"the images of {folder} are not at {stated or 'any folder'}.")


def picture_name(file: str) -> str:
    """Name the file of an image; one that is no file, as in an npz, becomes a PNG.

    Examples
    --------
    >>> picture_name("a/b.jpg"), picture_name("train/7")
    ('a/b.jpg', 'train/7.png')
    """
    return file if file.lower().endswith(SUFFIXES) else f"{file}.png"


def renamed(block: Block) -> Block:
    """Return a block whose files are called as their copies are."""
    return replace(block, file=[picture_name(file) for file in block.file])


def copy_picture(pixels: Pixels, file: str, sha256: str, target: Path) -> None:
    """Copy an image, byte for byte where it is a file.

    Raises
    ------
    DataError
        It changed since it was registered, or cannot be read.
    """
    inside(file)
    try:
        data = pixels.raw(file)
    except ImageError as error:
        raise DataError(f"an image cannot be copied: {error}") from None
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{shown(file)} changed since it was registered; nothing is exported.")
    if not isinstance(pixels, FolderPixels):
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(pixels.read(file)).save(stream, "PNG")
        data = stream.getvalue()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as stream_out:
        stream_out.write(data)
