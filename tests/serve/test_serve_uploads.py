"""What may be uploaded, and what is refused with one sentence."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medloop.errors import ImageError
from medloop.serve.upload import Limits, check

LIMITS = Limits()


def saved(kind, size=(20, 14), **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(1_000_000))
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width, height, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes((width + 1) * min(height, 8))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + data + chunk(b"IEND", b"")


def refusal(data, name="a.png") -> str:
    with pytest.raises(ImageError) as told:
        check(data, name, LIMITS)
    sentence = str(told.value)
    assert sentence.startswith(name)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"taken on a ward"}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("PNG", {"dpi": (72, 72)}),
    ],
)
def test_plain_images_pass(kind, options):
    assert check(saved(kind, **options), "a", LIMITS) == "image"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["PNG", "JPEG", "BMP"]))
def test_every_size_passes(width, height, kind):
    assert check(saved(kind, (width, height)), "a", LIMITS) == "image"


def test_a_phone_photo_with_a_second_picture_passes():
    first, second = (Image.new("RGB", (30, 20), colour) for colour in ("red", "blue"))
    out = io.BytesIO()
    first.save(out, "MPO", save_all=True, append_images=[second])
    assert check(out.getvalue(), "a.jpg", LIMITS) == "image"
    # the same second picture behind one that names no other is a stowaway
    alone = saved("JPEG")
    assert "follow its end" in refusal(alone + saved("JPEG"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "an SVG drawing"),
        (b"<html><body>", "a web page"),
        (zipped(), "a ZIP archive"),
        (b"\x1f\x8b" + bytes(20), "a gzip archive"),
        (b"%PDF-1.7", "a PDF"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"MZ" + bytes(200), "a program"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (b"hello", "no image or video"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(data, words):
    assert words in refusal(data)


JPEG, PNG, BMP = saved("JPEG"), saved("PNG"), saved("BMP")
POLYGLOTS = {
    "png and zip": (PNG + zipped(), "ZIP"),
    "jpeg and zip": (JPEG + zipped(), "ZIP"),
    "zip in a png's text": (png_of(8, 8, chunk(b"tEXt", zipped())), "ZIP"),
    "bmp and zip": (BMP + zipped(), "ZIP"),
    "tiff and zip": (saved("TIFF") + zipped(), "ZIP"),
    "jpeg and pdf": (saved("JPEG", comment=b"%PDF-1.4 obj"), "PDF"),
    "png and page": (png_of(8, 8, chunk(b"tEXt", b"k\0<SCRIPT>alert(1)</script>")), "script"),
    "jpeg and page": (saved("JPEG", comment=b"<html><body onload=x>"), "web page"),
    "jpeg and php": (saved("JPEG", comment=b"<?php system($_GET[0]);"), "PHP"),
    "jpeg and mp4": (JPEG + b"\0\0\0\x18ftypmp42" + bytes(100) + b"x", "follow its end"),
    "png and text": (PNG + b"alert(1)", "follow its end"),
    "png and tar": (png_of(8, 8, chunk(b"aaAa", bytes(216) + b"ustar" + bytes(40))), "tar"),
    "program and dicom": (b"MZ" + bytes(126) + b"DICM" + bytes(60), "program"),
}


@pytest.mark.parametrize("name", POLYGLOTS)
def test_a_file_of_two_kinds_is_refused(name):
    data, words = POLYGLOTS[name]
    assert words in refusal(data)


def test_too_many_pixels_are_refused_before_anything_is_decoded():
    bomb = png_of(13_000, 13_000)
    assert len(bomb) < 2000
    assert "13,000 x 13,000 pixels" in refusal(bomb)
    wide = bytearray(JPEG)
    at = wide.index(b"\xff\xc0")
    wide[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    assert "60,000 x 60,000 pixels" in refusal(bytes(wide))
    big = bytearray(BMP)
    big[18:26] = struct.pack("<ii", 20_000, -20_000)
    assert "20,000 x 20,000 pixels" in refusal(bytes(big))


def test_sizes_have_limits_of_their_own():
    small = Limits(image=100, video=1000)
    with pytest.raises(ImageError, match="at most 100 are read"):
        check(PNG, "a.png", small)
    film = b"\0\0\0\x18ftypmp42" + bytes(500)
    assert check(film, "a.mp4", small) == "video"
    with pytest.raises(ImageError, match="at most 1,000 are read"):
        check(film + bytes(1000), "a.mp4", small)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_spoilt_files_are_told_apart_without_any_other_error(data):
    spoilt = bytearray(data.draw(st.sampled_from([JPEG, PNG, BMP])))
    for _ in range(data.draw(st.integers(1, 6))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    cut = spoilt[: data.draw(st.integers(0, len(spoilt)))]
    kind, told = None, ""
    try:
        kind = check(bytes(cut), "a", LIMITS)
    except ImageError as error:
        told = str(error)
    assert kind in ("image", "video") or (told.startswith("a ") and "\n" not in told)
