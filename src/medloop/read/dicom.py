"""One DICOM file to a header that was checked: what is known before a pixel is decoded.

Runs in a worker (:mod:`medloop.read.worker`): what pydicom does with a malformed file is not
known beforehand. No message holds a value of the header that could name a person. Pixels are
decoded by :mod:`medloop.read.dicom_pixels`; what a listing tells of a file is in
:mod:`medloop.read.dicom_about`.
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

from medloop.errors import ImageError, MissingError
from medloop.read.image import MAX_BYTES, MAX_PIXELS
from medloop.read.words import MODALITIES

MAX_FRAMES = 100_000

#: Deflated headers and pixels shrink by this at most, unless they stay small.
_MAX_RATIO = 20
_SMALL = 64_000_000

#: Pixels lie this far apart (mm), from electron microscopes to whole bodies.
_SPACINGS = (1e-6, 1e3)
#: Rescaled values beyond this are no measurement.
LARGEST = 1e30

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
PEOPLE = [
    *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName"),
    *("PatientMotherBirthName", "PatientBirthDate", "AccessionNumber"),
    *("PatientTelephoneNumbers", "MedicalRecordLocator", "ReferringPhysicianName"),
]

_STUDY = ["StudyInstanceUID"]


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


def no_limit(size: int) -> None:
    """Take notice of how much memory the next step needs: without limits, nothing to do."""


Allow = Callable[[int], None]


def open_image(stream: BinaryIO, name: str, allow: Allow = no_limit) -> Header:
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
    dataset, stream, where = parse(stream, name, tags_of(), allow)
    try:
        return checked(dataset, stream, where, name)
    except ImageError:
        raise
    except Exception as error:  # values convert at their first use, and raise whatever they like
        raise ImageError(
            f"{name} has a header that makes no sense ({type(error).__name__})."
        ) from None


@cache
def tags_of(*, people: bool = False) -> list[Any]:
    """Return the tags that are read; found once, because a tag is found by its name slowly."""
    try:
        from pydicom.tag import Tag
    except ImportError:
        raise MissingError(
            "DICOM needs pydicom. Install it with: pip install 'medloop[formats]'"
        ) from None
    return [Tag(word) for word in ([*_TAGS, *PEOPLE, *_STUDY] if people else _TAGS)]


def parse(stream: BinaryIO, name: str, tags: list[Any], allow: Allow) -> tuple[Any, BinaryIO, int]:
    """Read the header, and where the pixel element starts, from a stream that may be inflated."""
    import pydicom

    stream.seek(0, os.SEEK_END)
    if not stream.tell():
        raise ImageError(f"{name} is empty.")
    syntax, end = transfer_syntax(stream)
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


def transfer_syntax(stream: BinaryIO) -> tuple[str, int]:
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


def checked(dataset: Any, stream: BinaryIO, where: int, name: str) -> Header:
    """Check that a header says what can be."""
    if is_directory(dataset):
        raise ImageError(f"{name} is a DICOMDIR: a table of contents, no image.")
    keyword, vr, offset, length = _pixel_element(dataset, stream, where)
    if not keyword:
        if not len(dataset) and "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
            raise ImageError(f"{name} is not DICOM.")
        raise ImageError(f"{name} holds no pixels: {modality(dataset) or 'it is no image'}.")
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
    rescale(header, 0)
    spacing(header)
    return header


def is_directory(dataset: Any) -> bool:
    """Say whether it is a table of contents (DICOMDIR)."""
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


def value_range(header: Header) -> tuple[float, float]:
    """Return the lowest and the highest number that the stored bits can hold."""
    if header.signed:
        return -(2 ** (header.stored - 1)), 2 ** (header.stored - 1) - 1
    return 0, 2**header.stored - 1


def functional_group(header: Header, index: int, sequence: str) -> Any:
    """Return the item of a functional group that counts for a frame, or None."""
    for groups, at in (
        ("PerFrameFunctionalGroupsSequence", index),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = header.dataset.get(groups)
        if items and at < len(items) and items[at].get(sequence):
            return items[at].get(sequence)[0]
    return None


def rescale(header: Header, index: int) -> tuple[float, float]:
    """Return slope and intercept of a frame; 1 and 0 where the header gives none."""
    found = header.dataset
    if "RescaleSlope" not in found or "RescaleIntercept" not in found:
        found = functional_group(header, index, "PixelValueTransformationSequence")
    if found is None or "RescaleSlope" not in found or "RescaleIntercept" not in found:
        return 1.0, 0.0
    values = []
    for word in ("RescaleSlope", "RescaleIntercept"):
        try:
            value = float(found.get(word))
        except (TypeError, ValueError, OverflowError):
            raise ImageError(f"{header.name} has a {word} that is no number.") from None
        if not abs(value) < LARGEST:
            raise ImageError(
                f"{header.name} has a {word} of {value:g}, expected less than {LARGEST:g}."
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
    measures = functional_group(header, 0, "PixelMeasuresSequence")
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


def modality(dataset: Any) -> str:
    """Return the modality, or nothing where it is none of the standard."""
    return known_code(dataset, "Modality", MODALITIES)


def known_code(dataset: Any, word: str, known: frozenset[str]) -> str:
    """Return a code of the standard; people type other things into these fields too."""
    try:
        value = dataset.get(word)
        code = str(value[0] if isinstance(value, (list, tuple)) else value or "").strip().upper()
    except Exception:  # a field that cannot be read is a field that is not given
        return ""
    return code if code in known else ""
