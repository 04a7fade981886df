"""DICOM-SEG: masks as segments that refer to the pixels of their source instances.

A series whose images have a place in the patient becomes one file; of all other images, each
instance becomes one, with all its frames. A segment is a class that one source (a person, or a
model in a round) gave. Masks of one class that overlap in an image lie in further segments of that
class, those that do not are joined. Labels without a mask are for DICOM-SR.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop import __version__, masks
from medloop.errors import DataError, ImageError
from medloop.export.blocks import Block, Source
from medloop.export.dicom_source import (
    MAKER,
    Plan,
    code_value,
    concept,
    finish,
    nameless,
    planned,
    schemes,
    text,
    unchecked,
)
from medloop.export.format import Blocks, Format
from medloop.labels import HUMAN, MODEL, Labels
from medloop.read.image import shown

#: Bytes that the masks of one file take before they are packed; more make further files.
MEMORY = 200_000_000
#: Segments of one file.
_SEGMENTS = 65_535
_SERIES_NUMBER = 901
_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

#: Class, source, round and layer.
Key = tuple[int, str, int, int]


@dataclass(frozen=True, eq=False)
class Row:
    """An image of a document, and its masks as run lengths."""

    header: Any
    frame: int
    file: str
    held: dict[Key, Any]
    overlap: bool


def dicom_seg(key: bytes | None = None) -> Format:
    """Return the format; with a key, patients and UIDs become pseudonyms under it."""
    return Format("dicom-seg", _unplanned, lambda path: iter(()), instead=partial(_planned, key))


def _planned(key: bytes | None, source: Source) -> Format:
    """Return the format for one workspace."""
    if "mask" not in source.has:
        raise DataError(
            f"{source.workspace.folder} holds no masks; dicom-sr takes boxes, points and classes."
        )
    plan = Plan(source, document_of, key)
    return Format(
        "dicom-seg",
        partial(_write, plan),
        lambda path: plan.parts(path, partial(read_segments, classes=source.classes)),
        holds=lambda source: frozenset(
            ("file", "size", "patient", "label", "source", "round", "mask")
        ),
        held=lambda source, block: joined(planned(plan, block, _with_mask(block)), plan),
        also=lambda source: [
            "masks of one class in one image are joined where they do not overlap",
            "labels without a mask and images without such labels are left out",
            *plan.left_out(),
        ],
    )


def _unplanned(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    raise DataError("a plan must be made before DICOM is written.")


def document_of(header: Any, file: str) -> tuple[Any, ...]:
    """Name the file that an image's masks go to.

    Raises
    ------
    ImageError
        A segmentation of such an image cannot say where it lies.
    """
    if has_place(header) and "NumberOfFrames" not in header:
        words = ("SeriesInstanceUID", "Rows", "Columns", "FrameOfReferenceUID", *_GEOMETRY[1:])
        return tuple(str(header.get(word, "")) for word in words)
    if _must_have_frame(header) and "FrameOfReferenceUID" not in header:
        raise ImageError(
            f"{shown(file)} has no frame of reference, which images of its kind must have."
        )
    return (str(header.SOPInstanceUID),)


def has_place(header: Any) -> bool:
    """Tell whether a header says where in the patient all frames lie."""
    from highdicom.spatial import get_image_coordinate_system

    if get_image_coordinate_system(header) is None:
        return False
    if "NumberOfFrames" in header:
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        tiled = str(header.get("DimensionOrganizationType", "")) == "TILED_FULL"
        return tiled or len(groups) == int(header.NumberOfFrames)
    return all(header.get(word) for word in _GEOMETRY)


def _must_have_frame(header: Any) -> bool:
    from highdicom._standard_utils import ModuleUsageValues, get_module_usage

    usage = get_module_usage("frame-of-reference", header.SOPClassUID)
    return bool(usage == ModuleUsageValues.MANDATORY)


def _with_mask(block: Block) -> list[bool]:
    held = block.labels.mask
    if held is None:
        return [False] * len(block.labels)
    return [mask is not None and masks.area(mask) > 0 for mask in held]


def joined(block: Block, plan: Plan) -> Block:
    """Join the masks of one class, source and round in an image, where they do not overlap."""
    found: list[tuple[int, Key, NDArray[np.bool_]]] = []
    bounds = block.bounds()
    for at in range(len(block)):
        rows = block.labels[bounds[at] : bounds[at + 1]]
        found += [(at, *layer) for layer in layers(rows, tuple(block.size[at]), block.file[at])]
    mask = np.empty(len(found), object)
    mask[:] = [masks.encode(picture) for _, _, picture in found]
    at_row = np.array([at for at, _, _ in found], np.int64)
    labels = Labels(
        image=block.id[at_row],
        class_id=np.array([key[0] for _, key, _ in found], np.int64),
        source=np.array([key[1] for _, key, _ in found], np.str_),
        round=np.array([key[2] for _, key, _ in found], np.int64),
        mask=mask,
    )
    block = replace(block, labels=labels, row=at_row, accepted=np.ones(len(found), bool))
    return plan.keep(block, np.unique(at_row))


def layers(rows: Labels, size: tuple[int, ...], file: str) -> list[tuple[Key, NDArray[np.bool_]]]:
    """Lay the masks of an image on as few layers a class, source and round as do not overlap."""
    held: dict[Key, NDArray[np.bool_]] = {}
    for row in range(len(rows)):
        mask = None if rows.mask is None else rows.mask[row]
        if mask is None:
            continue
        if masks.size_of(mask) != size:
            high, wide = masks.size_of(mask)
            raise DataError(
                f"{shown(file)} has {size[0]} x {size[1]} pixels, but a mask of {high} x {wide}."
            )
        picture = masks.decode(mask)
        first = (int(rows.class_id[row]), str(rows.source[row]), int(rows.round[row]))
        layer = 0
        while (*first, layer) in held and (held[*first, layer] & picture).any():
            layer += 1
        held[*first, layer] = held[*first, layer] | picture if (*first, layer) in held else picture
    return sorted(held.items(), key=lambda item: item[0])


def _write(plan: Plan, source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    path.mkdir()
    for document, images in plan.documents(blocks()):
        rows = []
        for image, file, _, labels, _ in images:
            header = plan.header(file)
            found = layers(labels, (int(header.Rows), int(header.Columns)), file)
            together = np.sum([picture for _, picture in found], axis=0, dtype=np.int64)
            held = {key: masks.encode(picture) for key, picture in found}
            frame = plan.reference[image].frame
            rows.append(Row(header, frame, file, held, bool(together.max() > 1)))
        for number, part in enumerate(_cut(rows)):
            plan.save(document, _segmentation(plan, part, document, number), path, "seg")
    os.sync()
    if not plan.written:
        raise DataError(
            f"none of the masks in {source.workspace.folder} belongs to a DICOM image that a "
            "segmentation could refer to; choose another format."
        )


def _cut(rows: list[Row]) -> list[list[Row]]:
    """Cut a document where it takes too much memory, or where two images lie in one place."""
    parts: list[list[Row]] = []
    places: set[str] = set()
    keys: set[Key] = set()
    overlap = False
    for row in rows:
        place = _place(row)
        more, over = keys | row.held.keys(), overlap or row.overlap
        # masks that overlap are stacked, and their sums are checked; others are one map
        size = int(row.header.Rows) * int(row.header.Columns) * (len(more) + 8 if over else 2)
        full = parts and (len(parts[-1]) + 1) * size > MEMORY
        if not parts or full or place in places or len(more) > _SEGMENTS:
            parts.append([])
            places, more, over = set(), set(row.held), row.overlap
        parts[-1].append(row)
        places.add(place)
        keys, overlap = more, over
    return parts


def _place(row: Row) -> str:
    """Name where an image lies: along the normal of its series, or in its instance."""
    if not has_place(row.header) or "NumberOfFrames" in row.header:
        return f"{row.header.SOPInstanceUID} {row.frame}"
    across, down = np.reshape([float(v) for v in row.header.ImageOrientationPatient], (2, 3))
    position = [float(v) for v in row.header.ImagePositionPatient]
    return f"{np.dot(np.cross(across, down), position):.6f}"


def _pixels(rows: list[Row], at: list[int], count: int, keys: list[Key]) -> NDArray[Any]:
    """Draw the masks: one map (count, h, w) of segment numbers, or a stack where they overlap."""
    number = {key: k for k, key in enumerate(keys)}
    shape = (count, int(rows[0].header.Rows), int(rows[0].header.Columns))
    if any(row.overlap for row in rows):
        stack = np.zeros((*shape, len(keys)), np.uint8)
        for row, place in zip(rows, at, strict=True):
            for key, mask in row.held.items():
                stack[place, :, :, number[key]] = masks.decode(mask)
        return stack
    drawn = np.zeros(shape, np.uint8 if len(keys) < 256 else np.uint16)
    for row, place in zip(rows, at, strict=True):
        for key, mask in row.held.items():
            drawn[place][masks.decode(mask)] = number[key] + 1
    return drawn


def _segmentation(plan: Plan, rows: list[Row], document: int, number: int) -> Any:
    keys = sorted({key for row in rows for key in row.held})
    header = rows[0].header
    words = [document, number]
    try:
        with unchecked():
            made = _placed(plan, rows, keys, words) if has_place(header) else None
            if made is None:
                made = _unplaced(plan, rows, keys, words)
            finish(made, header, plan.when)
    except DataError:
        raise
    except Exception as error:  # what a header may say has no end
        raise DataError(
            f"{shown(rows[0].file)} cannot be segmented in DICOM: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    organization = plan.uid("dimensions", *words)
    for item in (*made.DimensionOrganizationSequence, *made.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = organization
    return made


def _placed(plan: Plan, rows: list[Row], keys: list[Key], words: list[Any]) -> Any:
    """Write masks of images that lie in the patient; None where highdicom cannot place them."""
    header = rows[0].header
    several = "NumberOfFrames" in header
    count = int(header.NumberOfFrames) if several else len(rows)
    if several and count * int(header.Rows) * int(header.Columns) > MEMORY:
        return None
    at = [row.frame - 1 for row in rows] if several else list(range(count))
    pixels = _pixels(rows, at, count, keys)
    headers = [header] if several else [copy.deepcopy(row.header) for row in rows]
    for one in [] if several else headers:
        one.SliceThickness = one.get("SliceThickness") or None
    try:
        return _made(plan, headers, pixels, keys, words)
    except (ValueError, AttributeError):
        if several:  # such as frames that do not all face one way
            return None
        raise


def _unplaced(plan: Plan, rows: list[Row], keys: list[Key], words: list[Any]) -> Any:
    """Write masks of the frames of one instance, which lie nowhere but in it.

    highdicom makes such files of one frame only, so that more frames are added here.
    """
    from highdicom import PixelMeasuresSequence
    from pydicom import Dataset

    header = copy.deepcopy(rows[0].header)
    for word in (*_GEOMETRY, "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if word in header:
            del header[word]
    if "FrameOfReferenceUID" in header and not _must_have_frame(header):
        del header.FrameOfReferenceUID
    several = int(header.get("NumberOfFrames", 1)) > 1
    if "NumberOfFrames" in header:
        header.NumberOfFrames = 1
        # highdicom wants measures of such images, which they do not have; they go out again below
        measures = Dataset()
        measures.PixelMeasuresSequence = PixelMeasuresSequence([1.0, 1.0], None)
        header.SharedFunctionalGroupsSequence = [measures]
    made = _made(plan, [header], _pixels(rows[:1], [0], 1, keys), keys, words)
    shared = made.SharedFunctionalGroupsSequence[0]
    if "NumberOfFrames" in header and "PixelMeasuresSequence" in shared:
        del shared.PixelMeasuresSequence
    # asked of images that have no place
    made.PatientOrientation = header.get("PatientOrientation", "")
    return _with_frames(made, rows, keys) if several else made


def _with_frames(made: Any, rows: list[Row], keys: list[Key]) -> Any:
    """Replace the frames of a segmentation by those of all rows, numbered by segment and frame."""
    from pydicom import Dataset
    from pydicom.tag import Tag

    pattern = made.PerFrameFunctionalGroupsSequence[0]
    pointer = Dataset()
    pointer.DimensionIndexPointer = Tag("InStackPositionNumber")
    pointer.FunctionalGroupPointer = Tag("FrameContentSequence")
    pointer.DimensionOrganizationUID = made.DimensionIndexSequence[0].DimensionOrganizationUID
    pointer.DimensionDescriptionLabel = "Frame of the source"
    made.DimensionIndexSequence.append(pointer)
    items, pictures = [], []
    for number, key in enumerate(keys, start=1):
        for place, row in enumerate(rows, start=1):
            if key not in row.held:
                continue
            item = copy.deepcopy(pattern)
            content = item.FrameContentSequence[0]
            content.DimensionIndexValues = [number, place]
            content.StackID, content.InStackPositionNumber = "1", row.frame
            if "SegmentIdentificationSequence" in item:
                item.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
            image = item.DerivationImageSequence[0].SourceImageSequence[0]
            image.ReferencedFrameNumber = row.frame
            items.append(item)
            pictures.append(masks.decode(row.held[key]).ravel())
    made.PerFrameFunctionalGroupsSequence = items
    made.NumberOfFrames = len(items)
    packed = np.packbits(np.concatenate(pictures), bitorder="little").tobytes()
    made.PixelData = packed + b"\0" * (len(packed) % 2)
    made.SegmentsOverlap = "YES" if any(row.overlap for row in rows) else "NO"
    return made


def _made(
    plan: Plan,
    headers: list[Any],
    pixels: NDArray[Any],
    keys: list[Key],
    words: list[Any],
    **options: Any,
) -> Any:
    from highdicom.seg import Segmentation

    return Segmentation(
        source_images=[nameless(header) for header in headers],
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[
            _described(plan, number, key, words) for number, key in enumerate(keys, start=1)
        ],
        series_instance_uid=plan.uid("seg series", headers[0].SeriesInstanceUID),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=plan.uid("seg", *words),
        instance_number=plan.written + 1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number=__version__,
        content_label="MEDLOOP",
        content_description="Masks of classes",
        content_creator_name=f"{MAKER}^software",
        series_description="medloop segmentation",
        coding_schemes=schemes(),
        **options,
    )


def _described(plan: Plan, number: int, key: Key, words: list[Any]) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    class_id, source, made_in, layer = key
    name = plan.source.classes[class_id]
    algorithm = None
    if source == MODEL:
        algorithm = AlgorithmIdentificationSequence(
            name=plan.algorithm,
            family=codes.cid7162.ArtificialIntelligence,
            version=__version__,
            source=MAKER,
            parameters={
                "round": str(made_in),
                "model_sha256": plan.models.get(made_in, "unknown"),
            },
        )
    return SegmentDescription(
        segment_number=number,
        segment_label=text(name),
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=concept(name),
        algorithm_type="AUTOMATIC" if source == MODEL else "MANUAL",
        algorithm_identification=algorithm,
        tracking_uid=plan.uid("segment", *words, *key),
        tracking_id=f"round {made_in}, layer {layer}",
    )


def read_segments(
    path: Path, *, classes: tuple[str, ...]
) -> tuple[Any, dict[tuple[str, int], Labels]]:
    """Read a segmentation as labels of each source instance and frame.

    Raises
    ------
    DataError
        It says something that this package does not write.
    """
    from highdicom.seg import segread

    made = segread(path)
    number_of = {code_value(name): number for number, name in enumerate(classes)}
    keys: dict[int, Key] = {}
    for segment in made.SegmentSequence:
        code = str(segment.SegmentedPropertyTypeCodeSequence[0].CodeValue)
        told = re.fullmatch(r"round (\d+), layer (\d+)", str(segment.TrackingID))
        if code not in number_of or told is None:
            raise DataError(f"{path.name} has a segment of another kind.")
        source = HUMAN if segment.SegmentAlgorithmType == "MANUAL" else MODEL
        key = (number_of[code], source, int(told[1]), int(told[2]))
        keys[int(segment.SegmentNumber)] = key
    pixels = made.pixel_array.reshape(-1, int(made.Rows), int(made.Columns))
    shared = made.SharedFunctionalGroupsSequence[0]
    found: dict[tuple[str, int], dict[Key, Any]] = {}
    for picture, item in zip(pixels, made.PerFrameFunctionalGroupsSequence, strict=True):
        identified = item if "SegmentIdentificationSequence" in item else shared
        number = int(identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        derived = item if "DerivationImageSequence" in item else shared
        (image,) = derived.DerivationImageSequence[0].SourceImageSequence
        where = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 1))
        found.setdefault(where, {})[keys[number]] = masks.encode(picture)
    return made, {where: _labels(held) for where, held in found.items()}


def _labels(held: dict[Key, Any]) -> Labels:
    order = sorted(held)
    mask = np.empty(len(order), object)
    mask[:] = [held[key] for key in order]
    return Labels(
        image=np.zeros(len(order), np.int64),
        class_id=np.array([key[0] for key in order], np.int64),
        source=np.array([key[1] for key in order], np.str_),
        round=np.array([key[2] for key in order], np.int64),
        mask=mask,
    )


DICOM_SEG = dicom_seg()
