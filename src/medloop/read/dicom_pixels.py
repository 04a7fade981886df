"""The pixels of a DICOM image: one frame as numbers of which high is bright, or as RGB."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import plain, usable
from medloop.errors import ImageError, MissingError
from medloop.read.dicom import Allow, Header, no_limit, rescale, value_range


def decode_frame(header: Header, index: int, allow: Allow = no_limit) -> NDArray[Any]:
    """Decode one frame.

    Parameters
    ----------
    header : Header
    index : int
        From 0.
    allow : callable
        As for :func:`open_image`.

    Returns
    -------
    (h, w) or (h, w, 3) array
        As pydicom decodes it, then: YBR and palettes become RGB, the modality LUT or rescale is
        applied, and MONOCHROME1 is turned round within the range of the stored bits, so that
        high is bright. uint8 and uint16 where they hold the values, else float32, or float64
        where that would lose digits.

    Raises
    ------
    ImageError
        The pixels cannot be decoded, or are not finite.
    """
    name = header.name
    if not 0 <= index < header.frames:
        raise ImageError(f"{name} has {header.frames:,} frames, and no frame {index + 1:,}.")
    pixels = header.height * header.width * header.samples
    allow(pixels * max(header.bits // 8, 1) * 4)
    try:
        stored = _stored(header, index)
        if header.samples == 1 and header.photometric == "PALETTE COLOR":
            allow(pixels * 40)
            return usable(_palette(header, stored), name)
        if header.samples == 3:
            return usable(plain(stored), name)
        allow(pixels * 40)
        return usable(plain(_bright(header, index, stored)), name)
    except (ImageError, MemoryError, MissingError):
        raise
    except Exception as error:
        raise ImageError(
            f"{name} has {_syntax_name(header)} pixels that cannot be decoded "
            f"({type(error).__name__})."
        ) from None


def _syntax_name(header: Header) -> str:
    from pydicom.uid import UID

    # the name of a known number, never what the file says
    uid = UID(header.syntax)
    return uid.name.split(" (")[0] if uid.is_transfer_syntax and not uid.is_private else "unknown"


def _stored(header: Header, index: int) -> NDArray[Any]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import as_pixel_options
    from pydicom.uid import UID

    try:
        decoder = get_decoder(header.syntax)
    except NotImplementedError:
        raise ImageError(
            f"{header.name} has a transfer syntax that is not read: {_syntax_name(header)}."
        ) from None
    if not decoder.is_available:
        raise MissingError(
            f"{_syntax_name(header)} needs a decoder that is not installed. "
            "Install it with: pip install 'medloop[formats]'"
        )
    options = as_pixel_options(header.dataset)
    options |= {
        "transfer_syntax_uid": UID(header.syntax),
        "pixel_keyword": header.keyword,
        "pixel_vr": header.vr,
        "number_of_frames": header.frames,
    }
    if decoder.is_encapsulated:
        _check_stream(header, index, options.get("extended_offsets"))
    header.stream.seek(header.offset)
    array, _ = decoder.as_array(header.stream, index=index, validate=True, raw=False, **options)
    found: NDArray[Any] = array
    wanted = (header.height, header.width) + ((3,) if header.samples == 3 else ())
    if found.shape != wanted:
        raise ImageError(
            f"{header.name} decodes to {found.shape} pixels, expected {wanted} by its header."
        )
    return found


def _check_stream(header: Header, index: int, offsets: Any) -> None:
    """Refuse a packed image that says itself that it is larger than the header says."""
    from pydicom.encaps import get_frame

    header.stream.seek(header.offset)
    packed = get_frame(
        header.stream, index, number_of_frames=header.frames, extended_offsets=offsets
    )
    height, width = packed_size(packed)
    if height * width > header.height * header.width:
        raise ImageError(
            f"{header.name} packs {width:,} x {height:,} pixels, "
            f"expected {header.width:,} x {header.height:,} by its header."
        )


def packed_size(packed: bytes) -> tuple[int, int]:
    """Return height and width as JPEG, JPEG-LS or JPEG 2000 note them; zeros where they do not.

    Examples
    --------
    >>> packed_size(bytes.fromhex("ffd8 ffc0 000b 08 0003 0005 01 011100"))
    (3, 5)
    """
    size = packed.find(b"\xff\x4f\xff\x51")  # a file of JPEG 2000 has boxes before this
    if size >= 0 and len(packed) >= size + 24:
        right, bottom, left, top = struct.unpack_from(">4I", packed, size + 8)
        return max(bottom - top, 0), max(right - left, 0)
    at = packed.find(b"\xff\xd8") + 2
    while 2 <= at <= len(packed) - 9:
        if packed[at] != 0xFF:
            return 0, 0
        marker = packed[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            height, width = struct.unpack_from(">HH", packed, at + 5)
            return height, width
        at += 2 + struct.unpack_from(">H", packed, at + 2)[0]
    return 0, 0


def _palette(header: Header, stored: NDArray[Any]) -> NDArray[Any]:
    from pydicom.pixels.processing import apply_color_lut

    return np.ascontiguousarray(apply_color_lut(stored, header.dataset)[..., :3])


def _bright(header: Header, index: int, stored: NDArray[Any]) -> NDArray[Any]:
    """Apply the modality LUT or rescale, and turn MONOCHROME1 round."""
    low, high = value_range(header)
    values: NDArray[Any] = stored
    if header.dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        values = apply_modality_lut(stored, header.dataset)
        low, high = 0, 2 ** (8 * values.dtype.itemsize) - 1
    else:
        slope, intercept = rescale(header, index)
        if (slope, intercept) != (1, 0):
            values = stored.astype(_enough(stored.dtype, slope, intercept))
            values *= slope
            values += intercept
            low, high = low * slope + intercept, high * slope + intercept
    if header.photometric != "MONOCHROME1":
        return values
    if values.dtype.kind == "f":
        return (0 if header.keyword != "PixelData" else low + high) - values
    turned = int(low + high) - values.astype(np.int64)
    return turned.astype(values.dtype) if turned.min() >= 0 and not header.signed else turned


def _enough(stored: np.dtype[Any], slope: float, intercept: float) -> type:
    """Return the shorter float, where no digit can be lost in it."""
    whole = slope == int(slope) and intercept == int(intercept)
    small = stored.kind in "iu" and stored.itemsize <= 2
    if whole and small and 2**16 * abs(slope) + abs(intercept) <= 2**24:
        return np.float32
    return np.float64
