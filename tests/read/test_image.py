import io
import itertools
import os
import struct
import subprocess
import sys
import textwrap
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from medloop.errors import ImageError, UsageError
from medloop.read.image import MAX_PIXELS, FolderPixels, _max_pixels, decode, inside

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP_GREY = RANDOM.integers(0, 65536, (5, 7), dtype=np.uint16)
DEEP_COLOUR = RANDOM.integers(0, 65536, (5, 7, 3), dtype=np.uint16)


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(pixels, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, depth, colour_type, body, *, extra=b""):
    """Write a PNG by hand, whatever Pillow can write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def png16(pixels):
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    lines = pixels.astype(">u2").reshape(height, -1)
    body = b"".join(b"\0" + line.tobytes() for line in lines)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], body)


def ifd(entries, *, tail=b""):
    """Write a little-endian TIFF of one directory: (tag, type, count, value) each."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + b"\0\0\0\0" + tail


def refusal(data, name="a.png"):
    """Return the one line that a bad file gives."""
    with pytest.raises(ImageError) as caught:
        decode(data, name)
    assert type(caught.value) is ImageError
    message = str(caught.value)
    assert message.startswith(name)
    assert "\n" not in message
    return message


def outcome(data):
    """Return pixels, or the message of the ImageError."""
    try:
        return decode(data, "a")
    except ImageError as error:
        return str(error) if type(error) is ImageError else error


# -- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_8_bit_pixels_come_back_as_they_were(kind, pixels):
    got = decode(saved(Image.fromarray(pixels), kind), "a")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR, DEEP_GREY], ids=["grey", "colour", "deep"])
def test_compressed_tiffs_come_back_as_they_were(compression, pixels):
    got = decode(saved(Image.fromarray(pixels), "TIFF", compression=compression), "a")
    assert got.dtype == pixels.dtype
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("pixels", [DEEP_GREY, DEEP_COLOUR], ids=["grey", "colour"])
def test_a_16_bit_png_keeps_all_its_bits(pixels):
    got = decode(png16(pixels), "a")
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, pixels)


def test_a_16_bit_png_with_transparency_lies_over_black():
    opacity = np.full((5, 7, 1), 65535, np.uint16)
    opacity[0] = 0
    opacity[1] = 13107  # a fifth
    for pixels in (DEEP_COLOUR, DEEP_GREY[..., None]):
        want = pixels.copy()
        want[0] = 0
        want[1] = np.rint(pixels[1] / 5)
        got = decode(png16(np.concatenate([pixels, opacity], axis=2)), "a")
        np.testing.assert_array_equal(got, want.squeeze())


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_16_bit_rgb_tiff_keeps_all_its_bits(compression, planar, byteorder):
    stored = DEEP_COLOUR if planar == "contig" else DEEP_COLOUR.transpose(2, 0, 1)
    data = tiff(
        np.ascontiguousarray(stored),
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        byteorder=byteorder,
    )
    if planar == "separate" and compression:  # Pillow reads only the high bytes of these
        assert "must not lie in planes" in refusal(data)
    else:
        np.testing.assert_array_equal(decode(data, "a"), DEEP_COLOUR)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u4", "f2", "f4", "f8"], ids=lambda name: name)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_other_numbers_of_a_tiff_become_float32(dtype, byteorder):
    pixels = (GREY.astype(np.int16) - (0 if dtype[0] == "u" else 100)).clip(-128, 127)
    got = decode(tiff(pixels.astype(dtype), byteorder=byteorder, photometric="minisblack"), "a")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, pixels.astype(np.float32))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u4", "f4"])
def test_a_deflated_tiff_reads_like_a_plain_one(dtype):
    pixels = (GREY.astype(np.int16) - (0 if dtype[0] == "u" else 100)).clip(-128, 127)
    pixels = pixels.astype(dtype)
    if dtype == "u4":
        pixels += np.uint32(3_000_000_000)
    got = decode(tiff(pixels, compression="zlib", photometric="minisblack"), "a")
    np.testing.assert_array_equal(got, pixels.astype(np.float32))


