"""The log that is always there: one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medloop.errors import DataError, UsageError
from medloop.store.files import told
from medloop.track.tracker import Tracker


class JsonLines(Tracker):
    """Append to a file; each line is on the disk before the call returns.

    Parameters
    ----------
    path : Path
        What a killed process left of its last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            _cut_last(self._file)

    def start(self, run: str, settings: Mapping[str, Any]) -> None:
        """Write what a run was made with."""
        self._write("start", run, {"settings": dict(settings)})

    def figures(self, run: str, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Write numbers; what is not finite becomes null."""
        kept = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        self._write("figures", run, {"values": kept} | ({} if step is None else {"step": step}))

    def artifact(self, run: str, kind: str, name: str, about: Mapping[str, Any]) -> None:
        """Write the name and hash of what a run used or made."""
        self._write(kind, run, {"name": name, **about})

    def end(self, run: str) -> None:
        """Write that a run is over."""
        self._write("end", run, {})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, what: str, run: str, more: Mapping[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"what": what, "run": run, "at": at, **more}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        with told(Path(self._file.name)):
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())


def _cut_last(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    at = size
    while at:
        begin = max(0, at - 65_536)
        file.seek(begin)
        found = file.read(at - begin).rfind(b"\n")
        if found >= 0:
            at = begin + found + 1
            break
        at = begin
    if at < size:
        file.truncate(at)
    file.seek(0, os.SEEK_END)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log back; a last line that was cut is left out.

    Raises
    ------
    UsageError
        There is no such file.
    DataError
        Another line is not JSON.
    """
    if not path.is_file():
        raise UsageError(f"no log at {path}.")
    *lines, _ = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path} line {number} is not JSON: {error}.") from None
    return found
