"""Limits of the settings of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medloop.errors import UsageError, did_you_mean
from medloop.students.devices import check_device

if TYPE_CHECKING:
    from medloop.students.network import Network

_INTS = {"size": 16, "epochs": 1, "batch": 2, "min_steps": 1}
_INTS_OR_NONE = {"max_steps": 1, "threads": 1}
_NUMBERS = {
    "weight_decay": (0.0, 1.0),
    "warmup": (0.0, 0.9),
    "label_smoothing": (0.0, 0.9),
    "tau": (0.0, 10.0),
    "augment": (0.0, 3.0),
    "erase": (0.0, 1.0),
    "mixup": (0.0, 10.0),
    "ema": (0.0, 0.9999),
    "temperature": (0.01, 100.0),
}
_WORDS = {"pretrained": ("auto", "never", "required"), "sampling": ("natural", "balanced")}
_SWITCHES = ("flip", "flip_average", "warm_start", "several")


def check_limits(student: Network) -> None:
    """Refuse a setting that is out of range.

    Raises
    ------
    UsageError
        The first one that is.
    """

    def refuse(name: str, want: str) -> None:
        raise UsageError(f"{name} must be {want}, got {getattr(student, name)!r}.")

    for name, low in (_INTS | _INTS_OR_NONE).items():
        value = getattr(student, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= low
        if not whole and not (value is None and name in _INTS_OR_NONE):
            refuse(name, f"an int of at least {low}" + " or None" * (name in _INTS_OR_NONE))
    for name, (least, most) in _NUMBERS.items():
        if not _number(getattr(student, name), least, most):
            refuse(name, f"a number from {least:g} to {most:g}")
    if student.lr != "auto" and not (_number(student.lr, 0.0, 10.0) and student.lr):
        refuse("lr", "a number above 0 and at most 10, or 'auto'")
    if student.max_steps is not None and student.max_steps < student.min_steps:
        refuse("max_steps", f"at least min_steps={student.min_steps}")
    for name in _SWITCHES:
        if not isinstance(getattr(student, name), bool):
            refuse(name, "True or False")
    if student.bfloat16 not in ("auto", True, False):
        refuse("bfloat16", "True, False or 'auto'")
    check_device(student.device)
    for name, words in _WORDS.items():
        value = getattr(student, name)
        if value not in words:
            raise UsageError(f"unknown {name} {value!r}.{did_you_mean(str(value), words)}")


def _number(value: object, least: float, most: float) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
    )
