"""Runs as Weights & Biases keeps them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medloop.errors import MissingError
from medloop.track.tracker import Tracker


class WeightsAndBiases(Tracker):
    """One run of Weights & Biases a run; on this machine unless ``WANDB_MODE`` says "online".

    Parameters
    ----------
    folder : Path
        ``wandb/`` is made in it.
    project : str
    """

    def __init__(self, folder: Path, project: str) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError:
            raise MissingError(
                "tracker 'wandb' needs wandb. Install it with: pip install wandb"
            ) from None
        self._wandb = wandb
        self.folder, self.project = folder, project
        # nothing leaves the machine unasked
        self.mode = os.environ.get("WANDB_MODE") or "offline"
        if self.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._open: dict[str, Any] = {}

    def start(self, run: str, settings: Mapping[str, Any]) -> None:
        """Begin a run."""
        self._open[run] = self._wandb.init(
            project=self.project,
            name=run,
            config=dict(settings),
            dir=str(self.folder),
            mode=self.mode,
            reinit="create_new",
        )

    def figures(self, run: str, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Log numbers."""
        self._open[run].log(dict(values), **({} if step is None else {"step": step}))

    def artifact(self, run: str, kind: str, name: str, about: Mapping[str, Any]) -> None:
        """Log an artifact by its name and hash; its files stay here."""
        made = self._wandb.Artifact(name=_plain(name), type=kind, metadata=dict(about))
        self._open[run].log_artifact(made)

    def end(self, run: str) -> None:
        """Finish a run."""
        held = self._open.pop(run, None)
        if held is not None:
            held.finish()

    def close(self) -> None:
        """Finish all runs."""
        for run in list(self._open):
            self.end(run)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)[:128]
