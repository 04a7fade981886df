"""A fitted detector in a folder: its weights as safetensors, all else as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medloop.errors import DataError, MissingError, UsageError
from medloop.store.files import write_atomic, write_json

if TYPE_CHECKING:
    import torch

_FORMAT = 1
_FILES = ("student.json", "weights.safetensors")


def save(student: Any, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``student.json``.

    Raises
    ------
    UsageError
        The student is not fitted.
    """
    from safetensors.torch import save as packed

    if student.state is None or student.plan is None:
        raise UsageError(f"student {student.name!r} is not fitted; there is nothing to save.")
    payload = packed(dict(student.state))
    settings = {f.name: getattr(student, f.name) for f in fields(student) if f.name != "state"}
    about = {
        "student": student.name,
        "format": _FORMAT,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "plan": asdict(settings.pop("plan")),
        **{name: settings.pop(name) for name in ("classes", "weights", "trained")},
        "settings": settings,
    }
    write_atomic(folder / "weights.safetensors", payload)
    write_json(folder / "student.json", about)


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

    for file in _FILES:
        if not (folder / file).is_file():
            raise MissingError(f"folder {folder.name!r} holds no student: {file} is missing.")
    try:
        about = json.loads((folder / "student.json").read_bytes())
        kind, version, digest = about["student"], about["format"], about["sha256"]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{folder.name}/student.json is not a student: {error!r}.") from error
    if (kind, version) != (name, _FORMAT):
        raise DataError(
            f"{folder.name}/student.json must be of student {name!r} format {_FORMAT},"
            f" got {kind!r} format {version!r}."
        )
    payload = (folder / "weights.safetensors").read_bytes()
    if hashlib.sha256(payload).hexdigest() != digest:
        raise DataError(
            f"{folder.name}/weights.safetensors does not have the hash that student.json"
            " names: it was cut short or changed."
        )
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
