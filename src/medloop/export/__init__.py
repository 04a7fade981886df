"""One file a format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medloop.errors import UsageError, did_you_mean
from medloop.store.workspace import Workspace

FORMATS = ("csv",)


def export_labels(path: Path, out: Path, *, format: str = "csv") -> int:
    """Write the current labels of a workspace to a file; return how many.

    Raises
    ------
    UsageError
        The format is unknown, or the workspace holds no labels yet.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}.{did_you_mean(format, FORMATS)}")
    from medloop.export.csv import write_csv

    write: Callable[[Workspace, Path], int] = write_csv
    with Workspace.open(path, read_only=True) as workspace:
        return write(workspace, out)


__all__ = ["FORMATS", "export_labels"]
