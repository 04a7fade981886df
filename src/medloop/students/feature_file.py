"""Features on disk: computed once for all rounds, and gone on with where a run was cut."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medloop.dataset import Dataset
from medloop.progress import Progress, silent
from medloop.store.files import told, write_atomic, write_json

Floats = NDArray[np.float32]

#: Images between two notes of how far the file is filled.
_STRIDE = 4096


class Represents(Protocol):
    """Turns images into rows; what it learned or loaded is named by its arrays and settings."""

    @property
    def dimensions(self) -> int:
        """Length d of a row."""
        ...

    def transform(
        self, dataset: Dataset, *, into: Floats | None = None, progress: Progress = silent
    ) -> Floats:
        """Return (n, d) rows of the images, written to ``into`` where given."""
        ...

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Every learned array by name."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Every setting by name, as JSON has words for."""
        ...


@dataclass(frozen=True, eq=False)
class Features:
    """Rows of features by image id, in memory or in a file.

    Parameters
    ----------
    id : (n,) int, sorted
    rows : (n, d) float, or Path
        A file is mapped for each question and let go after it, so that what was read once does
        not stay in memory.
    """

    id: NDArray[np.int64]
    rows: Floats | Path

    def holds(self, images: NDArray[np.int64]) -> bool:
        """Tell whether every one of these images has a row."""
        return bool(np.isin(images, self.id).all())

    def of(self, images: ArrayLike) -> Floats:
        """Return the rows of these images, in their order."""
        at = np.searchsorted(self.id, np.asarray(images))
        rows = self.rows if isinstance(self.rows, np.ndarray) else _map(self.rows)
        return np.array(rows[at])


def compute_features(
    representation: Represents,
    dataset: Dataset,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Features:
    """Represent every image of a data set, in memory or in a file below ``folder``.

    The file's name holds a hash of the representation and of the images, so that no other run
    finds the wrong one, and an unfinished file is gone on with.
    """
    ordered = dataset[np.argsort(dataset.id, kind="stable")]
    if folder is None:
        return Features(ordered.id, representation.transform(ordered, progress=progress))
    folder.mkdir(parents=True, exist_ok=True)
    key = fingerprint(representation, ordered)
    path, note = folder / f"features-{key}.npy", folder / f"features-{key}.json"
    shape = (len(ordered), representation.dimensions)
    done = _noted(note) if _fits(path, shape) else 0
    if not done:
        _reserve(path, shape)
    while done < len(ordered):
        chunk = slice(done, min(done + _STRIDE, len(ordered)))
        rows = np.lib.format.open_memmap(path, mode="r+")
        report = _shifted(progress, done, len(ordered))
        representation.transform(ordered[chunk], into=rows[chunk], progress=report)
        rows.flush()
        done = chunk.stop
        write_json(note, {"done": done})
    return Features(ordered.id, path)


def _fits(path: Path, shape: tuple[int, int]) -> bool:
    """Tell whether a file holds so many rows; one that was spoilt is made anew."""
    try:
        return _map(path).shape == shape
    except (OSError, ValueError, EOFError):
        return False


def _reserve(path: Path, shape: tuple[int, int]) -> None:
    """Make the file with all of its room: a hole that no disk can fill would end the process."""
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    rows.flush()
    if hasattr(os, "posix_fallocate"):
        with told(path), path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _map(path: Path) -> Floats:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _shifted(progress: Progress, start: int, total: int) -> Progress:
    return lambda stage, done, _: progress(stage, start + done, total)


def _noted(note: Path) -> int:
    try:
        return int(json.loads(note.read_text())["done"])
    except (OSError, ValueError, KeyError):
        return 0


def fingerprint(representation: Represents, dataset: Dataset, *more: object) -> str:
    """Name what was learned and the images it is used on, for a file that no other run finds."""
    digest = hashlib.sha256()
    for _, part in sorted(representation.arrays().items()):
        digest.update(np.ascontiguousarray(part).tobytes())
    names = dataset.file if dataset.sha256 is None else dataset.sha256
    digest.update("\n".join(map(str, names)).encode())
    digest.update(json.dumps([representation.settings(), *map(str, more)]).encode())
    return digest.hexdigest()[:16]


def write_arrays(path: Path | None, arrays: dict[str, NDArray[Any]]) -> None:
    """Keep arrays in a file, if there is a place for it."""
    from safetensors.numpy import save

    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))


def read_arrays(path: Path | None) -> dict[str, NDArray[Any]] | None:
    """Read what ``write_arrays`` kept; None where nothing was, or where it was spoilt."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes()) if path is not None and path.exists() else None
    except SafetensorError:
        return None