def test_float_colour_is_read():
    pixels = RANDOM.random((4, 6, 3), np.float32)
    np.testing.assert_array_equal(decode(tiff(pixels, photometric="rgb"), "a"), pixels)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_is_zero_is_turned_round(compression):
    for pixels in (GREY, DEEP_GREY):
        data = tiff(pixels, photometric="miniswhite", compression=compression)
        got = decode(data, "a")
        assert got.dtype == pixels.dtype
        np.testing.assert_array_equal(got, np.iinfo(pixels.dtype).max - pixels)
    real = GREY.astype(np.float32)
    got = decode(tiff(real, photometric="miniswhite"), "a")
    np.testing.assert_array_equal(got, -real)


def test_jpegs_come_close_to_what_they_were():
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    smooth = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    for options in ({}, {"progressive": True}, {"optimize": True}):
        data = saved(Image.fromarray(smooth), "JPEG", quality=95, **options)
        got = decode(data, "a")
        assert np.abs(got.astype(int) - smooth).mean() < 3
    grey = decode(saved(Image.fromarray(smooth[..., 0]), "JPEG", quality=95), "a")
    assert grey.shape == (48, 64)


def test_a_cmyk_jpeg_becomes_rgb():
    rgb = Image.new("RGB", (16, 16), (200, 30, 60))
    got = decode(saved(rgb.convert("CMYK"), "JPEG", quality=95), "a")
    assert np.abs(got.reshape(-1, 3).astype(int) - (200, 30, 60)).max() <= 4


def test_one_bit_pixels_are_black_and_white():
    bits = RANDOM.random((9, 13)) > 0.5
    for kind in ("PNG", "TIFF", "BMP"):
        got = decode(saved(Image.fromarray(bits), kind), "a")
        np.testing.assert_array_equal(got, bits * np.uint8(255))


def test_palettes_are_looked_up():
    index = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L")
    index = index.convert("P")
    index.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    want = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]])
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decode(saved(index, kind), "a"), want)
    clear = want.copy()
    clear[0, 1] = clear[1, 1] = 0
    np.testing.assert_array_equal(decode(saved(index, "PNG", transparency=1), "a"), clear)
    # opacity for each entry of the palette, which Pillow only warns of
    want[0, 0] = 0
    got = decode(saved(index, "PNG", transparency=b"\x00\xff\xff"), "a")
    np.testing.assert_array_equal(got, want)


def test_transparency_lies_over_black():
    opacity = np.full((5, 7), 255, np.uint8)
    opacity[:2] = 0
    seen = np.where(opacity > 0, GREY, 0)
    for kind in ("PNG", "TIFF"):
        data = saved(Image.fromarray(np.dstack([GREY, opacity]), "LA"), kind)
        np.testing.assert_array_equal(decode(data, "a"), seen)
        data = saved(Image.fromarray(np.dstack([COLOUR, opacity])), kind)
        np.testing.assert_array_equal(decode(data, "a"), np.where(opacity[..., None], COLOUR, 0))


def test_colour_of_equal_channels_is_grey():
    for pixels, write in ((GREY, lambda p: saved(Image.fromarray(p), "PNG")), (DEEP_GREY, png16)):
        np.testing.assert_array_equal(decode(write(np.dstack([pixels] * 3)), "a"), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_noted_orientation_is_applied(orientation):
    want = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    note = Image.Exif()
    note[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        got = decode(saved(Image.fromarray(GREY), kind, exif=note), "a")
        np.testing.assert_array_equal(got, want(GREY))
    jpeg = decode(saved(Image.fromarray(GREY), "JPEG", exif=note, quality=100), "a")
    assert np.abs(jpeg.astype(int) - want(GREY)).max() < 12
    tag = [(274, "H", 1, orientation)]
    for compression in (None, "zlib"):
        deep = tiff(DEEP_GREY, extratags=[(*tag[0], True)], compression=compression)
        np.testing.assert_array_equal(decode(deep, "a"), want(DEEP_GREY))


def test_the_content_decides_and_not_the_name():
    data = saved(Image.fromarray(GREY), "PNG")
    np.testing.assert_array_equal(decode(data, "scan.jpg"), GREY)
    polyglot = data + b"PK\x03\x04<script>alert(1)</script>"
    np.testing.assert_array_equal(decode(polyglot, "a.png"), GREY)


def test_the_first_picture_of_a_cameras_jpeg_counts():
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    data = saved(first, "MPO", save_all=True, append_images=[second])
    alone = decode(saved(first, "JPEG"), "a")
    np.testing.assert_array_equal(decode(data, "a.jpg"), alone)


# -- what is refused ------------------------------------------------------------------------


def test_what_is_no_image_is_refused_in_one_line():
    assert refusal(b"") == "a.png is empty."
    for data in (b"hello", b"\0" * 500, b"GIF89a" + b"\0" * 50, b"<svg/>", b"%PDF-1.4"):
        assert refusal(data) == "a.png is not a PNG, JPEG, TIFF or BMP image."
    gif = saved(Image.fromarray(GREY), "GIF")
    assert "not a PNG, JPEG, TIFF or BMP" in refusal(gif)
    for magic in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"II+\0"):
        for tail in (b"", b"\0" * 40, b"\xff" * 40, RANDOM.bytes(200)):
            refusal(magic + tail)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_a_truncated_file_is_refused(kind):
    pixels = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(pixels), kind)
    for share in (0.1, 0.5, 0.9):
        refusal(data[: int(share * len(data))])


