"""Pascal VOC: an XML file an image, in ``Annotations`` or in the folder itself.

Corners are taken as they stand, in pixels from 0. An object without a box names its whole image.
Beside what VOC says, ``score``, ``source`` and ``round`` of an object, and ``split`` and
``looked_at`` of an image are read; files named in ``ImageSets/Main`` give splits too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medloop.annotations import Annotations
from medloop.errors import DataError, UsageError
from medloop.read.gather import Gather, floats
from medloop.read.parts import Part, assemble
from medloop.read.xml import elements, side, text

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SPLITS = {"train": "train", "val": "val", "test": "test"}


def read_voc(path: str | Path) -> Annotations:
    """Read one VOC file, or all of a folder; classes are in order of their names.

    Raises
    ------
    UsageError
        There is no such file.
    DataError
        None of the files is a VOC file.
    """
    found = assemble(voc_parts(Path(path)), sort_classes=True)
    if not len(found):
        first = f": {found.refused[0][0]} {found.refused[0][1]}" if found.refused else ""
        raise DataError(f"{path} holds no VOC annotation{first}.")
    return found


def voc_parts(path: Path, *, trusted: bool = False) -> Iterator[Part]:
    """Read VOC files some at a time, in the order of their names."""
    home = path / "Annotations" if (path / "Annotations").is_dir() else path
    files = sorted(home.rglob("*.xml")) if path.is_dir() else [path]
    sets = {} if trusted else _sets(path)
    gather = Gather(trusted=trusted)
    for file in files:
        name = file.relative_to(home).as_posix() if path.is_dir() else file.name
        try:
            for image in elements(file, "annotation"):
                _image(gather, name, image, sets.get(Path(name).with_suffix("").as_posix(), ""))
        except (DataError, UsageError) as error:
            gather.refuse(name, str(error))
        if gather.full:
            yield gather.part()
    yield gather.part()


def _sets(path: Path) -> dict[str, str]:
    """Return the split of each image that ``ImageSets/Main`` names."""
    found: dict[str, str] = {}
    for name, split in _SPLITS.items():
        listing = path / "ImageSets" / "Main" / f"{name}.txt"
        if listing.is_file() and listing.stat().st_size < 100_000_000:
            for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.split():
                    found[line.split()[0]] = split
    return found


def _image(gather: Gather, where: str, image: Any, split: str) -> None:
    size = image.find("size")
    sides = (
        (0, 0) if size is None else (side(size.findtext("height")), side(size.findtext("width")))
    )
    taken = gather.image(
        text(image, "filename"),
        sides if all(sides) else (0, 0),
        where=where,
        split=text(image, "split") or split,
        looked=text(image, "looked_at") != "0",
    )
    if not taken:
        return
    for at, found in enumerate(image.iter("object")):
        place = f"{where} object {at}"
        columns: dict[str, Any] = {"source": text(found, "source") or None}
        wrong = ""
        for name in ("score", "round"):
            if stated := text(found, name):
                value = floats([stated])
                columns[name] = value[0] if value else float("inf")
        box = found.find("bndbox")
        if box is not None:
            corners = floats([text(box, name) for name in _CORNERS])
            wrong = "" if corners else "has a box without four finite corners"
            columns["box"] = corners
        if wrong:
            gather.refuse(place, wrong)
        else:
            gather.finding(text(found, "name"), where=place, **columns)
