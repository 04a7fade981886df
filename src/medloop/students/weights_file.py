"""A fitted network in a folder: weights as safetensors, all else as JSON, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medloop.errors import DataError, MissingError
from medloop.store.files import write_atomic, write_json

if TYPE_CHECKING:
    import torch

_FORMAT = 1


def write_weights(
    folder: Path, name: str, about: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    """Write ``weights.safetensors`` and ``student.json``."""
    from safetensors.torch import save

    payload = save(dict(state))
    digest = hashlib.sha256(payload).hexdigest()
    write_atomic(folder / "weights.safetensors", payload)
    known = {"student": name, "format": _FORMAT, "sha256": digest}
    write_json(folder / "student.json", {**known, **about})


def read_weights(folder: Path, name: str) -> tuple[dict[str, Any], bytes]:
    """Read what :func:`write_weights` wrote: what is said of it, and the bytes of its weights.

    Raises
    ------
    MissingError
        A file is not there.
    DataError
        A file is cut short, changed, or of another kind.
    """
    for file in ("student.json", "weights.safetensors"):
        if not (folder / file).is_file():
            raise MissingError(f"folder {folder.name!r} holds no student: {file} is missing.")
    try:
        about: dict[str, Any] = json.loads((folder / "student.json").read_bytes())
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
    return about, payload
