"""One image file to pixels, within limits, or one ImageError."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import usable
from medloop.errors import ImageError, UsageError
from medloop.read import tiff
from medloop.read.kinds import DICOM, HEAD, NIFTI, head_of, kind_of, split_frame

# what a decoder has to say about a bad file is said in its ImageError, not on stderr
logging.getLogger("PIL").addHandler(logging.NullHandler())

#: What is decoded; anything else is refused whatever its name says.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

#: Pillow refuses more whatever is asked for.
_PILLOW_PIXELS = 178_956_970


def _max_pixels(given: str | None) -> int:
    if given is None:
        return 64_000_000
    if not given.isdecimal() or not 0 < int(given) <= _PILLOW_PIXELS:
        raise UsageError(
            f"MEDLOOP_MAX_PIXELS must be a number in [1, {_PILLOW_PIXELS}], got {given!r}."
        )
    return int(given)


#: No image of this field needs more; checked before any pixel is decoded.
MAX_PIXELS = _max_pixels(os.environ.get("MEDLOOP_MAX_PIXELS"))
MAX_BYTES = 4 * MAX_PIXELS


def _sandbox(given: str | None) -> bool:
    if given not in (None, "", "auto", "all"):
        raise UsageError(f"MEDLOOP_SANDBOX must be 'auto' or 'all', got {given!r}.")
    return given == "all"


#: Whether PNG, JPEG, TIFF and BMP are decoded in workers too.
ALL_IN_WORKERS = _sandbox(os.environ.get("MEDLOOP_SANDBOX"))

#: A progressive JPEG has about ten; thousands of them keep a decoder busy for minutes.
_MAX_SCANS = 100


def decode(data: bytes, name: str) -> NDArray[Any]:
    """Decode PNG, JPEG, TIFF or BMP bytes, or a DICOM or NIfTI file of one image.

    DICOM and NIfTI are parsed in worker processes (:mod:`medloop.read.sandbox`), and everything
    else too where ``MEDLOOP_SANDBOX=all``.

    Parameters
    ----------
    data : bytes
    name : str
        For the message only.

    Returns
    -------
    (h, w) or (h, w, 3) array
        uint8 or uint16 as stored; any other number as float32, or float64 in a DICOM or NIfTI
        file whose digits need it. Palettes are looked up, transparency is laid over black, a
        colour image (but for DICOM) whose channels are equal becomes grey, "white is zero" is
        turned round, and the orientation that a camera noted is applied.

    Raises
    ------
    ImageError
        It is empty, not one of the formats, truncated, larger than ``MAX_PIXELS``, holds more
        than one page or frame, has pixels that are not finite, or asks for more memory or time
        than an image may.
    MissingError
        What decodes DICOM or NIfTI is not installed.

    Examples
    --------
    >>> decode(b"hello", "a.png")
    Traceback (most recent call last):
    ...
    medloop.errors.ImageError: a.png is not a PNG, JPEG, TIFF or BMP image.
    """
    name = shown(name)
    if not data:
        raise ImageError(f"{name} is empty.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} has {len(data):,} bytes, at most {MAX_BYTES:,} are read.")
    if ALL_IN_WORKERS or kind_of(data[:HEAD], name) in (DICOM, NIFTI):
        from medloop.read.sandbox import shared

        return shared().decode(data, name)
    return decode_ordinary(data, name)


def decode_ordinary(data: bytes, name: str) -> NDArray[Any]:
    """Decode PNG, JPEG, TIFF or BMP bytes in this process."""
    from PIL import Image, UnidentifiedImageError

    try:
        with _quiet():
            pixels = _deep_tiff(data)
            if pixels is None:
                pixels = _by_pillow(data, name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        if data[:4] in tiff.MAGICS:
            raise ImageError(f"{name} is a TIFF of a kind that is not read.") from None
        raise ImageError(f"{name} is not a PNG, JPEG, TIFF or BMP image.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels.") from None
    except Exception as error:  # decoders raise a dozen classes; each means "not this file"
        raise ImageError(f"{name} cannot be decoded: {_first_line(error)}.") from None
    return usable(pixels, name)


def shown(name: str) -> str:
    r"""Return a name that fits into one line of a message.

    Examples
    --------
    >>> print(shown("a.png"), shown("two\nlines.png"))
    a.png 'two\nlines.png'
    """
    return name if name.isprintable() else repr(name)


class _Busy:
    """How many threads decode at this moment."""

    lock = threading.Lock()
    count = 0
    before: Any = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings while any thread decodes.

    ``warnings.catch_warnings`` alone is of no use here: two threads that leave it in the wrong
    order leave the filters of the process changed.
    """
    with _Busy.lock:
        _Busy.count += 1
        if _Busy.count == 1:
            _Busy.before = warnings.catch_warnings()
            _Busy.before.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\b")
    try:
        yield
    finally:
        with _Busy.lock:
            _Busy.count -= 1
            if _Busy.count == 0:
                _Busy.before.__exit__(None, None, None)


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return shown(line) if line else type(error).__name__


