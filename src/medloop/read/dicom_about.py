"""What is told of a DICOM file without naming anybody: listing, pseudonyms, flags."""

from __future__ import annotations

from typing import Any, BinaryIO

from medloop.errors import ImageError
from medloop.read import pseudonym
from medloop.read.about import About
from medloop.read.dicom import (
    LARGEST,
    PEOPLE,
    Allow,
    Header,
    checked,
    functional_group,
    is_directory,
    known_code,
    modality,
    no_limit,
    parse,
    rescale,
    spacing,
    tags_of,
    value_range,
)
from medloop.read.words import BODY_PARTS, LATERALITIES, VIEWS

#: Secondary capture, whose classes end in 7 and 7.1 to 7.4.
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose map",
}

#: Machines that usually write the patient's name into the picture.
_WITH_TEXT = frozenset(("US", "ES", "XC", "IVUS", "OT", "SC", "GM"))


def about(header: Header) -> dict[str, Any]:
    """Return what :class:`About` tells of an image, without what names anybody."""
    dataset = header.dataset
    columns = {
        "modality": modality(dataset),
        "body_part": known_code(dataset, "BodyPartExamined", BODY_PARTS),
        "view": known_code(dataset, "ViewPosition", VIEWS),
        "laterality": known_code(dataset, "ImageLaterality", LATERALITIES)
        or known_code(dataset, "Laterality", LATERALITIES),
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
    found = functional_group(header, 0, "FrameVOILUTSequence") or header.dataset
    values = []
    for word in ("WindowCenter", "WindowWidth"):
        try:
            given = found.get(word)
            value = float(given if isinstance(given, (str, float, int)) else given[0])
        except (TypeError, ValueError, IndexError, OverflowError):
            return {}
        if not abs(value) < LARGEST:
            return {}
        values.append(value)
    center, width = values
    if header.photometric == "MONOCHROME1" and not header.dataset.get("ModalityLUTSequence"):
        slope, intercept = rescale(header, 0)
        center = sum(value_range(header)) * slope + 2 * intercept - center
    return {"window_center": f"{center:.9g}", "window_width": f"{width:.9g}"}


def _flags(dataset: Any) -> list[str]:
    burned = str(dataset.get("BurnedInAnnotation", "") or "").strip().upper()
    kinds = {str(word).upper() for word in dataset.get("ImageType", None) or []}
    flags = []
    if burned == "YES":
        flags.append("text burned in")
    elif burned != "NO":
        captured = str(dataset.get("SOPClassUID", "")).startswith(_CAPTURE)
        digitized = bool(dataset.get("ConversionType")) or "SCREEN SAVE" in kinds
        if captured or digitized or modality(dataset) in _WITH_TEXT:
            flags.append("text burned in?")
    if str(dataset.get("LossyImageCompression", "")) == "01":
        flags.append("lossy")
    if kind := _KINDS.get(str(dataset.get("SOPClassUID", ""))):
        flags.append(kind)
    return flags


def people(dataset: Any, key: bytes, name: str) -> dict[str, Any]:
    """Return pseudonyms for whom a header names, and where its words stand in the path.

    Parameters
    ----------
    dataset : pydicom.Dataset
    key : bytes
    name : str
        Path of the file, in which names are looked for.
    """
    values = [value for word in PEOPLE for value in _texts(dataset, word)]
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


def look(stream: BinaryIO, name: str, path: str, key: bytes, allow: Allow = no_limit) -> About:
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
        dataset, stream, where = parse(stream, name, tags_of(people=True), allow)
    except ImageError as error:
        return About("DICOM", reason=str(error))
    whose = people(dataset, key, path)
    if is_directory(dataset):
        return About("", reason=f"{name} is a DICOMDIR.", said=whose["said"], marks=whose["marks"])
    try:
        header = checked(dataset, stream, where, name)
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
