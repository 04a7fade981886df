"""Files that a browser can show as they are, without what else they say."""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
#: Chunks that change no pixel: left out, since they may say who the patient is.
_MUTE = (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"bKGD", b"gAMA", b"cHRM", b"sRGB", b"iCCP")
_JPEG = b"\xff\xd8"
_EXIF = b"Exif\x00\x00"


def bare(data: bytes, side: int) -> tuple[bytes, str] | None:
    """Return a PNG or JPEG without its comments, and its media type; None for all else.

    All else is what :mod:`medloop.read.image` does not show pixel by pixel as the browser would:
    more than 8 bits, palettes, transparency, a camera's orientation, four colours, or a side
    longer than ``side``.

    Examples
    --------
    >>> bare(b"GIF89a", 100) is None
    True
    """
    try:
        if data.startswith(_PNG):
            found = _bare_png(data, side)
            return None if found is None else (found, "image/png")
        if data.startswith(_JPEG):
            found = _bare_jpeg(data, side)
            return None if found is None else (found, "image/jpeg")
    except (struct.error, IndexError):
        pass
    return None


def _bare_png(data: bytes, side: int) -> bytes | None:
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if depth != 8 or colour not in (0, 2) or interlace or max(width, height) > side:
        return None
    kept, at = [_PNG], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(data[at:end])
        elif kind not in _MUTE:
            return None
        at = end
        if kind == b"IEND":
            return b"".join(kept)
    return None


def _bare_jpeg(data: bytes, side: int) -> bytes | None:
    kept, at = [_JPEG], 2
    while at < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        end = at + 2 + length
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive
            depth, height, width, colours = struct.unpack(">BHHB", data[at + 4 : at + 10])
            # Adobe's mark may say that three colours are red, green and blue: rare, and not here
            if depth != 8 or colours not in (1, 3) or max(width, height) > side or not height:
                return None
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        body = data[at + 4 : end]
        if marker == 0xEE or (marker == 0xE1 and body.startswith(_EXIF)):
            return None
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at:end])
        at = end
        if marker == 0xDA:
            kept.append(data[at:])
            return b"".join(kept)
    return None
