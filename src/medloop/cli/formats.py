"""``medloop import`` and ``medloop export``: labels of other tools in, and out to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medloop.cli.options import DONE_WITH_QUARANTINE, WS, Json


def import_(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Label file, or folder of a data set.")
    ],
    workspace: Annotated[Path, typer.Option(help="Folder of the workspace that is made.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images; found beside the labels by default.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            help="auto, coco, yolo, voc, label-studio, cvat, table (CSV or Excel), parquet, "
            "folder or hf."
        ),
    ] = "auto",
    partly: Annotated[
        bool, typer.Option("--partly", help="The images may hold more than their labels say.")
    ] = False,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Go on although the split leaks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a workspace of labels that another tool wrote, and say what it holds."""
    from medloop.cli.show import note, progress_bars, result
    from medloop.imports import import_labels

    with progress_bars() as progress:
        found = import_labels(
            path,
            workspace,
            images=images,
            format=format,
            partly=partly,
            allow_leak=allow_leak,
            progress=progress,
            note=note,
        )
    result(found.words(), found.to_json(), as_json=as_json)
    if found.quarantined:
        raise typer.Exit(DONE_WITH_QUARANTINE)


def export(
    workspace: WS,
    out: Annotated[Path, typer.Option(help="File or folder to write.")],
    format: Annotated[
        str,
        typer.Option(
            help="csv, parquet, coco, yolo, voc, folder, label-studio, hf, dicom-seg or dicom-sr."
        ),
    ] = "csv",
    deidentified: Annotated[
        bool,
        typer.Option("--deidentified", help="dicom-seg, dicom-sr: pseudonyms for patients."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the labels for another tool; they are read back before they are delivered."""
    from medloop.cli.show import note, result
    from medloop.errors import UsageError
    from medloop.export import DICOM_FORMATS, export_workspace

    if deidentified and format not in DICOM_FORMATS:
        raise UsageError(f"--deidentified is for {' and '.join(DICOM_FORMATS)}, got {format!r}.")
    if deidentified:
        from medloop.export.dicom_source import export_dicom

        done = export_dicom(workspace, out, format=format, deidentified=True)
    else:
        done = export_workspace(workspace, out, format=format)
    if done.lost:
        note(done.lost)
    result(f"{done.labels:,} labels in {out}.", done.to_json(), as_json=as_json)
