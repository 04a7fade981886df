"""One DICOM file to pixels and to the few header fields that name nobody.

Runs in a worker (:mod:`medloop.read.worker`): what pydicom does with a malformed file is not
known beforehand. No message holds a value of the header that could name a person.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import usable
from medloop.errors import ImageError, MissingError
from medloop.read import pseudonym
from medloop.read.about import About
from medloop.read.image import MAX_BYTES, MAX_PIXELS
from medloop.read.words import BODY_PARTS, LATERALITIES, MODALITIES, VIEWS

MAX_FRAMES = 100_000

#: Deflated headers and pixels shrink by this at most, unless they stay small.
_MAX_RATIO = 20
_SMALL = 64_000_000

#: Pixels lie this far apart (mm), from electron microscopes to whole bodies.
_SPACINGS = (1e-6, 1e3)
#: Rescaled values beyond this are no measurement.
_LARGEST = 1e30

_EXPLICIT = "1.2.840.10008.1.2.1"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DICOMDIR = "1.2.840.10008.1.3.10"

_PIXELS = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}

#: All that is ever read from a header; nothing else is even looked at.
_TAGS = [
    "SpecificCharacterSet",
    *("SOPClassUID", "ImageType", "Modality", "ConversionType", "BodyPartExamined"),
    *("ViewPosition", "Laterality", "ImageLaterality", "BurnedInAnnotation"),
    *("LossyImageCompression", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("ImagerPixelSpacing", "NominalScannedPixelSpacing", "BitsAllocated", "BitsStored"),
    *("HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope"),
    *("ModalityLUTSequence", "WindowCenter", "WindowWidth", "PixelPresentation"),
    *("RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor"),
    *("BluePaletteColorLookupTableDescriptor", "AlphaPaletteColorLookupTableDescriptor"),
    *("RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableData", "AlphaPaletteColorLookupTableData"),
    *("SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData"),
    *("SegmentedBluePaletteColorLookupTableData", "SegmentedAlphaPaletteColorLookupTableData"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]
#: Read for pseudonyms and to find them in file names; they never leave the worker in clear.
_PEOPLE = [
    *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName"),
    *("PatientMotherBirthName", "PatientBirthDate", "AccessionNumber"),
    *("PatientTelephoneNumbers", "MedicalRecordLocator", "ReferringPhysicianName"),
]
_STUDY = ["StudyInstanceUID"]

#: Secondary capture, whose classes end in 7 and 7.1 to 7.4.
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose map",
}


@dataclass(frozen=True)
class Header:
    """What is known of a DICOM image before a pixel is decoded, after it was checked."""

    stream: BinaryIO
    dataset: Any
    name: str
    syntax: str
    keyword: str
    vr: str
    offset: int
    height: int
    width: int
    samples: int
    bits: int
    stored: int
    signed: bool
    frames: int
    photometric: str


def _nothing(size: int) -> None:
    """Take notice of how much memory the next step needs: without limits, nothing to do."""


Allow = Callable[[int], None]


def open_image(stream: BinaryIO, name: str, allow: Allow = _nothing) -> Header:
    """Read and check the header of a DICOM image.

    Parameters
    ----------
    stream : binary file
        Stays open as long as frames are decoded from it.
    name : str
        For messages only.
    allow : callable
        Told how many bytes of memory a step may need, before it takes them.

    Raises
    ------
    ImageError
        It cannot be parsed, holds no pixels, or its header says something impossible.
    MissingError
        pydicom is not installed.
    """
    dataset, stream, where = _parse(stream, name, _tags(), allow)
    try:
        return _checked(dataset, stream, where, name)
    except ImageError:
        raise
    except Exception as error:  # values convert at their first use, and raise whatever they like
        raise ImageError(
            f"{name} has a header that makes no sense ({type(error).__name__})."
        ) from None


@cache
def _tags(*, people: bool = False) -> list[Any]:
    """Return the tags that are read; found once, because a tag is found by its name slowly."""
    try:
        from pydicom.tag import Tag
    except ImportError:
        raise MissingError(
            "DICOM needs pydicom. Install it with: pip install 'medloop[formats]'"
        ) from None
    return [Tag(word) for word in ([*_TAGS, *_PEOPLE, *_STUDY] if people else _TAGS)]


def _parse(stream: BinaryIO, name: str, tags: list[Any], allow: Allow) -> tuple[Any, BinaryIO, int]:
    import pydicom

    stream.seek(0, os.SEEK_END)
    if not stream.tell():
        raise ImageError(f"{name} is empty.")
    syntax, end = _transfer_syntax(stream)
    if syntax == _DEFLATED:
        stream = _inflated(stream, end, name, allow)
    stream.seek(0)
    try:
        dataset = pydicom.dcmread(
            stream,
            force=True,
            stop_before_pixels=True,
            specific_tags=tags,
        )
    except RecursionError:
        raise ImageError(f"{name} has sequences nested too deeply.") from None
    except MemoryError:  # elements without end, or a length of gigabytes
        raise ImageError(
            f"{name} has a header that fills the memory: a length is wrong, or it does not end."
        ) from None
    except Exception as error:
        raise ImageError(f"{name} cannot be parsed as DICOM ({type(error).__name__}).") from None
    return dataset, stream, stream.tell()


def _transfer_syntax(stream: BinaryIO) -> tuple[str, int]:
    """Read the transfer syntax, and where the file meta information ends."""
    stream.seek(0)
    head = stream.read(65536)
    at = 132 if head[128:132] == b"DICM" else 0
    syntax = ""
    while head[at : at + 2] == b"\x02\0" and at + 12 <= len(head):
        long = head[at + 4 : at + 6] in (b"OB", b"OW", b"UN", b"UT", b"SQ")
        length, start = (
            (struct.unpack_from("<I", head, at + 8)[0], at + 12)
            if long
            else (struct.unpack_from("<H", head, at + 6)[0], at + 8)
        )
        if head[at : at + 4] == b"\x02\0\x10\0":
            syntax = head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        at = start + length
    return syntax, at


def _inflated(stream: BinaryIO, start: int, name: str, allow: Allow) -> BinaryIO:
    """Unpack a deflated data set, after counting what comes out of it."""
    stream.seek(0, os.SEEK_END)
    packed = stream.tell() - start
    limit = min(max(_SMALL, _MAX_RATIO * packed), MAX_BYTES)
    size = sum(map(len, _unpack(stream, start, name, limit)))
    if size > limit:
        raise ImageError(
            f"{name} unpacks {packed:,} bytes to more than {limit:,}: such a file is not read."
        )
    allow(2 * size)
    uid = _EXPLICIT.encode() + b"\0"
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    whole = io.BytesIO(bytes(128) + b"DICM" + meta)
    whole.seek(0, os.SEEK_END)
    for part in _unpack(stream, start, name, limit):
        whole.write(part)
    return whole


def _unpack(stream: BinaryIO, start: int, name: str, limit: int) -> Iterator[bytes]:
    stream.seek(start)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    given = 0
    pending = stream.read(65536)
    try:
        while pending and given <= limit and not unpacker.eof:
            part = unpacker.decompress(pending, 1 << 20)
            given += len(part)
            yield part
            pending = unpacker.unconsumed_tail or stream.read(65536)
    except zlib.error:
        raise ImageError(f"{name} is deflated, and cannot be inflated.") from None


def _checked(dataset: Any, stream: BinaryIO, where: int, name: str) -> Header:
    if _is_directory(dataset):
        raise ImageError(f"{name} is a DICOMDIR: a table of contents, no image.")
    keyword, vr, offset, length = _pixel_element(dataset, stream, where)
    if not keyword:
        if not len(dataset) and "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
            raise ImageError(f"{name} is not DICOM.")
        raise ImageError(f"{name} holds no pixels: {_modality(dataset) or 'it is no image'}.")
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "") or "")
    if not syntax:
        raise ImageError(f"{name} names no transfer syntax, so that its pixels cannot be decoded.")
    height, width = (_number(dataset, word, name, 1, 65535) for word in ("Rows", "Columns"))
    samples = _number(dataset, "SamplesPerPixel", name, 1, 4)
    bits = _number(dataset, "BitsAllocated", name, 1, 64)
    stored = _number(dataset, "BitsStored", name, 1, 64, bits)
    frames = _number(dataset, "NumberOfFrames", name, 0, MAX_FRAMES, 1) or 1
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width:,} x {height:,} pixels, at most {MAX_PIXELS:,} are read."
        )
    if samples not in (1, 3):
        raise ImageError(f"{name} has {samples} samples a pixel, expected 1 or 3.")
    if (bits != 1 and bits % 8) or stored > bits:
        raise ImageError(f"{name} stores {stored} of {bits} bits, which no decoder knows.")
    photometric = str(dataset.get("PhotometricInterpretation", "") or "").strip()
    if not photometric:
        raise ImageError(f"{name} has no PhotometricInterpretation.")
    header = Header(
        stream=stream,
        dataset=dataset,
        name=name,
        syntax=syntax,
        keyword=keyword,
        vr=vr,
        offset=offset,
        height=height,
        width=width,
        samples=samples,
        bits=bits,
        stored=stored,
        signed=bool(dataset.get("PixelRepresentation", 0)),
        frames=frames,
        photometric=photometric,
    )
    stream.seek(0, os.SEEK_END)
    rest = stream.tell() - offset
    _check_length(header, rest if length is None else min(length, rest), native=length is not None)
    _rescale(header, 0)
    spacing(header)
    return header


def _is_directory(dataset: Any) -> bool:
    try:
        return str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DICOMDIR
    except Exception:  # a type that nobody knows
        return False


def _pixel_element(dataset: Any, stream: BinaryIO, where: int) -> tuple[str, str, int, int | None]:
    """Return the pixel element's keyword, type, where its value starts, and its length."""
    stream.seek(where)
    head = stream.read(12)
    if len(head) < 8:
        return "", "", 0, 0
    order = "<" if dataset.original_encoding[1] else ">"
    keyword = _PIXELS.get(struct.unpack(f"{order}HH", head[:4]), "")
    # some files leave out the types where their transfer syntax wants them
    if head[4:6] not in (b"OB", b"OW", b"OF", b"OD", b"UN"):
        (length,) = struct.unpack(f"{order}I", head[4:8])
        vr, offset = "OW", where + 8
    else:
        vr, offset = head[4:6].decode("ascii", "replace"), where + 12
        (length,) = struct.unpack(f"{order}I", head[8:12].ljust(4, b"\0"))
    return keyword, vr, offset, None if length == 0xFFFFFFFF else length


