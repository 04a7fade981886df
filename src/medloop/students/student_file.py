"""A student in a folder: what it learned as safetensors, all else as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medloop.errors import DataError
from medloop.store.files import write_atomic, write_json

Arrays = dict[str, NDArray[Any]]


def write_student(folder: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Write ``weights.safetensors`` and ``student.json``."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "weights.safetensors", save(arrays))
    write_json(folder / "student.json", about)


@contextmanager
def read_student(folder: Path) -> Iterator[tuple[dict[str, Any], Arrays]]:
    """Read what :func:`write_student` wrote; the block makes a student of it.

    Raises
    ------
    DataError
        A file is missing or broken, or the block finds that it lacks something.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        about = json.loads((folder / "student.json").read_text())
        yield about, load((folder / "weights.safetensors").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no readable student: {error}.") from None
