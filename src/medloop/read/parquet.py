"""Parquet as medloop writes it: a row a finding, and all that is known about it.

``file`` and ``label`` must be there; ``score``, ``source``, ``round``, ``x0`` to ``y1``,
``keypoints`` and ``probs`` (lists of numbers), ``mask`` (JSON), ``height``, ``width``, ``split``,
``patient`` and ``looked_at`` may be. The classes in their order and the skeleton stand in the
file's metadata under ``medloop``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop import masks
from medloop.annotations import Annotations
from medloop.dataset import SPLITS
from medloop.errors import DataError, MissingError
from medloop.export.blocks import skeleton_of
from medloop.read.findings import CORNERS
from medloop.read.parts import Found, Part, Refused, assemble, clean_names

#: Rows that are read at once.
BATCH = 5_000


def read_parquet(path: str | Path) -> Annotations:
    """Read a table of findings from Parquet.

    Raises
    ------
    DataError
        It is no Parquet file, or has no ``file`` or ``label``.
    MissingError
        The package pyarrow is not there.
    """
    return assemble(parquet_parts(Path(path)))


def parquet_parts(path: Path) -> Iterator[Part]:
    """Read a Parquet file some rows at a time; rows of an image must stand together."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingError(
            "Parquet needs pyarrow. Install it with: pip install 'medloop[formats]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as table:
            names = set(table.schema_arrow.names)
            for name in ("file", "label"):
                if name not in names:
                    raise DataError(f"{path} has no column {name!r}.")
            reader = _Parquet(_about(path, table.schema_arrow.metadata))
            for batch in table.iter_batches(batch_size=BATCH):
                yield reader.part(batch.to_pydict(), batch.num_rows)
            if not reader.listed:
                yield Part(classes=tuple(reader.code), skeleton=reader.skeleton)
    except (pyarrow.ArrowException, OSError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path} is no Parquet file that can be read: {said:.100}.") from None


def _about(path: Path, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    stated = (metadata or {}).get(b"medloop")
    try:
        about = json.loads(stated) if stated else {}
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise DataError(f"{path} has metadata of medloop that is no JSON object.")
    return about


class _Parquet:
    def __init__(self, about: dict[str, Any]) -> None:
        classes = about.get("classes") or []
        self.code: dict[str, int] = {str(name): k for k, name in enumerate(classes)}
        self.skeleton = skeleton_of(about["skeleton"]) if about.get("skeleton") else None
        self.listed = self.row = 0
        self.last: str | None = None
        self.known: set[int] = set()

    def part(self, columns: dict[str, list[Any]], m: int) -> Part:
        """Take the next rows."""
        refused: Refused = []
        names = clean_names(columns["file"])
        first = self.row
        self.row += m
        rows, new, position = [], [], []
        for at, name in enumerate(names):
            if name is None:
                refused.append((f"row {first + at}", "names no file in its folder"))
                continue
            if name != self.last:
                if hash(name) in self.known:
                    refused.append((f"row {first + at}", "repeats a file that came before"))
                    continue
                self.known.add(hash(name))
                self.listed += 1
                self.last = name
                new.append(at)
            rows.append(at)
            position.append(self.listed - 1)

        def column(name: str, none: Any = None) -> list[Any]:
            return columns.get(name) or [none] * m

        for name in columns["label"]:
            if isinstance(name, str) and name:
                self.code.setdefault(name, len(self.code))
        pairs = [(at, p) for at, p in zip(rows, position, strict=True) if columns["label"][at]]
        kept = [at for at, _ in pairs]
        found = self._found(columns, kept, [p for _, p in pairs], first)
        labels, more = found.checked()
        looked = column("looked_at", True)
        size = _numbers([column("height"), column("width")], new)
        split = column("split", "")
        patient = column("patient", "")
        return Part(
            file=[str(names[at]) for at in new],
            size=np.where((size > 0) & (size <= 1_000_000), size, 0).astype(np.int64),
            split=[split[at] if split[at] in SPLITS else "" for at in new],
            patient=[str(patient[at] or "") for at in new],
            looked=np.array([looked[at] is not False for at in new], bool),
            labels=labels,
            classes=tuple(self.code),
            skeleton=self.skeleton,
            refused=[*refused, *more],
        )

    def _found(
        self, columns: dict[str, list[Any]], kept: list[int], position: list[int], first: int
    ) -> Found:
        wrong: dict[int, str] = {}

        def taken(name: str) -> list[Any] | None:
            held = columns.get(name)
            return None if held is None else [held[at] for at in kept]

        def lists(name: str, width: int) -> NDArray[np.float64] | None:
            held = taken(name)
            if held is None or not any(held) or not width:
                return None
            out = np.zeros((len(kept), width))
            for row, values in enumerate(held):
                if values is not None and len(values) != width:
                    wrong[row] = f"has {len(values)} {name}, expected {width}"
                elif values is not None:
                    out[row] = values
            return out

        size = _numbers([columns.get("height", []), columns.get("width", [])], kept)
        stated = taken("mask")
        mask: list[Any] | None = None
        if stated is not None and any(stated):
            mask = [None] * len(kept)
            for row, cell in enumerate(stated):
                try:
                    mask[row] = masks.normal(json.loads(cell)) if cell else None
                except (ValueError, TypeError, RecursionError) as error:
                    wrong[row] = f"has a mask that is none: {error}"
        points = lists("keypoints", 3 * len(self.skeleton.points) if self.skeleton else 0)
        corners = [columns.get(name) for name in CORNERS]
        four = [held for held in corners if held is not None]
        score, rounds = taken("score"), taken("round")
        return Found(
            where=lambda row: f"row {first + kept[row]}",
            image=np.array(position, np.int64),
            size=np.where((size > 0) & (size <= 1_000_000), size, 0).astype(np.int64),
            class_id=np.array([self.code.get(columns["label"][at], -1) for at in kept], np.int64),
            score=None if score is None else _column(score),
            source=taken("source"),
            round=None if rounds is None else _column(rounds),
            box=_numbers(four, kept) if len(four) == 4 else None,
            keypoints=None if points is None else points.reshape(len(kept), -1, 3),
            probs=lists("probs", len(self.code)),
            mask=mask,
            wrong=wrong,
        )


def _column(values: list[Any]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _numbers(columns: list[list[Any]], rows: list[int]) -> NDArray[np.float64]:
    out = np.full((len(rows), len(columns)), np.nan)
    for at, column in enumerate(columns):
        if column:
            out[:, at] = _column([column[row] for row in rows])
    return out
