"""One image file to pixels, within limits, or one ImageError."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import ImageError

#: What is decoded; anything else is refused whatever its name says.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

#: No image of this field needs more; checked before any pixel is decoded.
MAX_PIXELS = int(os.environ.get("MEDLOOP_MAX_PIXELS", 64_000_000))
MAX_BYTES = 4 * MAX_PIXELS


def decode(data: bytes, name: str) -> NDArray[Any]:
    """Decode PNG, JPEG, TIFF or BMP bytes.

    Parameters
    ----------
    data : bytes
    name : str
        For the message only.

    Returns
    -------
    (h, w) or (h, w, 3) array
        uint8, uint16 or float32, as stored. Palettes are looked up, transparency is laid over
        black, a colour image whose channels are equal becomes grey, and the orientation that a
        camera noted is applied.

    Raises
    ------
    ImageError
        It is empty, not one of the formats, truncated, larger than ``MAX_PIXELS``, holds more
        than one page, or has pixels that are not finite.

    Examples
    --------
    >>> decode(b"hello", "a.png")
    Traceback (most recent call last):
    ...
    medloop.errors.ImageError: a.png is not a PNG, JPEG, TIFF, BMP image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise ImageError(f"{name} is empty.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} has {len(data):,} bytes, at most {MAX_BYTES:,} are read.")
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a bomb, and refuses at twice its own limit: ours comes first.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"{name} has {width:,} x {height:,} pixels, at most {MAX_PIXELS:,} "
                        "are read."
                    )
                pages = getattr(opened, "n_frames", 1)
                if pages > 1 and opened.format == "TIFF":
                    raise ImageError(f"{name} has {pages} pages, expected 1.")
                if opened.format == "TIFF" and opened.mode not in ("1", "L", "P", "RGB", "RGBA"):
                    return _finite(_tiff(data), name)
                opened.load()
                return _finite(_pixels(ImageOps.exif_transpose(opened)), name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        return _deep_tiff(data, name)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels.") from None
    except (MemoryError, RecursionError) as error:
        raise ImageError(f"{name} cannot be decoded: {type(error).__name__}.") from None
    except Exception as error:  # decoders raise a dozen classes; each means "not this file"
        raise ImageError(f"{name} cannot be decoded: {_first_line(error)}.") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _pixels(image: Any) -> NDArray[Any]:
    mode = image.mode
    if mode in ("I;16", "I;16L", "I;16B"):
        return np.asarray(image).astype(np.uint16)
    if mode == "I":
        return np.asarray(image).clip(0, 65535).astype(np.uint16)
    if mode == "F":
        return np.asarray(image, np.float32)
    if mode in ("P", "PA") or "A" in mode or "transparency" in image.info:
        from PIL import Image

        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, (0, 0, 0, 255)), seen)
    if mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    array = np.asarray(image.convert("RGB"))
    grey = (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all()
    return array[..., 0].copy() if grey else array


def _deep_tiff(data: bytes, name: str) -> NDArray[Any]:
    """Decode a TIFF that Pillow has no mode for, such as 16 bits in three channels."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise ImageError(f"{name} is not a {', '.join(FORMATS)} image.")
    try:
        return _finite(_tiff(data), name)
    except ImageError:
        raise
    except Exception as error:  # as above
        raise ImageError(f"{name} cannot be decoded: {_first_line(error)}.") from None


def _tiff(data: bytes) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise ImageError(f"the TIFF has {len(tiff.pages)} pages, expected 1.")
        page: Any = tiff.pages[0]
        if int(np.prod(page.shape)) > 4 * MAX_PIXELS:
            raise ImageError(f"the TIFF has {page.shape} samples, at most {MAX_PIXELS:,} pixels.")
        array = page.asarray()
        inverted = getattr(page.photometric, "name", "") == "MINISWHITE"
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = array[..., : array.shape[2] - 1]  # transparency
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(f"the TIFF has shape {array.shape}, expected (h, w) or (h, w, 3).")
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype not in (np.uint8, np.uint16):
        array = array.clip(0, 65535).astype(np.uint16)
    return np.asarray(np.iinfo(array.dtype).max - array if inverted else array)


def _finite(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.size == 0:
        raise ImageError(f"{name} has no pixels: its shape is {array.shape}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError(f"{name} has pixels that are not finite.")
    return array


def read_bytes(path: Path, name: str) -> bytes:
    """Read a whole regular file, or say in one ImageError why that fails."""
    try:
        if not path.is_file():
            raise ImageError(f"{name} is {'no file' if path.exists() else 'not there'}.")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{name} has {path.stat().st_size:,} bytes, at most {MAX_BYTES:,}.")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror}.") from None


@dataclass(frozen=True)
class FolderPixels:
    """Pixels of the image files below a folder."""

    root: Path

    def read(self, name: str) -> NDArray[Any]:
        """Decode the file of this name, relative to the folder."""
        return decode(self.raw(name), name)

    def raw(self, name: str) -> bytes:
        """Return the bytes of the file, which identify the image."""
        return read_bytes(self.root / inside(name), name)

    def decode(self, data: bytes, name: str) -> NDArray[Any]:
        """Decode what ``raw`` returned."""
        return decode(data, name)


def inside(name: str) -> str:
    """Refuse a name that leaves its folder.

    Examples
    --------
    >>> inside("a/b.png")
    'a/b.png'
    >>> inside("../b.png")
    Traceback (most recent call last):
    ...
    medloop.errors.ImageError: '../b.png' leaves the folder of the images.
    """
    parts = Path(name.replace("\\", "/")).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise ImageError(f"{name!r} leaves the folder of the images.")
    return name
