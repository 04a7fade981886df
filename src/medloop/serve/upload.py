"""What may be uploaded: one image or one video a file, and nothing else inside."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

from medloop.errors import ImageError
from medloop.read.image import shown

Kind = Literal["image", "video"]

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Camera makers put their own data behind a JPEG; Samsung's ends so.
_TRAILER = b"SEFT"
_PADDING = b"\0\xff\r\n\t "
#: A phone's JPEG may carry a preview and a map of brightness behind itself.
_MOST_PICTURES = 8
#: A marker in compressed data that is neither a stuffed byte nor a restart.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

#: What a file that is no image calls itself, by its first bytes.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF-", "a PDF document"),
    (b"GIF8", "a GIF"),
    (b"MZ", "a program"),
    (b"\x7fELF", "a program"),
)
#: What else a file may be beside an image, by words that no image needs.
_WORDS: tuple[tuple[bytes, str], ...] = (
    (b"<script", "a page with a script"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?php", "a PHP program"),
    (b"rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
)


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for.

    Parameters
    ----------
    request, image, video : int
        Bytes of a whole request, of an image and of a video.
    files, frames : int
        Files of a request, and frames that are taken from a video.
    pixels, video_pixels : int
        Of one image, and of all frames of one video.
    fps : float
        Frames a second that are taken from a video.
    patience, seconds : float
        Seconds that a request may take to arrive, and its files to be read.
    held : int
        Bytes of all requests that are worked on at a time; more wait.
    """

    request: int = 200_000_000
    image: int = 40_000_000
    video: int = 120_000_000
    files: int = 64
    frames: int = 40
    pixels: int = 30_000_000
    video_pixels: int = 120_000_000
    fps: float = 2.0
    patience: float = 60.0
    seconds: float = 60.0
    held: int = 400_000_000


def check(data: bytes, name: str, limits: Limits) -> Kind:
    """Tell whether an upload is an image or a video, or refuse it.

    Parameters
    ----------
    data : bytes
    name : str
        For the message only.
    limits : Limits

    Raises
    ------
    ImageError
        It is empty, too large, of a kind that is not read, or two things at once.

    Examples
    --------
    >>> check(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", Limits())
    Traceback (most recent call last):
    ...
    medloop.errors.ImageError: a.svg is an SVG drawing; send a PNG, JPEG, TIFF, BMP or DICOM image \
or an mp4, mov, avi, mkv or webm video.
    """
    name = shown(name)
    if not data:
        raise ImageError(f"{name} is empty.")
    kind = _kind(data)
    if kind is None:
        raise ImageError(
            f"{name} is {_called(data)}; send a PNG, JPEG, TIFF, BMP or DICOM image or an mp4, "
            "mov, avi, mkv or webm video."
        )
    most = limits.video if kind == "video" else limits.image
    if len(data) > most:
        raise ImageError(f"{name} has {len(data):,} bytes, at most {most:,} are read.")
    other = _hidden(data)
    if other:
        raise ImageError(f"{name} is {other} as well; a file must be one thing.")
    size = _size(data)
    if size is not None and size[0] * size[1] > limits.pixels:
        raise ImageError(
            f"{name} has {size[0]:,} x {size[1]:,} pixels, at most {limits.pixels:,} are read."
        )
    behind = _behind(data)
    if behind:
        raise ImageError(f"{name} holds more than an image: {behind:,} bytes follow its end.")
    return kind


def _kind(data: bytes) -> Kind | None:
    if data.startswith((PNG, JPEG, b"BM", *_TIFF)) or data[128:132] == b"DICM":
        return "image"
    moving = data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
    avi = data[:4] == b"RIFF" and data[8:11] == b"AVI"
    if moving and data[8:12] in (b"heic", b"heix", b"mif1", b"avif"):
        return None
    return "video" if moving or avi or data[:4] == b"\x1aE\xdf\xa3" else None


def _called(data: bytes) -> str:
    for first, words in _OTHERS:
        if data.startswith(first):
            return words
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp":
        return "a HEIC or AVIF picture"
    if head.startswith(b"<svg") or (head.startswith((b"<?xml", b"<!")) and b"<svg" in head):
        return "an SVG drawing"
    if head.startswith(b"<"):
        return "a web page or XML"
    return "no image or video"


def _hidden(data: bytes) -> str:
    """Name what a file is besides what its first bytes say; empty where that is nothing."""
    if b"%PDF-" in data[:1024]:
        return "a PDF document"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data[0x8001:0x8006] == b"CD001":
        return "a disk image"
    if data[128:132] == b"DICM":
        preamble = data[:128]
        if data.startswith((PNG, JPEG, b"BM", *_TIFF)):
            return "a DICOM file"
        for first, words in _OTHERS:
            if preamble.startswith(first):
                return words
    low = data.lower()
    for word, words in _WORDS:
        if word in low:
            return words
    # the directory of a ZIP stands at its end, behind it only a comment of a stated length
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557))
    while at >= 0:
        if at + 22 <= len(data) and at + 22 + int.from_bytes(data[at + 20 : at + 22], "little") <= (
            len(data)
        ):
            return "a ZIP archive"
        at = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557), at)
    return ""


def _size(data: bytes) -> tuple[int, int] | None:
    """Return width and height as a PNG, BMP or JPEG states them, before anything is decoded."""
    if data.startswith(PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(width), abs(height)
    if data.startswith(JPEG):
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack(">HH", data[at + 5 : at + 9])
                return width, height
            if marker == 0xFF:
                at += 1
                continue
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _behind(data: bytes) -> int:
    """Count the bytes behind the end of a PNG, JPEG or BMP that have no business there."""
    if data.startswith(PNG):
        end = _png_end(data)
    elif data.startswith(JPEG):
        end = _jpeg_end(data)
    elif data.startswith(b"BM"):
        stated = int.from_bytes(data[2:6], "little")
        # some writers state nothing, or forget the padding
        end = stated if stated > 54 else len(data)
    else:
        return 0
    if end is None:
        return 0  # cut short, which the decoder tells
    rest = data[end:].strip(_PADDING)
    return 0 if rest.endswith(_TRAILER) else len(rest)


def _png_end(data: bytes) -> int | None:
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        at += 12 + length
        if name == b"IEND":
            return at
    return None


def _jpeg_end(data: bytes) -> int | None:
    """Return where the last picture of a JPEG ends; more than one where the first says so."""
    end, many = _one_jpeg(data, 0)
    for _ in range(_MOST_PICTURES):
        if end is None or not many:
            break
        begin = end + len(data[end:]) - len(data[end:].lstrip(_PADDING[:1]))
        if not data.startswith(JPEG, begin):
            break
        end, _ = _one_jpeg(data, begin)
    return end


def _one_jpeg(data: bytes, at: int) -> tuple[int | None, bool]:
    """Walk the segments of one picture: where it ends, and whether it names others."""
    many = False
    at += 2
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            return None, many
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2, many
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 40]
        many |= (marker == 0xE2 and body.startswith(b"MPF\0")) or (
            marker == 0xE1 and b"ns.adobe.com/xap" in body
        )
        at += 2 + length
        if marker == 0xDA:
            met = _MARKER.search(data, at)
            if met is None:
                return None, many
            at = met.start()
    return None, many
