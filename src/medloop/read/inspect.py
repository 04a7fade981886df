"""What is in a folder, file by file, before anything is built on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medloop.engine import map_batches
from medloop.errors import ImageError, UsageError
from medloop.read.about import About
from medloop.read.image import SUFFIXES, FolderPixels, decode, read_bytes, shown
from medloop.read.kinds import DICOM, IMAGE, NIFTI, head_of, kind_of
from medloop.read.lettering import has_lettering
from medloop.read.listing import find_files
from medloop.read.pseudonym import alias, local_key, marked
from medloop.read.volumes import NAME, look_into

_PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"II": "TIFF", b"MM": "TIFF"}


@dataclass(frozen=True)
class Inspected:
    """What was seen of one file; ``reason`` is empty where every image of it can be read."""

    file: str
    kind: str
    height: int = 0
    width: int = 0
    frames: int = 0
    bits: int = 0
    patient: str = ""
    study: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def readable(self) -> bool:
        """Whether every image of it can be read."""
        return not self.reason

    def line(self) -> str:
        """Say it in one line."""
        if not self.readable:
            reason = self.reason.removeprefix(f"{shown(self.file)} ")
            return f"{shown(self.file)}: {self.kind or 'file'}, unreadable: {reason}"
        size = f"{self.height} x {self.width}"
        if self.frames > 1:
            size += f" x {self.frames}"
        said = [self.kind, size, f"{self.bits} bits"]
        if self.patient:
            said.append(f"patient {self.patient}")
        return f"{shown(self.file)}: {', '.join([*said, *self.flags])}"

    def as_dict(self) -> dict[str, Any]:
        """Return the same for a machine."""
        return asdict(self) | {"readable": self.readable}


def inspect(path: Path, *, key: bytes | None = None) -> Iterator[Inspected]:
    """Look at a file, or at every file of a folder that is an image or says that it is one.

    Every frame is decoded, and the first is searched for drawn-in text. No name, number or date
    of a patient comes out: patients are told apart by pseudonyms, and a path that holds a name or
    a number which stands in the header of its own file, or of a file near it, is replaced by a
    pseudonym.

    Parameters
    ----------
    path : Path
    key : bytes, optional
        For the pseudonyms; the secret of this machine where not given.

    Raises
    ------
    UsageError
        There is no such path, or the secret of this machine cannot be kept.
    """
    if path.is_dir():
        root, (pictures, others) = path, find_files(path)
        files = sorted([*pictures, *others])
    elif path.exists():
        root, files = path.parent, [path.name]
    else:
        raise UsageError(f"no file or folder at {path}.")
    alone = not path.is_dir()
    pixels = FolderPixels(root)
    kinds = {name: _kind(root / name, name) for name in files}
    files = [name for name in files if kinds[name] or alone]
    if key is None and any(kind in (DICOM, NIFTI) for kind in kinds.values()):
        key = local_key()
    marks: set[str] = set()
    for start in range(0, len(files), _AT_ONCE):
        part = files[start : start + _AT_ONCE]
        yield from _inspect(pixels, part, kinds, key or b"", marks)


#: Headers are read for so many files before the first of them is told: a name in one header may
#: stand in the path of another file.
_AT_ONCE = 500


def _inspect(
    pixels: FolderPixels, files: list[str], kinds: dict[str, str], key: bytes, marks: set[str]
) -> Iterator[Inspected]:
    headers = [name for name in files if kinds[name] in (DICOM, NIFTI)]
    abouts = dict(zip(headers, look_into(pixels, headers, key), strict=True))
    for about in abouts.values():
        marks.update(about.marks)

    def look(names: Sequence[str]) -> Inspected:
        name = names[0]
        return _one(pixels, name, kinds[name], abouts.get(name), key, marks)

    yield from map_batches(look, files, batch=1)


def _kind(path: Path, name: str) -> str:
    kind = kind_of(head_of(path), name)
    return kind or (IMAGE if name.lower().endswith(SUFFIXES) else "")


def _one(
    pixels: FolderPixels, name: str, kind: str, about: About | None, key: bytes, marks: set[str]
) -> Inspected:
    parts = {*(about.said if about else ()), *(marked(key, name, marks) if marks else ())}
    said = alias(key, name, parts) if parts else name
    if about is None:
        return _picture(pixels, name, said, kind)
    flags = [*about.flags, *(["name in path"] if parts else [])]
    told: dict[str, Any] = {
        "file": said,
        "kind": about.kind or "DICOMDIR",
        "height": about.height,
        "width": about.width,
        "frames": about.frames,
        "bits": about.bits,
        "patient": about.patient,
        "study": about.study,
        "columns": about.columns,
        "flags": flags,
    }
    if about.reason:
        return Inspected(**told, reason=about.reason.replace(NAME, shown(said)))
    aliased = FolderPixels(pixels.root, {said: name})
    frames = about.slices or [""]
    for frame in frames:
        try:
            array = aliased.read(f"{said}#{frame}" if frame else said)
        except ImageError as error:
            return Inspected(**told, reason=str(error))
        if frame == frames[0]:
            flags += _text_seen(array)
    return Inspected(**told)


def _picture(pixels: FolderPixels, name: str, said: str, kind: str) -> Inspected:
    try:
        path, _ = pixels.locate(name)
        data = read_bytes(path, said)
        kind = next((word for magic, word in _PICTURES.items() if data.startswith(magic)), kind)
        array = decode(data, said)
    except ImageError as error:
        return Inspected(said, kind, reason=str(error).replace(shown(name), shown(said)))
    height, width = array.shape[:2]
    bits = 8 * array.dtype.itemsize
    return Inspected(said, kind, height, width, 1, bits, flags=_text_seen(array))


def _text_seen(array: NDArray[Any]) -> list[str]:
    return ["text seen?"] if has_lettering(array) else []
