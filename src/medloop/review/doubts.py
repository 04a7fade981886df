"""Where a machine would place what a person placed, as a run left it in ``doubts.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medloop.errors import DataError, MedloopError
from medloop.labels import MODEL
from medloop.review.state import State
from medloop.store.files import read_json

FILE = "doubts.json"


def read_doubts(path: Path, state: State) -> dict[int, list[dict[str, Any]]]:
    """Read what the machine would place elsewhere, by image; nothing where there is no file.

    Parameters
    ----------
    path : Path
        A list of ``image``, ``class``, ``box``, ``points`` and ``score``.
    state : State
        Rows that do not fit its images, classes and points are passed over: they only point at
        images worth a look, and decide nothing.

    Returns
    -------
    dict of int to list of dict
        Findings as a page shows them.
    """
    try:
        rows = read_json(path) if path.exists() else []
    except MedloopError:
        return {}
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows if isinstance(rows, list) else []:
        image = row.get("image") if isinstance(row, dict) else None
        if type(image) is not int or image not in state.known:
            continue
        one = {
            "class": row.get("class"),
            "box": row.get("box"),
            "keypoints": row.get("points") or None,
        }
        try:
            state.read([one], image, beyond=True)
        except DataError:
            continue
        score = row.get("score")
        one |= {"source": MODEL, "score": score if isinstance(score, (int, float)) else None}
        held = {key: value for key, value in one.items() if value is not None}
        if "box" in held or "keypoints" in held:
            found.setdefault(image, []).append(held)
    return found
