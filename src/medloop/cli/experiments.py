"""The verb ``experiments``: a declared grid of runs, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medloop.cli.options import Json


def experiments(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="YAML of experiments.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; a cut call goes on. Beside GRID by default."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only experiments of this name.")] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Also log to tensorboard, wandb (offline) or mlflow."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a declared grid of experiments, and print its table with intervals."""
    from medloop.cli.show import note, progress_bars, result
    from medloop.experiment_report import markdown
    from medloop.experiments import run_grid

    folder = grid.with_suffix("") if out is None else out
    with progress_bars() as progress:
        tables = run_grid(
            grid, folder, only=only or (), track=track or (), progress=progress, note=note
        )
    note(f"Figures and curves: {folder / 'experiments.html'}")
    result(markdown(tables), tables, as_json=as_json)
