"""How a run can be made again: its settings, versions and hashes."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from medloop import __version__
from medloop.report.words import shortened
from medloop.store.workspace import Workspace


def settings(config: dict[str, Any], student: dict[str, Any]) -> list[tuple[str, str]]:
    """List every setting of a run and of its student, paths by their last part."""
    own = student.get("settings", student)
    told = {name: own[name] for name in sorted(own) if name not in ("classes", "student", "format")}
    # the last part says which; the folders above may name people, and machines
    short = {name: Path(config[name]).name for name in ("images", "labels") if config.get(name)}
    rows = _flat({**config, **short}) + (_flat({"student": told}) if told else [])
    return [(name, shortened(value, 300)) for name, value in rows]


def _flat(values: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{above}{name}.")
        else:
            said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.append((f"{above}{name}", said))
    return rows


def provenance(workspace: Workspace, number: int | None = None) -> list[tuple[str, str]]:
    """List versions and hashes that tell where the labels of a round, or of an import, are from."""
    log = workspace.log
    # that a run is finished is noted after its report; the labels are those of the event before
    last = [event for event in log.events() if event.kind != "finished"][-1]
    made = [event for event in log.events("round", live=True) if event.round == number]
    weights = made[-1].payload["student_sha256"] if made else "unknown"
    return [
        ("medloop", __version__),
        ("Python", platform.python_version()),
        ("NumPy", np.__version__),
        ("Matplotlib", matplotlib.__version__),
        ("Last change of the labels (UTC)", last.at[:19].replace("T", " ")),
        ("Events in the log until then", f"{last.seq:,}"),
        ("Hash of the last event", last.hash),
        *([] if number is None else [("Hash of the model's weights", weights)]),
    ]