def _deep_tiff(data: bytes) -> NDArray[Any] | None:
    if data[:4] not in tiff.MAGICS:
        return None
    try:
        tags = tiff.tags_of(data)
        deep = tiff.is_deep(tags)
    except Exception:  # no TIFF after all, or one for Pillow to complain about
        return None
    pixels = tiff.decode_strips(data, tags, MAX_PIXELS) if deep else None
    return None if pixels is None else _plain(pixels)


def _by_pillow(data: bytes, name: str) -> NDArray[Any]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{name} has {width:,} x {height:,} pixels, at most {MAX_PIXELS:,} are read."
            )
        # a camera's JPEG may carry a second picture, such as a preview: the first one counts
        if image.format in ("PNG", "TIFF") and getattr(image, "is_animated", False):
            raise ImageError(f"{name} has more than one page or frame, expected 1.")
        # inside compressed data, these bytes mean nothing else
        if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _MAX_SCANS:
            raise ImageError(f"{name} has more than {_MAX_SCANS} scans.")
        if image.format == "TIFF":
            return _pillow_tiff(data, image)
        return _two_bytes(data, image) if _rawmode(image) else _pixels(_upright(image))


@cache
def _hush_libtiff() -> None:
    """Stop libtiff from printing what is wrong with a file, where Pillow's wheel brings it."""
    import ctypes

    import PIL

    for path in (Path(PIL.__file__).parents[1] / "pillow.libs").glob("libtiff*"):
        handler = ctypes.CDLL(str(path)).TIFFSetErrorHandler
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    image.load()
    return ImageOps.exif_transpose(image)


def _pillow_tiff(data: bytes, image: Any) -> NDArray[Any]:
    _hush_libtiff()
    tags = image.tag_v2
    if _rawmode(image):
        if tags.get(tiff.PLANAR) == 2:
            raise ValueError("compressed 16-bit colour must not lie in planes")
        return _two_bytes(data, image)
    bits, kind = (tiff.first(tags, tag) for tag in (tiff.BITS, tiff.FORMAT))
    inverted = tags.get(tiff.PHOTOMETRIC) == 0
    deep = tiff.is_deep(tags)
    mode = image.mode
    pixels = _pixels(_upright(image))
    if not deep:
        return pixels
    if (kind, bits) == (1, 32) and mode == "I":
        pixels = pixels.view(np.uint32)
    if (kind, bits) == (2, 8):
        pixels = pixels.view(np.int8)
    if inverted:
        pixels = 2**bits - 1 - pixels if kind == 1 else -pixels.astype(np.float32)
    return _plain(pixels)


#: The other half of a two-byte sample; Pillow keeps the high byte of each.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def _rawmode(image: Any) -> str:
    """Return Pillow's name of 16-bit colour in a file, or nothing where it is something else."""
    given = [tile.args or ("",) for tile in image.tile]
    rawmode = {str(args if isinstance(args, str) else args[0]) for args in given}
    found = rawmode.pop() if len(rawmode) == 1 else ""
    return found if found.rstrip("LBN") in ("RGB;16", "RGBA;16", "LA;16") else ""


def _two_bytes(data: bytes, image: Any) -> NDArray[Any]:
    """Read 16-bit colour, which Pillow cuts to 8: first the high bytes, then the low ones."""
    from PIL import Image

    rawmode = _rawmode(image)
    if rawmode.startswith("LA"):
        # four bytes a pixel, as RGBA has: high and low of grey, high and low of opacity
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        quads = np.asarray(_upright(image)).astype(np.uint16)
        return tiff.over_black(quads[..., ::2] << 8 | quads[..., 1::2])[..., 0]
    other = rawmode[:-1] + _OTHER_BYTE[rawmode[-1]]
    with Image.open(io.BytesIO(data), formats=FORMATS) as second:
        tiles: list[Any] = second.tile
        second.tile = [
            tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))
            for tile in tiles
        ]
        low = np.asarray(_upright(second))
    pixels = np.asarray(_upright(image)).astype(np.uint16) << 8 | low
    if pixels.shape[2] == 4:
        pixels = tiff.over_black(pixels)
    return _grey_if_equal(pixels)


