"""The experiment log: JSON lines always, and other trackers where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medloop.errors import UsageError, did_you_mean
from medloop.track.jsonl import JsonLines, read_log
from medloop.track.tracker import Many, Tracker

TRACKERS = ("jsonl", "tensorboard", "wandb", "mlflow")


def open_trackers(folder: Path, names: Sequence[str] = (), *, project: str = "medloop") -> Tracker:
    """Open the log ``experiments.jsonl`` in a folder, and any other tracker beside it.

    Parameters
    ----------
    folder : Path
        Where they write: ``tensorboard/``, ``wandb/`` and ``mlflow/`` below it.
    names : sequence of {"tensorboard", "wandb", "mlflow"}
        Weights & Biases keeps runs on this machine unless ``WANDB_MODE=online`` is set, MLflow
        unless ``MLFLOW_TRACKING_URI`` is.
    project : str
        What they call the whole.

    Raises
    ------
    UsageError
        There is no tracker of that name.
    MissingError
        Its package is not installed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open_trackers(Path(folder)) as log:
    ...         log.start("a run", {"lr": 0.1})
    ...         log.figures("a run", {"accuracy": 0.9})
    ...     [line["what"] for line in read_log(Path(folder) / "experiments.jsonl")]
    ['start', 'figures']
    """
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"unknown tracker {name!r}.{did_you_mean(name, TRACKERS)}")
    opened: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            from medloop.track.tensorboard import TensorBoard

            opened.append(TensorBoard(folder / "tensorboard"))
        elif name == "wandb":
            from medloop.track.wandb import WeightsAndBiases

            opened.append(WeightsAndBiases(folder, project))
        elif name == "mlflow":
            from medloop.track.mlflow import MLflow

            opened.append(MLflow(folder / "mlflow", project))
    return Many([JsonLines(folder / "experiments.jsonl"), *opened])


__all__ = ["TRACKERS", "JsonLines", "Many", "Tracker", "open_trackers", "read_log"]
