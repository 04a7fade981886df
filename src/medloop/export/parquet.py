"""Parquet: a row a label with all that is known; an image without one has a row without a label."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medloop.errors import MissingError
from medloop.export.blocks import Block, Source, to_json
from medloop.export.format import Blocks, Format
from medloop.read.findings import CORNERS
from medloop.read.parquet import parquet_parts


def write_parquet(source: Source, blocks: Callable[..., Blocks], path: Path) -> None:
    """Write a Parquet file.

    Raises
    ------
    MissingError
        The package pyarrow is not there.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingError(
            "Parquet needs pyarrow. Install it with: pip install 'medloop[formats]'"
        ) from None
    fields: dict[str, Any] = {
        **{name: pa.int64() for name in ("image", "height", "width")},
        **{name: pa.string() for name in ("file", "split", "patient", "label", "source")},
        **{name: pa.bool_() for name in ("looked_at", "accepted")},
        "score": pa.float64(),
        "round": pa.int64(),
    }
    if "box" in source.has:
        fields |= {name: pa.float64() for name in CORNERS}
    fields |= {
        name: pa.list_(pa.float64()) for name in ("keypoints", "probs") if name in source.has
    }
    if "mask" in source.has:
        fields["mask"] = pa.string()
    about: dict[str, Any] = {"classes": list(source.classes)}
    if source.skeleton is not None and "keypoints" in source.has:
        about["skeleton"] = to_json(source.skeleton)
    schema = pa.schema(fields, metadata={"medloop": json.dumps(about)})
    with parquet.ParquetWriter(path, schema) as table:
        for block in blocks():
            columns = _columns(source, block)
            arrays = [pa.array(columns[name], schema.field(name).type) for name in schema.names]
            table.write_batch(pa.record_batch(arrays, schema=schema))
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _columns(source: Source, block: Block) -> dict[str, list[Any]]:
    labels = block.labels
    m = len(labels)
    bare = block.bare()
    row = np.concatenate([block.row, bare])
    order = np.argsort(row, kind="stable")
    at = row[order].tolist()
    # one value more, for images without a label
    pick = np.where(order < m, order, m).tolist()

    def told(values: list[Any]) -> list[Any]:
        values = [*values, None]
        return [values[i] for i in pick]

    columns: dict[str, list[Any]] = {
        "image": block.id[at].tolist(),
        "height": block.size[at, 0].tolist(),
        "width": block.size[at, 1].tolist(),
        "file": [block.file[i] for i in at],
        "split": [block.split[i] for i in at],
        "patient": [block.patient[i] for i in at],
        "looked_at": (block.looked != "")[at].tolist(),
        "label": told([source.classes[k] for k in labels.class_id.tolist()]),
        "source": told(labels.source.tolist()),
        "accepted": told(block.accepted.tolist()),
        "score": told(labels.score.tolist()),
        "round": told(labels.round.tolist()),
    }
    none: list[Any] = [None] * m
    if "box" in source.has:
        box = labels.box
        given = [] if box is None else np.asarray(box.any(axis=1)).tolist()
        for k, name in enumerate(CORNERS):
            values = none if box is None else box[:, k].tolist()
            if box is not None:
                values = [v if g else None for v, g in zip(values, given, strict=True)]
            columns[name] = told(values)
    for name in ("keypoints", "probs"):
        if name in source.has:
            held = getattr(labels, name)
            rows = none if held is None else held.reshape(m, -1).tolist()
            columns[name] = told([values if values and any(values) else None for values in rows])
    if "mask" in source.has:
        stated = none if labels.mask is None else labels.mask
        columns["mask"] = told([None if mask is None else json.dumps(mask) for mask in stated])
    return columns


PARQUET = Format("parquet", write_parquet, parquet_parts)
