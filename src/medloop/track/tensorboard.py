"""Figures and settings as TensorBoard reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medloop.errors import MissingError
from medloop.track.tracker import Tracker, flat


class TensorBoard(Tracker):
    """Write event files, one folder a run.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingError(
                "tracker 'tensorboard' needs torch and tensorboard. Install them with: "
                "pip install torch tensorboard"
            ) from None
        self.folder = folder
        self._make = SummaryWriter
        self._open: dict[str, Any] = {}

    def start(self, run: str, settings: Mapping[str, Any]) -> None:
        """Write the settings as text."""
        rows = [f"|{name}|{value}|" for name, value in flat(settings).items()]
        text = "\n".join(["|setting|value|", "|---|---|", *rows])
        self._writer(run).add_text("settings", text)

    def figures(self, run: str, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Write numbers."""
        for name, value in values.items():
            self._writer(run).add_scalar(name, value, step or 0)

    def artifact(self, run: str, kind: str, name: str, about: Mapping[str, Any]) -> None:
        """Write the name and hash as text."""
        said = json.dumps({"name": name, **about}, indent=1, ensure_ascii=False)
        self._writer(run).add_text(kind, f"    {said}".replace("\n", "\n    "))

    def end(self, run: str) -> None:
        """Close the files of a run."""
        writer = self._open.pop(run, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Close all files."""
        for run in list(self._open):
            self.end(run)

    def _writer(self, run: str) -> Any:
        if run not in self._open:
            name = re.sub(r"[^\w./-]", "_", run).replace("..", "_").strip("/") or "run"
            self._open[run] = self._make(str(self.folder / name))
        return self._open[run]
