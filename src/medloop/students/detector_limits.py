"""Limits of the settings of a detector and of a pose student."""

from __future__ import annotations

import importlib.util
from typing import Any

from medloop.errors import MissingError, UsageError, did_you_mean
from medloop.students.devices import check_device

_INTS = {"size": 32, "epochs": 1, "batch": 2, "min_steps": 1, "most": 1, "closer": 1}
_INTS_OR_NONE = {"max_steps": 1, "threads": 1}
_NUMBERS = {
    "weight_decay": (0.0, 1.0),
    "warmup": (0.0, 0.9),
    "ema": (0.0, 0.9999),
    "augment": (0.0, 3.0),
    "least": (0.0, 1.0),
    "overlap": (0.0, 1.0),
    "temperature": (0.01, 100.0),
}
_SWITCHES = ("flip", "flip_average", "across_classes")
_PRETRAINED = ("auto", "never", "required")


def check_limits(student: Any) -> None:
    """Refuse a setting that is out of range.

    Raises
    ------
    UsageError
        The first one that is.
    """
    for name, low in (_INTS | _INTS_OR_NONE).items():
        value = getattr(student, name)
        if not (value is None and name in _INTS_OR_NONE):
            whole(student, name, low, " or None" * (name in _INTS_OR_NONE))
    for name, (least, most) in _NUMBERS.items():
        number(student, name, least, most)
    if student.size % 32:
        refuse(student, "size", "a multiple of 32")
    if student.lr != "auto" and not (_within(student.lr, 0.0, 10.0) and student.lr):
        refuse(student, "lr", "a number above 0 and at most 10, or 'auto'")
    if student.max_steps is not None and student.max_steps < student.min_steps:
        refuse(student, "max_steps", f"at least min_steps={student.min_steps}")
    for name in _SWITCHES:
        if not isinstance(getattr(student, name), bool):
            refuse(student, name, "True or False")
    if student.bfloat16 not in ("auto", True, False):
        refuse(student, "bfloat16", "True, False or 'auto'")
    check_device(student.device)
    if student.pretrained not in _PRETRAINED:
        said = str(student.pretrained)
        raise UsageError(f"unknown pretrained {said!r}.{did_you_mean(said, _PRETRAINED)}")


def whole(student: Any, name: str, low: int, more: str = "") -> None:
    """Refuse what is no int of at least ``low``."""
    value = getattr(student, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        refuse(student, name, f"an int of at least {low}{more}")


def number(student: Any, name: str, least: float, most: float) -> None:
    """Refuse what is no number within limits."""
    if not _within(getattr(student, name), least, most):
        refuse(student, name, f"a number from {least:g} to {most:g}")


def refuse(student: Any, name: str, want: str) -> None:
    """Say what a setting must be.

    Raises
    ------
    UsageError
        Always.
    """
    raise UsageError(f"{name} must be {want}, got {getattr(student, name)!r}.")


def need(student: str, *packages: str) -> None:
    """Refuse to work without a package.

    Raises
    ------
    MissingError
        One is not installed.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingError(
                f"student {student!r} needs {package}. Install it with:"
                " pip install 'medloop[models]'"
            )


def _within(value: object, least: float, most: float) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    )