def _number(
    dataset: Any, word: str, name: str, low: int, high: int, default: int | None = None
) -> int:
    value = dataset.get(word)
    if value is None or value == "":
        if default is None:
            raise ImageError(f"{name} has no {word}.")
        return default
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ImageError(f"{name} has a {word} that is no number.") from None
    if not low <= number <= high:
        raise ImageError(f"{name} has a {word} of {number}, expected {low} to {high:,}.")
    return number


def _check_length(header: Header, held: int, *, native: bool) -> None:
    encapsulated = _is_encapsulated(header)
    if encapsulated == native:
        was, not_so = ("packed", "as if plain") if encapsulated else ("plain", "as if packed")
        raise ImageError(f"{header.name} says that its pixels are {was}, and stores them {not_so}.")
    if encapsulated:
        if held < 8 * header.frames:  # an item takes eight bytes, even an empty one
            raise ImageError(
                f"{header.name} says it has {header.frames:,} frames, "
                f"but holds {held:,} bytes of them."
            )
        return
    bits = header.height * header.width * header.samples * header.bits * header.frames
    expected = math.ceil(bits / 8)
    whole = expected
    if header.photometric == "YBR_FULL_422":
        expected = expected // 3 * 2
    padded = expected + expected % 2
    if held < padded and held != expected:
        raise ImageError(
            f"{header.name} is truncated: it holds {held:,} of {padded:,} bytes of pixels."
        )
    if header.photometric == "YBR_FULL_422" and held >= whole + whole % 2 > padded:
        raise ImageError(
            f"{header.name} says YBR_FULL_422, but holds {held:,} bytes of pixels, "
            f"expected {expected:,}."
        )


