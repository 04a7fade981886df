"""Learn from labels, then propose them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from medloop.errors import DataError, UsageError, did_you_mean
from medloop.students.student import Student

STUDENTS = (
    "patches",
    "network",
    "measured",
    "detector",
    "pose",
    "transformer_detector",
    "ultralytics",
    "ultralytics_pose",
)
#: Which plugin takes the place of a student whose backbone is one of Ultralytics.
_PLUGINS = {"detector": "ultralytics", "pose": "ultralytics_pose"}
#: Fields of a student that hold what it learned, and are no settings.
_LEARNED = {
    "classes",
    "features",
    "line",
    "plan",
    "points",
    "representation",
    "several",
    "space",
    "state",
    "trained",
    "unlike",
    "weights",
}


def student_class(name: str) -> type[Any]:
    """Import the class of a student by its name.

    Raises
    ------
    UsageError
        There is none of that name.

    Examples
    --------
    >>> student_class("patches").name
    'patches'
    """
    if name == "patches":
        from medloop.students.patches import Patches

        return Patches
    if name == "network":
        from medloop.students.network import Network

        return Network
    if name == "detector":
        from medloop.students.detector import Detector

        return Detector
    if name == "pose":
        from medloop.students.pose import Pose

        return Pose
    if name == "measured":
        from medloop.students.measured import Measured

        return Measured
    if name == "localizer":
        from medloop.students.localizer import Localizer

        return Localizer
    if name == "transformer_detector":
        from medloop.students.transformer_detector import TransformerDetector

        return TransformerDetector
    if name == "ultralytics":
        from medloop.students.ultralytics_student import UltralyticsDetector

        return UltralyticsDetector
    if name == "ultralytics_pose":
        from medloop.students.ultralytics_student import UltralyticsPose

        return UltralyticsPose
    raise UsageError(f"unknown student {name!r}.{did_you_mean(name, STUDENTS)}")


def make_student(name: str, options: dict[str, Any]) -> Student:
    """Build a student with some of its settings changed.

    A detector or pose student with a backbone of Ultralytics, such as ``"yolov5n"``, is the plugin
    ``ultralytics`` or ``ultralytics_pose``.

    Raises
    ------
    UsageError
        The student, or one of its settings, is unknown.
    """
    if str(options.get("backbone", "")).startswith("yolo"):
        name = _PLUGINS.get(name, name)
    kind = student_class(name)
    known = {f.name for f in fields(kind)} - _LEARNED
    for option in options:
        if option not in known:
            raise UsageError(
                f"student {name!r} has no setting {option!r}.{did_you_mean(option, known)}"
            )
    student: Student = kind(**options)
    return student


def load_student(folder: Path) -> Student:
    """Load whatever student was saved in a folder.

    Raises
    ------
    DataError
        The folder holds none.
    """
    try:
        name = json.loads((folder / "student.json").read_text())["student"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no readable student: {error}.") from None
    student: Student = student_class(name).load(folder)
    return student


__all__ = ["STUDENTS", "Student", "load_student", "make_student", "student_class"]
