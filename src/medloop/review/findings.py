"""Findings as a page sends and shows them, and as rows of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medloop import masks
from medloop.errors import DataError, did_you_mean
from medloop.labels import HUMAN, Labels

#: More than a person draws on one image.
MOST = 1_000
PLACES = ("box", "keypoints", "mask")
_FARTHEST = 1e6


def plain_findings(labels: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Say the rows of one image as values that JSON can say.

    Returns
    -------
    list of dict
        ``class``, ``class_id``, ``score``, ``source``, ``round``; and, where the row has them,
        ``probs`` (by class name), ``box`` (x0, y0, x1, y1), ``keypoints`` (x, y, visibility) and
        ``mask`` (COCO run lengths). A box or points of zeros alone are none.

    Examples
    --------
    >>> plain_findings(Labels(image=[7], class_id=[1], score=[0.5]), ["no", "yes"])[0]["class"]
    'yes'
    """
    found = []
    for row in range(len(labels)):
        code = int(labels.class_id[row])
        one: dict[str, Any] = {
            "class": classes[code] if code < len(classes) else str(code),
            "class_id": code,
            "score": float(labels.score[row]),
            "source": str(labels.source[row]),
            "round": int(labels.round[row]),
        }
        if labels.probs is not None:
            one["probs"] = dict(zip(classes, labels.probs[row].tolist(), strict=False))
        if labels.box is not None and labels.box[row].any():
            one["box"] = labels.box[row].tolist()
        if labels.keypoints is not None and labels.keypoints[row].any():
            one["keypoints"] = labels.keypoints[row].tolist()
        if labels.mask is not None and labels.mask[row] is not None:
            one["mask"] = labels.mask[row]
        found.append(one)
    return found


def read_findings(
    findings: Sequence[Mapping[str, Any]],
    *,
    image: int,
    classes: Sequence[str],
    height: int = 0,
    width: int = 0,
    points: int | None = None,
    several: bool = False,
) -> Labels:
    """Read a person's complete answer for one image, and refuse what makes no sense.

    Parameters
    ----------
    findings : sequence of dict
        ``class`` or ``class_id``, and ``box``, ``keypoints`` and ``mask`` where it has them: one
        at least, where there are several findings; anything else is passed over. Empty: there is
        nothing here.
    image : int
    classes : sequence of str
    height, width : int
        Size of the image in pixels; 0 where unknown.
    points : int, optional
        How many keypoints an object has, where that is known.
    several : bool
        Whether an image may hold several classes without a place, each once.

    Raises
    ------
    DataError
        An unknown class, a box without area or beyond the image, keypoints or a mask that do not
        fit, or two findings without a place.

    Examples
    --------
    >>> read_findings([{"class": "yes", "box": [4, 4, 2, 9]}], image=7, classes=["no", "yes"])
    Traceback (most recent call last):
    ...
    medloop.errors.DataError: box must have x0 < x1 and y0 < y1, got [4.0, 4.0, 2.0, 9.0].
    """
    if isinstance(findings, (str, bytes, Mapping)) or not isinstance(findings, Sequence):
        raise DataError(f"findings must be a list of findings, got {type(findings).__name__}.")
    if len(findings) > MOST:
        raise DataError(f"an image may carry {MOST:,} findings, got {len(findings):,}.")
    for one in findings:
        if not isinstance(one, Mapping):
            raise DataError(f"a finding must be a dict, got {type(one).__name__}.")
    placed = [any(one.get(name) is not None for name in PLACES) for one in findings]
    if several and not any(placed):
        names = [_class(one, classes) for one in findings]
        twice = next((code for code in names if names.count(code) > 1), None)
        if twice is not None:
            raise DataError(f"an image holds a finding once, got {classes[twice]!r} twice.")
    elif len(findings) > 1 and not all(placed):
        raise DataError(
            f"each of {len(findings)} findings needs a box, keypoints or a mask; an image without "
            "them has one class."
        )
    columns: dict[str, Any] = {}
    for name, read in (
        ("box", lambda value: _box(value, height, width)),
        ("keypoints", lambda value: _keypoints(value, points)),
        ("mask", lambda value: _mask(value, height, width)),
    ):
        values = [None if one.get(name) is None else read(one[name]) for one in findings]
        there = [value for value in values if value is not None]
        if not there:
            continue
        if name == "mask":
            columns[name] = np.empty(len(findings), object)
            columns[name][:] = values
            continue
        if len({len(value) for value in there}) > 1:
            raise DataError("every finding must have as many keypoints as the others.")
        nothing = np.zeros_like(np.array(there[0], np.float64))
        columns[name] = [nothing if value is None else value for value in values]
    return Labels(
        image=np.full(len(findings), image, np.int64),
        class_id=np.array([_class(one, classes) for one in findings], np.int64),
        source=np.full(len(findings), HUMAN),
        looked_at=np.array([image], np.int64),
        **columns,
    )


def class_code(name: str, classes: Sequence[str]) -> int:
    """Return the position of a class.

    Raises
    ------
    DataError
        There is no such class.
    """
    if name not in classes:
        raise DataError(f"unknown class {name!r}.{did_you_mean(str(name), classes)}")
    return list(classes).index(name)


def _class(one: Mapping[str, Any], classes: Sequence[str]) -> int:
    name, code = one.get("class"), one.get("class_id")
    if isinstance(name, str):
        return class_code(name, classes)
    if name is None and isinstance(code, int) and not isinstance(code, bool):
        if 0 <= code < len(classes):
            return code
        raise DataError(f"class_id must lie in [0, {len(classes) - 1}], got {code}.")
    raise DataError(f"a finding must name its class, got {name!r}.")


def _numbers(name: str, value: Any, length: int) -> list[float]:
    fits = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not fits or len(value) != length:
        raise DataError(f"{name} must be {length} numbers, got {_shown(value)}.")
    found = []
    for number in value:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise DataError(f"{name} must be {length} numbers, got {_shown(value)}.")
        if not (math.isfinite(number) and abs(number) <= _FARTHEST):
            raise DataError(f"{name} must be finite, got {_shown(value)}.")
        found.append(float(number))
    return found


def _box(value: Any, height: int, width: int) -> list[float]:
    box = _numbers("box", value, 4)
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise DataError(f"box must have x0 < x1 and y0 < y1, got {box}.")
    if height and width and not (x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height):
        raise DataError(f"box must lie inside the image of {width} x {height} pixels, got {box}.")
    return box


def _keypoints(value: Any, points: int | None) -> list[list[float]]:
    fits = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not fits or not 0 < len(value) <= MOST or (points is not None and len(value) != points):
        expected = "points" if points is None else f"{points} points"
        raise DataError(f"keypoints must be {expected} of x, y, visibility, got {_shown(value)}.")
    found = [_numbers("a keypoint", point, 3) for point in value]
    for point in found:
        if point[2] not in (0, 1, 2):
            raise DataError(f"visibility of a keypoint must be 0, 1 or 2, got {point[2]:g}.")
    return found


def _mask(value: Any, height: int, width: int) -> masks.Mask:
    mask = masks.normal(value)
    if height and width and mask["size"] != [height, width]:
        raise DataError(
            f"mask must have the size of the image, {[height, width]}, got {mask['size']}."
        )
    return mask


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
