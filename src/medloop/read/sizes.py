"""How large an image is, from the head of its file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from medloop.errors import ImageError
from medloop.read.image import FORMATS, MAX_PIXELS, shown

#: EXIF's number for the orientation, and those that lie on their side.
_ORIENTATION = 274
_TURNED = (5, 6, 7, 8)


def image_size(root: Path, name: str) -> tuple[int, int]:
    """Return height and width in pixels of an image below ``root``, turned as a camera noted.

    Raises
    ------
    ImageError
        It is not there, is no image, is too large, or is a link that leaves the folder.
    """
    from PIL import Image

    path = root / name
    real, home = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, home]) != home:
        raise ImageError(f"{shown(name)} is a link that leaves the folder of the images.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION) in _TURNED
    except FileNotFoundError:
        raise ImageError(f"{shown(name)} is not there.") from None
    except Exception as error:  # Pillow raises a dozen classes; each means "not this file"
        said = (str(error).splitlines() or [""])[0][:80]
        raise ImageError(f"{shown(name)} is no image: {said or type(error).__name__}.") from None
    if width * height > MAX_PIXELS:
        raise ImageError(f"{shown(name)} has more than {MAX_PIXELS:,} pixels.")
    return (width, height) if turned else (height, width)