def _pixels(image: Any) -> NDArray[Any]:
    from PIL import Image

    mode = image.mode
    if mode.startswith("I") or mode == "F":
        array = np.asarray(image)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen)
    if mode in ("1", "L") and image.mode == mode:
        return np.asarray(image.convert("L"))
    return _grey_if_equal(np.asarray(image.convert("RGB")))


def _grey_if_equal(pixels: NDArray[Any]) -> NDArray[Any]:
    red = pixels[..., 0]
    equal = all(np.array_equal(red, pixels[..., other]) for other in (1, 2))
    return red.copy() if equal else pixels


def _plain(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return numbers of one of the three types that the rest of the package knows."""
    if pixels.dtype in (np.uint8, np.uint16):
        plain = np.asarray(pixels)
    else:
        with np.errstate(over="ignore"):  # inf is refused later, by name
            plain = pixels.astype(np.float32)
    return _grey_if_equal(plain) if plain.ndim == 3 else plain


def read_bytes(path: Path, name: str) -> bytes:
    """Read a whole regular file, or say in one ImageError why that fails."""
    name = shown(name)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"{name} is no file.")
        if about.st_size > MAX_BYTES:
            raise ImageError(f"{name} has {about.st_size:,} bytes, at most {MAX_BYTES:,} are read.")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except ImageError:  # which is a ValueError too
        raise
    except FileNotFoundError:
        raise ImageError(f"{name} is not there.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name} cannot be read: {reason}.") from None


#: What identifies one frame of many: the file's hash and the frame, not a copy of the file.
_FRAME_OF = b"frame of sha256:"


@dataclass(frozen=True)
class FolderPixels:
    """Pixels of the image files below a folder, and of none outside it.

    Parameters
    ----------
    root : Path
    aliases : dict of str to str, optional
        Real paths of files that are known by another name, because theirs names a patient.
    """

    root: Path
    aliases: Mapping[str, str] = field(default_factory=dict)

    def read(self, name: str) -> NDArray[Any]:
        """Decode the file of this name, relative to the folder; ``a.dcm#3`` is its third frame."""
        path, frame = self.locate(name)
        picture = name.lower().endswith(SUFFIXES)
        if frame or (not picture and kind_of(head_of(path), name) in (DICOM, NIFTI)):
            from medloop.read.sandbox import shared

            # the worker reads the file itself, which spares sending it there
            return shared().frame(path, frame, shown(name))
        return decode(read_bytes(path, name), name)

    def raw(self, name: str) -> bytes:
        """Return what identifies the image: the bytes of the file, or its hash and the frame."""
        path, frame = self.locate(name)
        if not frame:
            return read_bytes(path, name)
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):
                raise ImageError(f"{shown(name)} is no file.")
            digest = _sha256(str(path), about.st_size, about.st_mtime_ns)
        except FileNotFoundError:
            raise ImageError(f"{shown(name)} is not there.") from None
        except OSError as error:
            raise ImageError(f"{shown(name)} cannot be read: {error.strerror}.") from None
        return _FRAME_OF + f"{digest}#{frame}".encode()

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Decode what ``raw`` returned."""
        if data.startswith(_FRAME_OF):
            return self.read(name)
        return decode(data, name)

    def locate(self, name: str) -> tuple[Path, str]:
        """Return the path of an image's file, and which frame of it the image is.

        Raises
        ------
        ImageError
            The name, or the link that it names, leaves the folder.
        """
        file, frame = split_frame(name)
        # a name may end like a frame's and be a file's
        if frame and name not in self.aliases and file not in self.aliases:
            with suppress(OSError, ValueError):
                if (self.root / inside(name)).exists():
                    file, frame = name, ""
        path = self.root / inside(self.aliases.get(file, file))
        try:
            real, root = os.path.realpath(path), os.path.realpath(self.root)
        except (OSError, ValueError) as error:
            raise ImageError(f"{shown(name)} cannot be read: {error}.") from None
        # a folder that somebody sent may hold a link to any file of this machine
        if os.path.commonpath([real, root]) != root:
            raise ImageError(
                f"{shown(name)} is a link that leaves the folder of the images; "
                "put a copy of the file there."
            )
        return path, frame


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(name: str) -> str:
    """Refuse a name that leaves its folder, on this system or another.

    Examples
    --------
    >>> inside("a/b.png")
    'a/b.png'
    >>> inside("../b.png")
    Traceback (most recent call last):
    ...
    medloop.errors.ImageError: '../b.png' leaves the folder of the images.
    """
    slashed = PurePosixPath(name.replace("\\", "/"))
    absolute = slashed.is_absolute() or PureWindowsPath(name).is_absolute()
    if not slashed.parts or absolute or ".." in slashed.parts or "\0" in name:
        raise ImageError(f"{name!r} leaves the folder of the images.")
    return name
