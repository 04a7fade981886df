"""The command ``medloop run endoscopy``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medloop.cli.options import Json
from medloop.cli.recipes import (
    AllowLeak,
    Classes,
    Config,
    Folder,
    Images,
    Mode,
    Rounds,
    Seed,
    Settings,
    absolute,
    run_recipe,
    shared,
)


def endoscopy(
    images: Images,
    workspace: Folder,
    sheet: Annotated[
        Path, typer.Option(help="Excel or CSV: path, organ, quality[, patient][, split], ...")
    ],
    target: Annotated[
        str | None, typer.Option(help="What is learned: organ or quality; organ by default.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Rows to use: COLUMN=VALUE|VALUE, COLUMN!=VALUE, ...")
    ] = None,
    crop_borders: Annotated[
        bool | None,
        typer.Option("--crop-borders/--no-crop-borders", help="Cut black borders off (default)."),
    ] = None,
    patient_column: Annotated[
        str | None, typer.Option(help="Column of the sheet that names the patient.")
    ] = None,
    tab: Annotated[str | None, typer.Option(help="Worksheet; the first by default.")] = None,
    classes: Classes = None,
    rounds: Rounds = None,
    seed: Seed = None,
    student: Annotated[
        str | None, typer.Option(help="patches, measured (quality) or network.")
    ] = None,
    mode: Mode = None,
    config: Config = None,
    settings: Settings = None,
    allow_leak: AllowLeak = False,
    as_json: Json = False,
) -> None:
    """Tell organs, and good frames from bad, from a sheet (EfficientNet-B0 in faithful mode)."""
    from medloop.cli.settings import resolve
    from medloop.recipes.endoscopy import Endoscopy

    given = {
        **shared(images, classes, rounds, seed, student, mode, allow_leak),
        "sheet": absolute(sheet),
        "target": target,
        "where": where,
        "crop": None if crop_borders is None else ("stretch" if crop_borders else "none"),
        "patient_column": patient_column,
        "tab": tab,
    }
    resolved = resolve(Endoscopy, given, settings or [], config)
    try:
        run_recipe(workspace, resolved, as_json=as_json)
    finally:
        _say_weights(workspace)


def _say_weights(workspace: Path) -> None:
    """Say aloud where a network began from nothing."""
    from medloop.cli.show import note

    for path in sorted(workspace.glob("rounds/*/student/student.json"))[-1:]:
        try:
            weights = str(json.loads(path.read_text(encoding="utf-8")).get("weights", ""))
        except (OSError, ValueError):
            return
        if weights.startswith("random"):
            note(f"The network began from random weights: {weights}. Pretrained ones would help.")
