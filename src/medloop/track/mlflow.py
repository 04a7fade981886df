"""Runs as MLflow keeps them."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medloop.errors import MissingError
from medloop.store.files import told
from medloop.track.tracker import Tracker, flat

#: MLflow refuses longer values.
_LONGEST = 500


class MLflow(Tracker):
    """One run of MLflow a run; on this machine unless ``MLFLOW_TRACKING_URI`` is set.

    Parameters
    ----------
    folder : Path
        ``mlflow.db``, which ``mlflow ui --backend-store-uri sqlite:///...`` shows, is made in it:
        MLflow no longer writes plain folders.
    project : str
        Name of the experiment.
    """

    def __init__(self, folder: Path, project: str) -> None:
        asked = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            tracking: Any = importlib.import_module("mlflow.tracking")
            if not asked:  # mlflow-skinny comes without what its database needs
                importlib.import_module("sqlalchemy")
                importlib.import_module("alembic")
        except ImportError:
            raise MissingError(
                "tracker 'mlflow' needs mlflow. Install it with: pip install mlflow (mlflow-skinny "
                "is enough where MLFLOW_TRACKING_URI names a server)"
            ) from None
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        more: dict[str, str] = {}
        if not asked:
            with told(folder):
                folder.mkdir(parents=True, exist_ok=True)
            asked = f"sqlite:///{folder.resolve()}/mlflow.db"
            more = {"artifact_location": folder.resolve().as_uri()}
        self._client = tracking.MlflowClient(tracking_uri=asked)
        known = self._client.get_experiment_by_name(project)
        self._experiment = (
            self._client.create_experiment(project, **more)
            if known is None
            else known.experiment_id
        )
        self._open: dict[str, str] = {}

    def start(self, run: str, settings: Mapping[str, Any]) -> None:
        """Begin a run."""
        made = self._client.create_run(self._experiment, run_name=run)
        self._open[run] = made.info.run_id
        for name, value in flat(settings).items():
            self._client.log_param(made.info.run_id, name, str(value)[:_LONGEST])

    def figures(self, run: str, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Log numbers."""
        for name, value in values.items():
            self._client.log_metric(self._open[run], name, float(value), step=step or 0)

    def artifact(self, run: str, kind: str, name: str, about: Mapping[str, Any]) -> None:
        """Log an artifact by its name and hash, as a tag."""
        said = json.dumps({"name": name, **about}, ensure_ascii=False)
        self._client.set_tag(self._open[run], kind, said[:5000])

    def end(self, run: str) -> None:
        """End a run."""
        held = self._open.pop(run, None)
        if held is not None:
            self._client.set_terminated(held)

    def close(self) -> None:
        """End all runs."""
        for run in list(self._open):
            self.end(run)
