"""DICOM-SR: a report (TID 1500) an instance, with boxes, keypoints and classes of its images.

Each label is a measurement group: its class is the finding, its box a closed polyline, its score
and round are measurements, and whether a person or a device gave it and whether anything vouches
for it are evaluations. Keypoints are a group of their own under the same tracking UID: of each
point, the visibility is measured at its place. An image that was examined and holds nothing has a
group that says so. Corners and points are kept in single precision, as DICOM has them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop import __version__, masks
from medloop.errors import DataError
from medloop.export.blocks import Block, Source
from medloop.export.dicom_source import (
    MAKER,
    Plan,
    code_value,
    concept,
    finish,
    nameless,
    own,
    planned,
    schemes,
    uid_of,
    unchecked,
)
from medloop.export.format import Blocks, Format, only
from medloop.labels import HUMAN, MODEL, Labels
from medloop.read.image import shown

_SERIES_NUMBER = 902
#: Who a person is, is nobody's business here.
_SOMEBODY = "Person^Unnamed"

_SCORE = ("SCORE", "Confidence score")
_ROUND = ("ROUND", "Round of the loop")
_SOURCE = ("SOURCE", "Source of the label")
_ACCEPTED = ("ACCEPTED", "Label is vouched for")
_NOTHING = ("NOTHING", "Examined, nothing found")

#: File, frame, who looked, labels, and which of these are vouched for.
Row = tuple[str, int, str, Labels, NDArray[np.bool_]]


def dicom_sr(key: bytes | None = None) -> Format:
    """Return the format; with a key, patients and UIDs become pseudonyms under it."""
    return Format("dicom-sr", _unplanned, lambda path: iter(()), instead=partial(_planned, key))


def _planned(key: bytes | None, source: Source) -> Format:
    """Return the format for one workspace."""
    plan = Plan(source, lambda header, file: (str(header.SOPInstanceUID),), key)
    columns = {"box"} if {"box", "mask"} & source.has else set()
    columns |= {"keypoints"} & source.has
    return Format(
        "dicom-sr",
        partial(_write, plan),
        lambda path: plan.parts(path, partial(read_report, source=source)),
        holds=lambda source: frozenset(
            ("file", "patient", "looked", "label", "score", "source", "round", *columns)
        ),
        held=lambda source, block: _held(plan, block),
        also=lambda source: [
            *(["a mask without a box has the box around it"] if "mask" in source.has else []),
            *(["positions are kept in single precision"] if columns else []),
            "images that nobody examined are left out",
            *plan.left_out(),
        ],
    )


def _unplanned(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    raise DataError("a plan must be made before DICOM is written.")


def _held(plan: Plan, block: Block) -> Block:
    """Return what a report holds: images that were examined, positions in single precision."""
    block = planned(plan, block, [True] * len(block.labels))
    labels = block.labels
    box = np.zeros((len(labels), 4)) if labels.box is None else labels.box.copy()
    for row, mask in enumerate([] if labels.mask is None else labels.mask):
        if mask is not None and not box[row].any():
            box[row] = masks.box(mask)
    block = only(block, "keypoints")
    columns: dict[str, Any] = {"box": box.astype(np.float32).astype(np.float64)}
    if labels.keypoints is not None:
        columns["keypoints"] = labels.keypoints.astype(np.float32).astype(np.float64)
    block = replace(block, labels=block.labels.with_(**columns))
    known = [image in plan.reference for image in block.id.tolist()]
    return plan.keep(block, np.flatnonzero((block.looked != "") & np.array(known, bool)))


def _write(plan: Plan, source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    path.mkdir()
    for document, images in plan.documents(blocks()):
        rows = [
            (file, plan.reference[image].frame, looked, labels, accepted)
            for image, file, looked, labels, accepted in images
        ]
        plan.save(document, _report(plan, rows, document), path, "sr")
    os.sync()
    if not plan.written:
        raise DataError(
            f"none of the examined images in {source.workspace.folder} is a DICOM file that a "
            "report could refer to; choose another format."
        )


def _report(plan: Plan, rows: list[Row], document: int) -> Any:
    from highdicom.sr import ComprehensiveSR

    header = plan.header(rows[0][0])
    try:
        with unchecked():
            made = ComprehensiveSR(
                evidence=[nameless(header)],
                content=_content(plan, header, rows, document),
                series_instance_uid=plan.uid("sr series", header.StudyInstanceUID),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=plan.uid("sr", document),
                instance_number=plan.written + 1,
                manufacturer=MAKER,
                manufacturer_model_name=MAKER,
                software_versions=__version__,
                device_serial_number=__version__,
                series_description="medloop labels",
                is_complete=True,
                coding_schemes=schemes(),
            )
            finish(made, header, plan.when)
    except Exception as error:  # what a header may say has no end
        raise DataError(
            f"{shown(rows[0][0])} cannot be reported on in DICOM: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    return made


def _content(plan: Plan, header: Any, rows: list[Row], document: int) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    groups: list[Any] = []
    for file, frame, looked, labels, accepted in rows:
        frames = [frame] if "NumberOfFrames" in header else None
        if not len(labels):
            groups.append(_nothing(plan, header, frames, looked, (document, file)))
        for row in range(len(labels)):
            number = len(groups)
            uid = plan.uid("label", document, number)
            vouched = bool(accepted[row])
            groups.append(_label(plan, header, frames, labels, row, vouched, number, uid))
            if labels.keypoints is not None and labels.keypoints[row].any():
                groups.append(_points(plan, header, frames, labels, row, number, uid))
    by_person = any(
        looked == HUMAN or (labels.source == HUMAN).any() for _, _, looked, labels, _ in rows
    )
    person = sr.ObserverContext(
        codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name=_SOMEBODY)
    )
    device = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=uid_of(MAKER, __version__),
            name=plan.algorithm,
            manufacturer_name=MAKER,
            model_name=MAKER,
            serial_number=__version__,
        ),
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_person_context=person if by_person else None,
            observer_device_context=device,
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
    )


def _measured(name: Any, value: float, **options: Any) -> Any:
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    return Measurement(name=name, value=value, unit=codes.UCUM.NoUnits, **options)


def _given_by(source: str) -> Any:
    from highdicom.sr import QualitativeEvaluation
    from pydicom.sr.codedict import codes

    return QualitativeEvaluation(
        own(*_SOURCE), codes.DCM.Person if source == HUMAN else codes.DCM.Device
    )


def _nothing(
    plan: Plan, header: Any, frames: list[int] | None, looked: str, words: tuple[Any, ...]
) -> Any:
    from highdicom import sr

    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(plan.uid("nothing", *words), "nothing"),
        finding_type=own(*_NOTHING),
        qualitative_evaluations=[_given_by(looked)],
        source_images=[
            sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID, frames)
        ],
    )


def _label(
    plan: Plan,
    header: Any,
    frames: list[int] | None,
    labels: Labels,
    row: int,
    accepted: bool,
    number: int,
    uid: str,
) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    source, made_in = str(labels.source[row]), int(labels.round[row])
    said: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid, f"label {number}"),
        "finding_type": concept(plan.source.classes[labels.class_id[row]]),
        "measurements": [
            _measured(own(*_SCORE), float(labels.score[row])),
            _measured(own(*_ROUND), made_in),
        ],
        "qualitative_evaluations": [
            _given_by(source),
            sr.QualitativeEvaluation(own(*_ACCEPTED), codes.SCT.Yes if accepted else codes.SCT.No),
        ],
    }
    if source == MODEL:
        said["algorithm_id"] = sr.AlgorithmIdentification(
            name=plan.algorithm,
            version=__version__,
            parameters=[
                f"round={made_in}",
                f"model_sha256={plan.models.get(made_in, 'unknown')}",
            ],
        )
    if labels.box is None or not labels.box[row].any():
        source_image = sr.SourceImageForMeasurementGroup(
            header.SOPClassUID, header.SOPInstanceUID, frames
        )
        return sr.MeasurementsAndQualitativeEvaluations(**said, source_images=[source_image])
    x0, y0, x1, y1 = labels.box[row].tolist()
    region = sr.ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]),
        source_image=sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID, frames),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(**said, referenced_region=region)


def _points(
    plan: Plan,
    header: Any,
    frames: list[int] | None,
    labels: Labels,
    row: int,
    number: int,
    uid: str,
) -> Any:
    from highdicom import sr

    names = () if plan.source.skeleton is None else plan.source.skeleton.points
    points = np.empty((0, 3)) if labels.keypoints is None else labels.keypoints[row]
    measured = []
    for name, point in zip(names, points, strict=True):
        if not point.any():
            continue
        place = sr.CoordinatesForMeasurement(
            graphic_type="POINT",
            graphic_data=point[None, :2],
            source_image=sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID, frames),
        )
        measured.append(
            _measured(concept(name, "P"), int(point[2]), referenced_coordinates=[place])
        )
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid, f"keypoints of label {number}"),
        finding_type=concept(plan.source.classes[labels.class_id[row]]),
        measurements=measured,
    )


def read_report(path: Path, *, source: Source) -> tuple[Any, dict[tuple[str, int], Labels]]:
    """Read a report as labels of each source instance and frame.

    Raises
    ------
    DataError
        It says something that this package does not write.
    """
    import pydicom

    made = pydicom.dcmread(path)
    number_of = {code_value(name): number for number, name in enumerate(source.classes)}
    point_of: dict[str, int] = {}
    if source.skeleton is not None:
        point_of = {code_value(name, "P"): at for at, name in enumerate(source.skeleton.points)}
    labels: dict[int, tuple[tuple[str, int], dict[str, Any]]] = {}
    points: dict[int, NDArray[np.float64]] = {}
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    try:
        (holder,) = _below(made)[_MEASUREMENTS]
        for group in _below(holder)[_GROUP]:
            held = _below(group)
            told = re.fullmatch(
                r"(nothing)|(keypoints of )?label (\d+)", str(held[_TRACKING][0].TextValue)
            )
            if told is None:
                raise DataError(f"{path.name} has a group of another kind.")
            if told[1]:
                found.setdefault(_where(held[_IMAGE][0]), [])
            elif told[2]:
                points[int(told[3])] = _read_points(held, point_of, source.points)
            else:
                labels[int(told[3])] = _read_label(held, number_of)
    except (KeyError, AttributeError, IndexError) as error:
        raise DataError(f"{path.name} lacks {error}.") from None
    for number in sorted(labels):
        where, row = labels[number]
        row["keypoints"] = points.pop(number, np.zeros((source.points, 3)))
        found.setdefault(where, []).append(row)
    if points:
        raise DataError(f"{path.name} has keypoints of no label.")
    return made, {where: _labels(rows, source) for where, rows in found.items()}


#: Codes of DICOM for the items that are read back.
_MEASUREMENTS, _GROUP, _TRACKING, _FINDING = "126010", "125007", "112039", "121071"
_REGION, _IMAGE, _PERSON, _DEVICE = "111030", "121112", "121006", "121007"


def _below(item: Any) -> dict[str, list[Any]]:
    """Return the items of content below one, by the code of their name."""
    held: dict[str, list[Any]] = {}
    for child in item.get("ContentSequence") or []:
        name = child.get("ConceptNameCodeSequence")
        held.setdefault(str(name[0].get("CodeValue", "")) if name else "", []).append(child)
    return held


def _where(image: Any) -> tuple[str, int]:
    item = image.ReferencedSOPSequence[0]
    return str(item.ReferencedSOPInstanceUID), int(item.get("ReferencedFrameNumber") or 1)


def _number(item: Any) -> float:
    value = item.MeasuredValueSequence[0]
    return float(value.get("FloatingPointValue", value.NumericValue))


def _read_label(
    held: dict[str, list[Any]], number_of: dict[str, int]
) -> tuple[tuple[str, int], dict[str, Any]]:
    box = [0.0] * 4
    if _REGION in held:
        region = held[_REGION][0]
        corners = [float(value) for value in region.GraphicData]
        box = [*corners[:2], *corners[4:6]]
        where = _where(region.ContentSequence[0])
    else:
        where = _where(held[_IMAGE][0])
    given = str(held[_SOURCE[0]][0].ConceptCodeSequence[0].CodeValue)
    return where, {
        "class_id": number_of[str(held[_FINDING][0].ConceptCodeSequence[0].CodeValue)],
        "score": _number(held[_SCORE[0]][0]),
        "source": {_PERSON: HUMAN, _DEVICE: MODEL}[given],
        "round": int(_number(held[_ROUND[0]][0])),
        "box": box,
    }


def _read_points(
    held: dict[str, list[Any]], point_of: dict[str, int], count: int
) -> NDArray[np.float64]:
    found = np.zeros((count, 3))
    for code, at in point_of.items():
        for measured in held.get(code, ()):
            x, y = (float(value) for value in measured.ContentSequence[0].GraphicData)
            found[at] = x, y, _number(measured)
    return found


def _labels(rows: list[dict[str, Any]], source: Source) -> Labels:
    if not rows:
        return Labels.empty()
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    if not source.points:
        del columns["keypoints"]
    return Labels(image=np.zeros(len(rows), np.int64), **columns)


DICOM_SR = dicom_sr()
