"""The report of a workspace, written anew when its labels or its certificate changed."""

from __future__ import annotations

from pathlib import Path

from medloop.recipes import IMPORT
from medloop.store.workspace import Workspace

_REPORT, _METRICS, _LOG = "report.html", "metrics.json", "labels.db"


def renew_report(path: Path) -> bool:
    """Write ``report.html``, and ``metrics.json`` of a run, anew from the log.

    Parameters
    ----------
    path : Path
        Workspace; the caller keeps other processes from writing to it.

    Returns
    -------
    bool
        False where there is nothing to report: a run that was never finished has no figures.

    Raises
    ------
    MedloopError
        A round cannot be read, or the files cannot be written.
    """
    from medloop.run import report

    with Workspace.open(path, read_only=True) as workspace:
        rounds = workspace.log.events("round", live=True)
        imported = workspace.config.get("recipe") == IMPORT
        if not imported and not (rounds and workspace.path(_METRICS).exists()):
            return False
        report(workspace, note=lambda sentence: None)
    return True


def is_stale(path: Path) -> bool:
    """Tell whether the log was written to after the report was."""
    try:
        return (path / _REPORT).stat().st_mtime_ns < (path / _LOG).stat().st_mtime_ns
    except OSError:
        return True
