"""One file a format."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from medloop.errors import UsageError, did_you_mean
from medloop.export.format import Exported, Format
from medloop.store.workspace import Workspace

#: Where each format stands; a module is imported when it is asked for.
FORMATS = {
    "csv": "medloop.export.csv:CSV",
    "parquet": "medloop.export.parquet:PARQUET",
    "coco": "medloop.export.coco:COCO",
    "yolo": "medloop.export.yolo:YOLO",
    "voc": "medloop.export.voc:VOC",
    "folder": "medloop.export.folder:FOLDER",
    "label-studio": "medloop.export.label_studio:LABEL_STUDIO",
    "hf": "medloop.export.hf:HF",
}

#: Formats that refer to DICOM instances; labels do not come back from them by an import.
DICOM_FORMATS = {
    "dicom-seg": "medloop.export.dicom_seg:DICOM_SEG",
    "dicom-sr": "medloop.export.dicom_sr:DICOM_SR",
}

#: Formats that cannot say of one image that it holds several classes, or none, without boxes.
ONE_CLASS = ("folder", "yolo", "voc")


def format_of(name: str) -> Format:
    """Return a format by its name.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    known = FORMATS | DICOM_FORMATS
    if name not in known:
        raise UsageError(f"unknown format {name!r}.{did_you_mean(name, known)}")
    module, _, attribute = known[name].partition(":")
    found: Format = getattr(import_module(module), attribute)
    return found


def export_workspace(path: Path, out: Path, *, format: str = "csv") -> Exported:
    """Write the current labels of a workspace, read them back, and compare.

    Raises
    ------
    UsageError
        The format is unknown, the workspace holds no labels yet, or ``out`` is a folder that is
        not empty.
    DataError
        The format cannot hold what is there, or did not give it back.
    """
    from medloop.export.blocks import Source
    from medloop.export.format import deliver

    chosen = format_of(format)
    with (
        Workspace.open(path, read_only=True) as workspace,
        workspace.log.database.snapshot(),
    ):
        if workspace.config.get("multi_label") and chosen.name in ONE_CLASS:
            raise UsageError(
                f"format {chosen.name} holds one class an image, and images of {path} may hold "
                "several: choose csv, parquet, coco, hf or label-studio."
            )
        return deliver(Source(workspace), chosen, out)


def export_labels(path: Path, out: Path, *, format: str = "csv") -> int:
    """Write the current labels of a workspace; return how many, see :func:`export_workspace`."""
    return export_workspace(path, out, format=format).labels


__all__ = [
    "DICOM_FORMATS",
    "FORMATS",
    "Exported",
    "export_labels",
    "export_workspace",
    "format_of",
]
