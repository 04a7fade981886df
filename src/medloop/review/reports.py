"""The report of a workspace, written anew when its labels or its certificate changed."""

from __future__ import annotations

from pathlib import Path

from medloop.store.workspace import Workspace

_REPORT, _METRICS, _LOG = "report.html", "metrics.json", "labels.db"


def renew_report(path: Path) -> bool:
    """Write ``metrics.json`` and ``report.html`` anew from the log.

    Parameters
    ----------
    path : Path
        Workspace; the caller keeps other processes from writing to it.

    Returns
    -------
    bool
        False where there is nothing to report: an imported workspace has no rounds, and one that
        was never finished no figures.

    Raises
    ------
    MedloopError
        A round cannot be read, or the files cannot be written.
    """
    from medloop.run import finish

    with Workspace.open(path, read_only=True) as workspace:
        rounds = workspace.log.events("round", live=True)
        imported = workspace.config.get("recipe") == "import"
        if imported or not rounds or not workspace.path(_METRICS).exists():
            return False
        finish(workspace, note=lambda sentence: None)
    return True


def is_stale(path: Path) -> bool:
    """Tell whether the log was written to after the report was."""
    try:
        return (path / _REPORT).stat().st_mtime_ns < (path / _LOG).stat().st_mtime_ns
    except OSError:
        return True
