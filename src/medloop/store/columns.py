"""How the columns of a table of labels become bytes, and come back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import DataError, TamperedError
from medloop.labels import Labels

#: Rows that stand in one blob: what is written, read for one image, and held in memory at once.
CHUNK = 10_000
JSON = "json"


@dataclass(frozen=True)
class Column:
    """One column on its way to the disk: little-endian, and as narrow as loses nothing."""

    name: str
    dtype: str
    values: NDArray[Any]

    @property
    def tail(self) -> str:
        """Shape of one row, as JSON."""
        return json.dumps(list(self.values.shape[1:]))

    def chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield the number of the first row, how many rows, and their bytes."""
        for first in range(0, len(self.values), CHUNK):
            part = self.values[first : first + CHUNK]
            yield first, len(part), _to_bytes(part, self.dtype)

    def digest(self) -> ColumnDigest:
        """Hash the bytes."""
        digest = ColumnDigest(self.name)
        for _, rows, data in self.chunks():
            digest.add(self.dtype, self.tail, rows, data)
        return digest


class ColumnDigest:
    """The hash of a column, fed chunk by chunk; where the cuts are makes no difference."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        self._kinds: set[tuple[str, str]] = set()
        self._hash = hashlib.sha256()

    def add(self, dtype: str, tail: str, rows: int, data: bytes) -> None:
        """Take the next rows."""
        self._kinds.add((dtype, tail))
        self.rows += rows
        self._hash.update(data)

    def words(self) -> list[Any]:
        """Say everything that the hash of the table covers."""
        return [self.name, self.rows, sorted(self._kinds), self._hash.hexdigest()]


def rows_digest(columns: Iterable[ColumnDigest]) -> str:
    """Hash a table: each column's name, length, type, shape and bytes, in the order of names."""
    words = sorted(column.words() for column in columns)
    return hashlib.sha256(json.dumps(words, separators=(",", ":")).encode()).hexdigest()


def to_columns(labels: Labels) -> list[Column]:
    """List the columns of a table, in the order of their names.

    ``looked_at`` is among them only where it differs from the images of the rows. Whole numbers
    shrink to 16 or 32 bits and floats to 32 where every value comes back the same.

    Raises
    ------
    DataError
        A source is not written in ASCII, or a mask cannot be written as JSON.
    """
    held = dict(labels.columns()) if len(labels) else {}
    if not np.array_equal(labels.looked_at, np.unique(labels.image)):
        held["looked_at"] = labels.looked_at
    return [Column(name, _narrowest(name, values), values) for name, values in sorted(held.items())]


def from_chunks(chunks: list[tuple[str, str, int, bytes]]) -> NDArray[Any]:
    """Put the chunks ``(dtype, tail, rows, data)`` of one column together again.

    Raises
    ------
    TamperedError
        The bytes do not have the stated type and shape.
    """
    try:
        parts = [_from_bytes(*chunk) for chunk in chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    except (ValueError, TypeError) as error:
        raise TamperedError(f"a column of the label log cannot be read: {error}.") from None


def _narrowest(name: str, values: NDArray[Any]) -> str:
    if values.dtype.kind == "O":
        return JSON
    if values.dtype.kind == "U":
        return f"|S{max(1, int(np.strings.str_len(values).max()))}"
    if values.dtype.kind == "i":
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        return next(d for d in ("<i2", "<i4", "<i8") if _holds(d, low, high))
    with np.errstate(over="ignore"):
        same = all(
            (part.astype("<f4") == part).all()
            for part in (values[i : i + CHUNK] for i in range(0, len(values), CHUNK))
        )
    return "<f4" if same else "<f8"


def _holds(dtype: str, low: int, high: int) -> bool:
    return bool(np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)


def _to_bytes(part: NDArray[Any], dtype: str) -> bytes:
    try:
        if dtype == JSON:
            lines = (json.dumps(_plain(mask), sort_keys=True) for mask in part)
            return "".join(f"{line}\n" for line in lines).encode()
        return part.astype(dtype).tobytes()
    except UnicodeEncodeError as error:
        raise DataError(f"source must be written in ASCII, got {str(error.object)!r}.") from None
    except TypeError as error:
        raise DataError(f"mask must be a COCO run-length mask: {error}.") from None


def _plain(mask: Any) -> Any:
    """Write compressed counts, which pycocotools gives as bytes, as the text that it also takes."""
    if isinstance(mask, dict) and isinstance(mask.get("counts"), bytes):
        return {**mask, "counts": mask["counts"].decode("ascii")}
    return mask


def _from_bytes(dtype: str, tail: str, rows: int, data: bytes) -> NDArray[Any]:
    if dtype != JSON:
        return np.frombuffer(data, dtype).reshape(rows, *json.loads(tail))
    masks = [json.loads(line) for line in data.splitlines()]
    if len(masks) != rows:
        raise ValueError(f"{len(masks)} masks where {rows} are stated")
    values = np.empty(rows, object)
    for i, mask in enumerate(masks):  # an assignment in one go would take lists for a matrix
        values[i] = mask
    return values