def _is_encapsulated(header: Header) -> bool:
    from pydicom.uid import UID

    try:
        return bool(UID(header.syntax).is_encapsulated)
    except ValueError:
        raise ImageError(f"{header.name} has a transfer syntax that is not known.") from None


def decode_frame(header: Header, index: int, allow: Allow = _nothing) -> NDArray[Any]:
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
    low, high = _range(header)
    values: NDArray[Any] = stored
    if header.dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        values = apply_modality_lut(stored, header.dataset)
        low, high = 0, 2 ** (8 * values.dtype.itemsize) - 1
    else:
        slope, intercept = _rescale(header, index)
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


def _range(header: Header) -> tuple[float, float]:
    if header.signed:
        return -(2 ** (header.stored - 1)), 2 ** (header.stored - 1) - 1
    return 0, 2**header.stored - 1


def plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers of the types that the rest of the package knows, without losing a digit."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype == np.float32 or (values.dtype.kind in "iu" and values.dtype.itemsize <= 2):
        return values.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):  # inf is refused later, by name
        single = values.astype(np.float32)
        if values.dtype.kind == "f":
            exact = np.array_equal(single.astype(values.dtype), values, equal_nan=True)
            return single if exact else values.astype(np.float64, copy=False)
        return single if np.array_equal(single, values) else values.astype(np.float64)


