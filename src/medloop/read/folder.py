"""A folder per class: the folder's name is a person's label of all images in it.

Where all folders at the top are called train, val or test, they are the splits. Images at the top
are to be labelled, and so are those in ``_unlabelled``; those in ``_none`` were examined and hold
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medloop.annotations import Annotations
from medloop.dataset import SPLITS
from medloop.errors import DataError
from medloop.read.gather import Gather
from medloop.read.listing import find_images
from medloop.read.parts import Part, assemble

UNLABELLED, NONE = "_unlabelled", "_none"


def read_folder(path: str | Path) -> Annotations:
    """Read a folder per class; the files keep the names that they have below ``path``.

    Raises
    ------
    UsageError
        It is no folder.
    DataError
        It holds no image.
    """
    path = Path(path)
    found = assemble(folder_parts(path), sort_classes=True)
    if not len(found):
        raise DataError(f"{path} holds no image.")
    return found


def folder_parts(path: Path, *, bare: bool = False) -> Iterator[Part]:
    """Read a folder per class some images at a time.

    With ``bare``, files are named below the folder of their class, as an export means them.
    """
    files = find_images(path)
    split_on = bool(files) and all(name.split("/")[0] in SPLITS for name in files)
    gather = Gather(trusted=True)
    for name in files:
        *folders, last = name.split("/")
        split = folders.pop(0) if split_on else ""
        label = folders.pop(0) if folders else UNLABELLED
        file = "/".join([*folders, last]) if bare else name
        taken = gather.image(file, where=name, split=split, looked=label != UNLABELLED)
        if taken and label not in (UNLABELLED, NONE):
            gather.finding(label, where=name)
        if gather.full:
            yield gather.part()
    yield gather.part()