def test_a_truncated_deep_tiff_is_refused():
    data = tiff(np.zeros((50, 50), np.float64), photometric="minisblack")
    assert "strips hold" in refusal(data[:-100])


def test_more_than_one_page_is_refused():
    for pages in (np.stack([GREY] * 3), np.stack([DEEP_GREY] * 3), np.zeros((2, 5, 7), "f8")):
        message = refusal(tiff(pages, photometric="minisblack"))
        assert "more than one page" in message
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    animated = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert "more than one page or frame" in refusal(animated)


def test_values_that_are_not_finite_are_refused():
    for bad in (np.nan, np.inf, -np.inf, 1e39):
        for compression in (None, "zlib"):
            pixels = np.ones((5, 5), np.float64 if bad == 1e39 else np.float32)
            pixels[2, 3] = bad
            if pixels.dtype == np.float64 and compression:
                continue
            data = tiff(pixels, photometric="minisblack", compression=compression)
            assert "expected finite values" in refusal(data)


ABSURD = [0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 322, 339])
def test_absurd_tags_of_a_tiff_raise_nothing_else(tag):
    for deep in (False, True):
        for value, count, kind in itertools.product(ABSURD, (0, 1, 3, 0xFFFFFFFF), (3, 4)):
            entries = {
                256: (256, 4, 1, 4),
                257: (257, 4, 1, 4),
                258: (258, 3, 1, 32 if deep else 8),
                259: (259, 3, 1, 1),
                262: (262, 3, 1, 1),
                273: (273, 4, 1, 200),
                277: (277, 3, 1, 1),
                278: (278, 4, 1, 4),
                279: (279, 4, 1, 64),
            }
            entries[tag] = (tag, kind, count, value)
            data = ifd([entries[name] for name in sorted(entries)], tail=b"\7" * 300)
            got = outcome(data)
            if isinstance(got, str):
                assert "\n" not in got
            else:
                assert got.dtype in (np.uint8, np.uint16, np.float32)