def _groups(header: Header, index: int, sequence: str) -> Any:
    """Return the item of a functional group that counts for a frame, or None."""
    for groups, at in (
        ("PerFrameFunctionalGroupsSequence", index),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = header.dataset.get(groups)
        if items and at < len(items) and items[at].get(sequence):
            return items[at].get(sequence)[0]
    return None


def _rescale(header: Header, index: int) -> tuple[float, float]:
    found = header.dataset
    if "RescaleSlope" not in found or "RescaleIntercept" not in found:
        found = _groups(header, index, "PixelValueTransformationSequence")
    if found is None or "RescaleSlope" not in found or "RescaleIntercept" not in found:
        return 1.0, 0.0
    values = []
    for word in ("RescaleSlope", "RescaleIntercept"):
        try:
            value = float(found.get(word))
        except (TypeError, ValueError, OverflowError):
            raise ImageError(f"{header.name} has a {word} that is no number.") from None
        if not abs(value) < _LARGEST:
            raise ImageError(
                f"{header.name} has a {word} of {value:g}, expected less than {_LARGEST:g}."
            )
        values.append(value)
    return values[0], values[1]


def spacing(header: Header) -> tuple[float, float] | None:
    """Return the distance of rows and of columns in mm; None where the header gives none.

    Raises
    ------
    ImageError
        It is negative, not finite, or of no size that an image has.
    """
    measures = _groups(header, 0, "PixelMeasuresSequence")
    given = None if measures is None else measures.get("PixelSpacing")
    for word in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        given = given or header.dataset.get(word)
    if not given:
        return None
    try:
        row, column = (float(value) for value in given)
    except (TypeError, ValueError):
        raise ImageError(f"{header.name} has a pixel spacing that is not two numbers.") from None
    if row == 0 or column == 0:  # written by converters that know none
        return None
    low, high = _SPACINGS
    if not (low <= row <= high and low <= column <= high):
        raise ImageError(
            f"{header.name} has a pixel spacing of {row:g} x {column:g} mm, "
            f"expected {low:g} to {high:g}."
        )
    return row, column


def about(header: Header) -> dict[str, Any]:
    """Return what :class:`About` tells of an image, without what names anybody."""
    dataset = header.dataset
    columns = {
        "modality": _modality(dataset),
        "body_part": _known(dataset, "BodyPartExamined", BODY_PARTS),
        "view": _known(dataset, "ViewPosition", VIEWS),
        "laterality": _known(dataset, "ImageLaterality", LATERALITIES)
        or _known(dataset, "Laterality", LATERALITIES),
    }
    distance = spacing(header)
    if distance:
        columns["spacing_row"], columns["spacing_column"] = (f"{mm:.9g}" for mm in distance)
    columns |= _window(header)
    return {
        "frames": header.frames,
        "height": header.height,
        "width": header.width,
        "bits": header.stored,
        "columns": {name: value for name, value in columns.items() if value},
        "flags": _flags(dataset),
    }


def _window(header: Header) -> dict[str, str]:
    """Return the first window, so that it fits the pixels as they are decoded."""
    found = _groups(header, 0, "FrameVOILUTSequence") or header.dataset
    values = []
    for word in ("WindowCenter", "WindowWidth"):
        try:
            given = found.get(word)
            value = float(given if isinstance(given, (str, float, int)) else given[0])
        except (TypeError, ValueError, IndexError, OverflowError):
            return {}
        if not abs(value) < _LARGEST:
            return {}
        values.append(value)
    center, width = values
    if header.photometric == "MONOCHROME1" and not header.dataset.get("ModalityLUTSequence"):
        slope, intercept = _rescale(header, 0)
        center = sum(_range(header)) * slope + 2 * intercept - center
    return {"window_center": f"{center:.9g}", "window_width": f"{width:.9g}"}


def _modality(dataset: Any) -> str:
    return _known(dataset, "Modality", MODALITIES)


def _known(dataset: Any, word: str, known: frozenset[str]) -> str:
    """Return a code of the standard; people type other things into these fields too."""
    try:
        value = dataset.get(word)
        code = str(value[0] if isinstance(value, (list, tuple)) else value or "").strip().upper()
    except Exception:  # a field that cannot be read is a field that is not given
        return ""
    return code if code in known else ""


def _flags(dataset: Any) -> list[str]:
    burned = str(dataset.get("BurnedInAnnotation", "") or "").strip().upper()
    kinds = {str(word).upper() for word in dataset.get("ImageType", None) or []}
    flags = []
    if burned == "YES":
        flags.append("text burned in")
    elif burned != "NO":
        captured = str(dataset.get("SOPClassUID", "")).startswith(_CAPTURE)
        digitized = bool(dataset.get("ConversionType")) or "SCREEN SAVE" in kinds
        if captured or digitized or _modality(dataset) in _WITH_TEXT:
            flags.append("text burned in?")
    if str(dataset.get("LossyImageCompression", "")) == "01":
        flags.append("lossy")
    if kind := _KINDS.get(str(dataset.get("SOPClassUID", ""))):
        flags.append(kind)
    return flags


#: Machines that usually write the patient's name into the picture.
_WITH_TEXT = frozenset(("US", "ES", "XC", "IVUS", "OT", "SC", "GM"))


def people(dataset: Any, key: bytes, name: str) -> dict[str, Any]:
    """Return pseudonyms for whom a header names, and where its words stand in the path.

    Parameters
    ----------
    dataset : pydicom.Dataset
    key : bytes
    name : str
        Path of the file, in which names are looked for.
    """
    values = [value for word in _PEOPLE for value in _texts(dataset, word)]
    words = pseudonym.words_of(values)
    number = " ".join(_texts(dataset, "PatientID"))
    person = " ".join([*_texts(dataset, "PatientName"), *_texts(dataset, "PatientBirthDate")])
    study = " ".join(_texts(dataset, "StudyInstanceUID"))
    patient = ""
    if not pseudonym.is_nobody(number):
        patient = pseudonym.pseudonym(key, "patient", number)
    elif not pseudonym.is_nobody(" ".join(_texts(dataset, "PatientName"))):
        patient = pseudonym.pseudonym(key, "patient", "name " + person)
    elif study:  # one visit of one person, at least
        patient = pseudonym.pseudonym(key, "patient", "study " + study)
    return {
        "patient": patient,
        "study": pseudonym.pseudonym(key, "study", study) if study else "",
        "said": pseudonym.hits(name, words),
        "marks": pseudonym.marks(key, words),
    }


def _texts(dataset: Any, word: str) -> list[str]:
    try:
        value = dataset.get(word)
        if value is None:
            return []
        many = value if not isinstance(value, str) and hasattr(value, "append") else [value]
        return [text for text in (str(one).strip() for one in many) if text]
    except Exception:  # an undecodable name is no name
        return []


def look(stream: BinaryIO, name: str, path: str, key: bytes, allow: Allow = _nothing) -> About:
    """Tell what a DICOM file is, whom it belongs to (by pseudonym), and whether it is an image.

    Parameters
    ----------
    stream : binary file
    name : str
        For messages.
    path : str
        Relative path, in which the patient's name is looked for.
    key : bytes
        For the pseudonyms.
    allow : callable
        As for :func:`open_image`.
    """
    try:
        dataset, stream, where = _parse(stream, name, _tags(people=True), allow)
    except ImageError as error:
        return About("DICOM", reason=str(error))
    whose = people(dataset, key, path)
    if _is_directory(dataset):
        return About("", reason=f"{name} is a DICOMDIR.", said=whose["said"], marks=whose["marks"])
    try:
        header = _checked(dataset, stream, where, name)
        told = about(header)
    except ImageError as error:
        return About("DICOM", reason=str(error), **whose)
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{name} has a header that makes no sense ({type(error).__name__})."
        return About("DICOM", reason=reason, **whose)
    frames = header.frames
    slices = [str(number + 1) for number in range(frames)] if frames > 1 else []
    return About("DICOM", slices=slices, **told, **whose)
