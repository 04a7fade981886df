"""What is certified of the labels of a workspace, or what to do for it."""

from __future__ import annotations

from typing import Any

from medloop.audit import machine_labels
from medloop.certify import audit_size
from medloop.report.words import certify_command, shortened
from medloop.store.workspace import Workspace


def certificate_state(workspace: Workspace, machine: int, *, drawn: bool = False) -> dict[str, Any]:
    """Say what is certified, or which command begins or closes an audit.

    Parameters
    ----------
    workspace : Workspace
    machine : int
        Labels by the machine, or images with one.
    drawn : bool
        Whether labels are boxes, points or several an image, which people look at in the browser
        and not in a table.

    Returns
    -------
    dict
        ``state``: ``"holds"``, ``"fails"``, ``"drawn"`` (an audit is open), ``"open"`` (none was
        drawn) or ``"needless"``; and what a page says of it.
    """
    held = workspace.load_json("certificate.json", None)
    if held:
        known = held.get("reviewer_bound", 0.0) > 0
        return {"state": "holds" if held["holds"] else "fails", **held, "reviewer_known": known}
    name = shortened(workspace.folder.resolve().name, 80)
    look = f"medloop review {name}"
    audits = workspace.log.events("audit", live=True)
    if audits:
        asked = audits[-1].payload
        command = f"medloop certify {name} --answers FILE"
        if drawn:
            command = look
        elif asked.get("method") == "anytime":
            command = f"medloop answers {name} FILE && medloop certify {name} --close"
        return {"state": "drawn", "size": asked["size"], "command": command, "drawn": drawn}
    if not machine:
        return {"state": "needless"}
    # the browser also asks about images in which the machine found nothing
    pool = len(machine_labels(workspace.log).looked_at) if drawn else machine
    return {
        "state": "open",
        "command": look if drawn else certify_command(name, machine),
        "least": audit_size(pool, error_rate=0.05, confidence=0.95),
    }