def test_a_jpeg_of_endless_scans_is_refused_at_once():
    pixels = RANDOM.integers(0, 256, (512, 512), dtype=np.uint8)
    data = saved(Image.fromarray(pixels), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * 3000 + data[-2:]
    start = time.perf_counter()
    assert "scans" in refusal(bomb)
    assert time.perf_counter() - start < 0.5


BOMBS = {
    "png": "png(20000, 20000, 8, 0, b'')",
    "one bit png": "png(20000, 20000, 1, 0, bytes(2501 * 20000))",
    "long png": "png(1, 2**31 - 1, 8, 0, b'')",
    "overfull png": "png(64, 64, 8, 0, bytes(2**28))",
    "text png": "png(8, 8, 8, 0, bytes(72), extra=chunk(b'zTXt', b'a\\0\\0'"
    " + zlib.compress(bytes(2**28))))",
    "profile png": "png(8, 8, 8, 0, bytes(72), extra=chunk(b'iCCP', b'a\\0\\0'"
    " + zlib.compress(bytes(2**28))))",
    "tiff": "ifd([(256, 4, 1, 20000), (257, 4, 1, 20000), (258, 3, 1, 8), (259, 3, 1, 8),"
    " (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, 20000), (279, 4, 1, 9)])",
    "deep tiff": "ifd([(256, 4, 1, 60000), (257, 4, 1, 60000), (258, 3, 1, 64), (259, 3, 1, 1),"
    " (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 9),"
    " (339, 3, 1, 3)])",
    "many samples": "ifd([(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 16), (262, 3, 1, 1),"
    " (273, 4, 1, 8), (277, 4, 1, 2**32 - 1)])",
    "bmp": "b'BM' + struct.pack('<IIIIiiHHIIIIII', 54, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 0,"
    " 0, 0, 0)",
    "jpeg": "b'\\xff\\xd8\\xff\\xc0\\0\\x0b\\x08\\xfd\\xfd\\xfd\\xfd\\1\\1\\x11\\0' + bytes(99)",
}

BOMB_SCRIPT = """
import struct, sys, time, zlib

def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

def png(width, height, depth, colour_type, body, *, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\\x89PNG\\r\\n\\x1a\\n" + header + extra + tail

def ifd(entries):
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\\0" + struct.pack("<IH", 8, len(entries)) + packed + b"\\0\\0\\0\\0"

if len(sys.argv) == 1:
    open("bomb", "wb").write({bomb})
    raise SystemExit

from medloop.errors import ImageError
from medloop.read.image import decode

data = open("bomb", "rb").read()
start = time.perf_counter()
try:
    said = f"read {{decode(data, 'bomb').shape}}"
except ImageError as error:
    said = str(error)
print(time.perf_counter() - start)
# not getrusage: a child starts with the peak of its parent
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 1024)
print(said)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc for the peak")
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_below_one_second_and_256_megabytes(kind, tmp_path):
    script = tmp_path / "bomb.py"
    script.write_text(BOMB_SCRIPT.format(bomb=BOMBS[kind]))
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, script, "bomb"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    seconds, megabytes, said = done.stdout.splitlines()
    assert float(seconds) < 1
    assert float(megabytes) < 256
    # what only claims to be large inside is read as the small image that it is
    assert said.startswith("read (" if kind in ("overfull png",) else "bomb ")


def test_files_above_the_limit_are_refused_unread(tmp_path):
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(4 * MAX_PIXELS + 1)
    with pytest.raises(ImageError, match=r"^a\.png has 256,000,001 bytes, at most 256,000,000 are"):
        FolderPixels(tmp_path).read("a.png")


def test_the_limit_can_be_set_but_not_to_nonsense():
    assert _max_pixels("1000") == 1000
    for bad in ("", "-1", "many", "1e9", "0", "999999999999"):
        with pytest.raises(UsageError, match="MEDLOOP_MAX_PIXELS must be a number"):
            _max_pixels(bad)


# -- files ----------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_and_nothing_hangs(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "ring.png").symlink_to("ring.png")
    os.mkfifo(tmp_path / "fifo.png")
    pixels = FolderPixels(tmp_path)
    expected = {
        "folder.png": "is no file",
        "broken.png": "is not there",
        "ring.png": "cannot be read",
        "fifo.png": "is no file",
        "x" * 300 + ".png": "File name too long",
        "folder.png/a.png": "is not there",
    }
    for name, reason in expected.items():
        with pytest.raises(ImageError, match=reason) as caught:
            pixels.raw(name)
        assert str(caught.value).startswith(name)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.png").chmod(0)
    if os.geteuid() == 0:  # nothing is forbidden to root

        def forbid(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.open", forbid)
    with pytest.raises(ImageError, match=r"^a\.png cannot be read: Permission denied\.$"):
        FolderPixels(tmp_path).raw("a.png")


def test_names_with_line_breaks_stay_in_one_line(tmp_path):
    with pytest.raises(ImageError, match=r"^'a\\nb\.png' is not there\.$"):
        FolderPixels(tmp_path).raw("a\nb.png")
    with pytest.raises(ImageError, match=r"^'a\\nb\.png' is empty\.$"):
        decode(b"", "a\nb.png")


TRAVERSALS = [
    "../secret.png",
    "a/../../secret.png",
    "..",
    "/etc/passwd",
    "//host/share/a.png",
    "..\\secret.png",
    "a\\..\\..\\secret.png",
    "\\\\host\\share\\a.png",
    "C:\\secret.png",
    "C:/secret.png",
    "a\0.png",
    "",
    ".",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    (tmp_path / "secret.png").write_bytes(saved(Image.fromarray(GREY), "PNG"))
    (tmp_path / "images" / "a").mkdir(parents=True)
    with pytest.raises(ImageError, match="leaves the folder of the images") as caught:
        inside(name)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)
    with pytest.raises(ImageError):
        FolderPixels(tmp_path / "images").raw(name)


@pytest.mark.parametrize("name", ["a..b.png", "..a.png", "a/b/c.png", "~/a.png", "%2e%2e/a.png"])
def test_names_that_only_look_odd_stay_inside(name):
    assert inside(name) == name


def test_links_are_followed_inside_the_folder_only(tmp_path):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    data = saved(Image.fromarray(GREY), "PNG")
    (images / "deep" / "a.png").write_bytes(data)
    (tmp_path / "secret.png").write_bytes(data)
    (images / "within.png").symlink_to("deep/a.png")
    (images / "out.png").symlink_to(tmp_path / "secret.png")
    (images / "up").symlink_to(tmp_path)
    (tmp_path / "door").symlink_to(images)
    for root in (images, tmp_path / "door"):
        pixels = FolderPixels(root)
        np.testing.assert_array_equal(pixels.read("within.png"), GREY)
        for name in ("out.png", "up/secret.png"):
            with pytest.raises(ImageError, match="is a link that leaves the folder"):
                pixels.raw(name)


# -- fuzz -----------------------------------------------------------------------------------

SEEDS = {
    "png": saved(Image.fromarray(COLOUR).resize((40, 30)), "PNG"),
    "palette": saved(Image.fromarray(COLOUR).convert("P"), "PNG", transparency=b"\x00\x80"),
    "deep png": png16(DEEP_COLOUR),
    "jpeg": saved(Image.fromarray(COLOUR).resize((40, 30)), "JPEG"),
    "progressive": saved(Image.fromarray(COLOUR).resize((40, 30)), "JPEG", progressive=True),
    "tiff": saved(Image.fromarray(COLOUR), "TIFF"),
    "lzw": saved(Image.fromarray(COLOUR), "TIFF", compression="tiff_lzw"),
    "jpeg tiff": saved(Image.fromarray(COLOUR), "TIFF", compression="jpeg"),
    "deep tiff": tiff(DEEP_COLOUR, photometric="rgb"),
    "float tiff": tiff(GREY.astype("f8"), photometric="minisblack"),
    "fax": saved(Image.fromarray(GREY > 99), "TIFF", compression="group4"),
    "bmp": saved(Image.fromarray(COLOUR), "BMP"),
}


def mutated(data, random):
    """Flip, overwrite, cut, repeat or insert bytes."""
    out = bytearray(data)
    for _ in range(random.integers(1, 6)):
        at = int(random.integers(len(out)))
        match random.integers(5):
            case 0:
                out[at] ^= 1 << int(random.integers(8))
            case 1:
                out[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff"])
            case 2:
                out[at:] = out[at : max(at, len(out) - int(random.integers(20)))]
            case 3:
                out[at:at] = out[at : at + int(random.integers(1, 30))]
            case 4:
                out[at : at + 2] = random.bytes(2)
        if not out:
            break
    return bytes(out)


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files_decode_or_raise_an_image_error(kind, capfd):
    random = np.random.default_rng(len(kind))
    for _ in range(150):
        data = mutated(SEEDS[kind], random)
        start = time.perf_counter()
        got = outcome(data)
        assert time.perf_counter() - start < 1
        if isinstance(got, str):
            assert got.startswith("a ")
            assert "\n" not in got
        else:
            assert got.dtype in (np.uint8, np.uint16, np.float32)
            assert got.ndim == 2 or got.shape[2:] == (3,)
    assert capfd.readouterr() == ("", "")


def test_decoding_in_threads_leaves_the_warning_filters_alone():
    noisy = saved(Image.fromarray(COLOUR).convert("P"), "PNG", transparency=b"\x00\x80")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: decode(noisy, "a").shape, range(200)))
    assert set(found) == {(5, 7, 3)}
    assert warnings.filters == before


def test_nothing_is_printed_outside_pytest(tmp_path):
    # a logger without a handler prints its errors, which pytest would catch
    data = ifd([(256, 4, 1, 4), (257, 4, 1, 4), (262, 3, 1, 1), (277, 3, 1, 999)])
    (tmp_path / "a.tif").write_bytes(data)
    script = textwrap.dedent(
        """
        from medloop.read.image import decode
        try:
            decode(open("a.tif", "rb").read(), "a.tif")
        except ValueError:
            pass
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
