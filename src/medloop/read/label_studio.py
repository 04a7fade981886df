"""Label Studio: a JSON list of tasks.

``annotations`` are a person's, ``predictions`` a model's. Rectangles, key points (one region a
point, tied to a rectangle by ``parentID``), polygons and choices are read; brushes, ellipses and
turned rectangles are refused by name. Positions are shares of a hundred, and are taken to a
millionth of a pixel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from medloop import masks
from medloop.annotations import Annotations, Skeleton
from medloop.errors import DataError
from medloop.labels import HUMAN, MODEL
from medloop.read.gather import Gather
from medloop.read.json_items import items
from medloop.read.parts import Part, assemble, number, unscaled

_ROUND = re.compile(r"round[ _-]?(\d{1,9})$")


def read_label_studio(path: str | Path) -> Annotations:
    """Read tasks as Label Studio exports or takes them; classes are in order of their names.

    An image is named by the first text in ``data`` that is called image, img or file, or else by
    the first text at all, without what Label Studio puts before it on uploading. The names of
    key points are those that the first object uses, in their order.

    Raises
    ------
    UsageError
        The file cannot be opened.
    DataError
        It is no list of tasks.
    """
    return assemble(label_studio_parts(Path(path)), sort_classes=True)


def label_studio_parts(path: Path, *, trusted: bool = False) -> Iterator[Part]:
    """Read tasks some at a time."""
    gather = Gather(trusted=trusted)
    names: list[str] = []
    number_of = 0
    for key, piece in items(path):
        if key:
            raise DataError(f"{path} must be a list of tasks, got an object with {key[:40]!r}.")
        for task in piece:
            _task(gather, names, f"task {number_of}", task)
            number_of += 1
            if gather.full:
                yield gather.part()
    yield gather.part()


def _task(gather: Gather, names: list[str], where: str, task: Any) -> None:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        gather.refuse(where, "has no data")
        return
    stated = data.get("medloop")
    about: dict[str, Any] = stated if isinstance(stated, dict) else {}
    said = [
        (HUMAN, entry) for entry in _list(task.get("annotations")) if not entry.get("was_cancelled")
    ]
    said += [(MODEL, entry) for entry in _list(task.get("predictions"))]
    regions = [region for _, entry in said for region in _list(entry.get("result"))]
    size = next(filter(all, map(_size, regions)), (0, 0))
    if about:
        size = _size({"original_height": about.get("height"), "original_width": about.get("width")})
    taken = gather.image(
        image_name(data),
        size,
        where=where,
        split=about.get("split", ""),
        patient=about.get("patient", ""),
        looked=bool(said),
    )
    if not taken:
        return
    for at, (source, entry) in enumerate(said):
        _entry(gather, names, f"{where} result {at}", source, entry, size)


def image_name(data: dict[str, Any]) -> str | None:
    """Name the image of a task.

    Examples
    --------
    >>> image_name({"image": "/data/upload/3/0a1b2c3d-eye.png"})
    'eye.png'
    >>> image_name({"image": "/data/local-files/?d=scans/eye%201.png"})
    'scans/eye 1.png'
    """
    named = [data.get(key) for key in ("image", "img", "file")]
    stated = next((v for v in (*named, *data.values()) if isinstance(v, str) and v), None)
    if stated is None:
        return None
    if "local-files/?" in stated:
        return parse_qs(urlsplit(stated).query).get("d", [None])[0]
    if stated.startswith("/data/upload/"):
        name = unquote(stated.rsplit("/", 1)[-1])
        return re.sub(r"^[0-9a-f]{8}-", "", name)
    if re.match(r"[a-z][a-z0-9+]*://", stated):
        return unquote(urlsplit(stated).path).lstrip("/")
    return stated


def _entry(
    gather: Gather,
    names: list[str],
    where: str,
    source: str,
    entry: dict[str, Any],
    size: tuple[int, int],
) -> None:
    stated = _ROUND.search(str(entry.get("model_version") or ""))
    base: dict[str, Any] = {"source": source, "round": int(stated[1]) if stated else None}
    overall = entry.get("score") if source == MODEL else None
    regions = _list(entry.get("result"))
    points: dict[str, list[dict[str, Any]]] = {}
    parents = {region.get("id") for region in regions if region.get("type") == "rectanglelabels"}
    alone = []
    for region in regions:
        if region.get("type") == "keypointlabels":
            parent = region.get("parentID")
            if isinstance(parent, str) and parent in parents:
                points.setdefault(parent, []).append(region)
            else:
                alone.append(region)
    if alone:
        gather.refuse(where, f"has {len(alone)} key points that belong to no rectangle")
    for at, region in enumerate(regions):
        kind, value = region.get("type"), region.get("value")
        place = f"{where} region {at}"
        if kind == "keypointlabels":
            continue
        if not isinstance(value, dict) or not isinstance(kind, str) or kind not in _KINDS:
            gather.refuse(place, f"is of the kind {kind!r:.40}, which is not read")
            continue
        score = region.get("score", overall)
        columns = {**base, "score": None if score is None else number(score)}
        try:
            _shape(columns, kind, value, size)
            own = points.get(str(region.get("id")))
            if own:
                columns["keypoints"] = _points(gather, names, own, size)
        except DataError as error:
            gather.refuse(place, str(error).rstrip("."))
            continue
        labels = value.get(_KINDS[kind])
        for label in labels if isinstance(labels, list) else []:
            if isinstance(label, str):
                gather.finding(label, where=place, **columns)
        if not labels:
            gather.refuse(place, "has no label")


_KINDS = {
    "rectanglelabels": "rectanglelabels",
    "choices": "choices",
    "polygonlabels": "polygonlabels",
}


def _shape(
    columns: dict[str, Any], kind: str, value: dict[str, Any], size: tuple[int, int]
) -> None:
    if kind == "choices":
        return
    if not all(size):
        raise DataError("needs original_width and original_height.")
    sides = np.array([size[1], size[0]]) / 100
    if value.get("rotation"):
        raise DataError("is turned, which no box holds.")
    if kind == "rectanglelabels":
        x, y, width, height = (number(value.get(key)) for key in ("x", "y", "width", "height"))
        shares = np.array([x, y, x + width, y + height])
        if not np.isfinite(shares).all():
            raise DataError("has a box that is not finite.")
        columns["box"] = unscaled(shares, np.tile(sides, 2))
        return
    corners = value.get("points")
    flat = [p for p in corners if isinstance(p, list)] if isinstance(corners, list) else []
    shares = np.array([number(v) for p in flat for v in p])
    if not len(shares) or len(shares) % 2 or not np.isfinite(shares).all():
        raise DataError("has a polygon without finite points.")
    polygon = unscaled(shares.reshape(-1, 2), sides)
    columns["mask"] = masks.from_polygons([polygon.ravel()], *size)
    columns["box"] = masks.box(columns["mask"])


def _points(
    gather: Gather, names: list[str], regions: list[dict[str, Any]], size: tuple[int, int]
) -> np.ndarray[Any, Any]:
    found: dict[str, list[float]] = {}
    sides = np.array([size[1], size[0]]) / 100
    for region in regions:
        value = region.get("value")
        value = value if isinstance(value, dict) else {}
        labels = value.get("keypointlabels")
        name = labels[0] if isinstance(labels, list) and labels else None
        x, y = number(value.get("x")), number(value.get("y"))
        if not isinstance(name, str) or name in found or not np.isfinite([x, y]).all():
            raise DataError("has a key point without a name and a place of its own.")
        seen = region.get("meta", {}).get("visibility", 2) if isinstance(region, dict) else 2
        found[name] = [*unscaled(np.array([x, y]), sides).tolist(), number(seen)]
    if not names:
        names += list(found)
        gather.skeleton = Skeleton(points=tuple(names))
    if not set(found) <= set(names):
        raise DataError("has a key point that the first object does not have.")
    return np.array([found.get(name, [0.0, 0.0, 0.0]) for name in names])


def _size(region: dict[str, Any]) -> tuple[int, int]:
    sides = (region.get("original_height"), region.get("original_width"))
    if all(type(s) is int and 0 < s <= 1_000_000 for s in sides):
        return int(sides[0] or 0), int(sides[1] or 0)
    return 0, 0


def _list(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
