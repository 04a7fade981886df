"""A fitted detector in a folder: its weights as safetensors, all else as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medloop.errors import DataError, UsageError
from medloop.students.weights_file import read_weights, write_weights

if TYPE_CHECKING:
    import torch


def save(student: Any, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``student.json``.

    Raises
    ------
    UsageError
        The student is not fitted.
    """
    if student.state is None or student.plan is None:
        raise UsageError(f"student {student.name!r} is not fitted; there is nothing to save.")
    settings = {f.name: getattr(student, f.name) for f in fields(student) if f.name != "state"}
    about = {
        "plan": asdict(settings.pop("plan")),
        **{name: settings.pop(name) for name in ("classes", "weights", "trained")},
        "settings": settings,
    }
    write_weights(folder, student.name, about, student.state)


def load(name: str, folder: Path) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """Read what :func:`save` wrote: the fields of the student, and its weights.

    Raises
    ------
    MissingError
        A file is not there.
    DataError
        A file is cut short, changed, or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as unpacked

    from medloop.students.backbones import Plan

    about, payload = read_weights(folder, name)
    try:
        held = {
            **about["settings"],
            "classes": tuple(about["classes"]),
            "weights": about["weights"],
            "trained": about["trained"],
            "plan": Plan(**about["plan"]),
        }
        return held, unpacked(payload)
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"{folder.name} holds no whole student: {error}.") from error
