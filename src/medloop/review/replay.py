"""An audit rebuilt from nothing but the log: what was frozen, the seed, and the answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medloop.audit import certified, with_leak
from medloop.errors import DataError, MedloopError, TamperedError, UsageError
from medloop.labels import PARTLY, Labels
from medloop.read.parts import stack
from medloop.review.audit_session import METHOD, AuditSession, Place, Terms
from medloop.review.findings import read_findings
from medloop.store.event import Event
from medloop.store.log import LabelLog
from medloop.store.workspace import Workspace

#: Kinds of the events in which people answer one by one.
KINDS = ("answers", "review", "repeat", "undo", "redo")


def certified_anytime(
    audit: AuditSession, classes: Sequence[str], leak: dict[str, Any] | None
) -> tuple[Labels, dict[str, Any]]:
    """Turn an audit that may be stopped at any time into a certificate.

    Returns
    -------
    accepted : Labels
        The machine labels that the certificate vouches for.
    said : dict
        What ``certificate.json`` holds; ``classes`` says it of each class, all together with the
        stated confidence, relative to the reviewer.
    """
    made, repeats = audit.certificate(), audit.repeated()
    terms = audit.terms
    said = {
        **made.to_json(),
        "round": terms.round,
        "method": METHOD,
        "checks": audit.certainty().checks,
        "answered": audit.answered,
        "changed": audit.changed,
        "blind": terms.blind,
        "loss": terms.loss,
        "tolerance": terms.tolerance,
        "repeats": len(repeats),
        "disagreements": int(repeats.sum()),
        "classes": {classes[code]: said for code, said in audit.by_class().items()},
    }
    return audit.pool.of(audit.pool.looked_at[made.accepted]), with_leak(said, leak)


def partly_named(log: LabelLog, audit: int, pool: Labels) -> Labels:
    """Return what persons had named of a frozen pool's images without deciding them.

    These rows stand beside the machine's: what an audit asks about is both together.

    Parameters
    ----------
    log : LabelLog
    audit : int
        Number of the event that froze the pool.
    pool : Labels
    """
    parts = []
    for event in log.events():
        if event.looked_by == PARTLY and event.seq < audit:
            rows = log.labels(event.seq).of(pool.looked_at)
            if len(rows):
                parts.append(rows.with_(probs=None))
    return stack(parts)


def replay(
    log: LabelLog, audit: Event, *, classes: tuple[str, ...], until: int | None = None
) -> AuditSession:
    """Rebuild an audit from its frozen labels, its seed and the rows of its answers.

    What the events themselves say about right and wrong is compared and not used.

    Parameters
    ----------
    log : LabelLog
    audit : Event
        The event that froze the labels.
    classes : tuple of str
    until : int, optional
        Leave out this event and all after it.

    Raises
    ------
    DataError
        An answer is for another image than the order has at its place, or what an event says of
        it does not follow from its rows.
    """
    pool = log.labels(audit.seq)
    beside = partly_named(log, audit.seq, pool)
    session = AuditSession(audit.seq, Terms.of(audit.payload), pool, beside)
    if len(session) != session.terms.size:
        raise DataError(f"event {audit.seq} froze {len(session)} images, not {session.terms.size}.")
    asked: dict[str, dict[str, Any]] = {}
    for event in log.events():
        said = event.payload
        before = until is None or event.seq < until
        if event.seq <= audit.seq or not before or event.kind not in KINDS or "op" not in said:
            continue
        asked[said["op"]] = said
        about = asked.get(said["of"], {}) if event.kind in ("undo", "redo") else said
        if about.get("audit") != audit.seq:
            continue
        place: Place = (int(about["place"]), int(about["look"]))
        image = session.image(place[0])
        if image != about["image"]:
            raise DataError(f"event {event.seq} answers another image than place {place[0]} holds.")
        if event.kind == "undo":
            session.take_back(place)
            continue
        if place[1]:
            found = read_findings(about["findings"], image=image, classes=classes, several=True)
        else:
            found = log.labels(event.seq).of([image])
        session.give(place, event.seq, event.actor, found)
        if place[1] == 0 and session.given[place].differs != about["wrong"]:
            raise DataError(f"event {event.seq} says wrong={about['wrong']}; its rows do not.")
    return session


def check_certificates(path: Path) -> dict[str, Any]:
    """Recompute every certificate of a workspace from its log, and compare.

    The log is verified first. Each certificate, those of undone rounds too, is computed again from
    the frozen labels, the seed of the draw and the rows of the answers; the last one is compared
    with ``certificate.json`` as well.

    Returns
    -------
    dict
        ``agrees``, ``certificates`` (``seq``, ``agrees``, ``differences``, ``sentence`` each),
        ``open`` (the sentence of an audit that is not closed, or None) and ``sentence``.

    Raises
    ------
    UsageError
        There is no certificate and no audit that could be checked.
    TamperedError
        The log does not verify.
    """
    with Workspace.open(path, read_only=True) as workspace:
        log = workspace.log
        log.verify()
        classes = workspace.images.classes()
        found = [_check(log, event, classes) for event in log.events("certificate")]
        _check_file(workspace, found)
        drawn = log.events("audit", live=True)
        open_audit = None
        if (
            drawn
            and drawn[-1].payload.get("method") == METHOD
            and not log.events("certificate", live=True)
        ):
            open_audit = replay(log, drawn[-1], classes=classes).state()["sentence"]
        if not found and open_audit is None:
            raise UsageError(f"{path} has no certificate to check.")
    wrong = [one for one in found if not one["agrees"]]
    if wrong:
        what = ", ".join(wrong[0]["differences"])
        sentence = (
            f"The certificate of event {wrong[0]['seq']} does not follow from the log: "
            f"{what} differ."
        )
    else:
        count = "1 certificate follows" if len(found) == 1 else f"{len(found)} certificates follow"
        sentence = f"{count} from the log." + (f" Open: {open_audit}" if open_audit else "")
    return {
        "agrees": not wrong,
        "certificates": found,
        "open": open_audit,
        "sentence": sentence,
    }


def _check(log: LabelLog, event: Event, classes: tuple[str, ...]) -> dict[str, Any]:
    leak = event.payload.get("leak")
    try:
        audit = _audit_of(log, event)
        if audit.payload.get("method") == METHOD:
            session = replay(log, audit, classes=classes, until=event.seq)
            labels, said = certified_anytime(session, classes, leak)
        else:
            answers = _operation(log, f"answers-{audit.seq}", event.seq)
            given = log.labels(answers.seq)
            labels, said = certified(audit, log.labels(audit.seq), given, leak=leak)
    except TamperedError:
        raise
    except (MedloopError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        return _told(event, [f"what it rests on ({reason})"])
    said = json.loads(json.dumps(said))
    names = sorted(
        name for name in {*said, *event.payload} if said.get(name) != event.payload.get(name)
    )
    if not np.array_equal(labels.looked_at, log.labels(event.seq).looked_at):
        names.append("accepted labels")
    return _told(event, names)


def _told(event: Event, differences: list[str]) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "agrees": not differences,
        "differences": differences,
        "sentence": str(event.payload.get("sentence", "")),
    }


def _check_file(workspace: Workspace, found: list[dict[str, Any]]) -> None:
    live = workspace.log.events("certificate", live=True)
    if not live:
        return
    if workspace.load_json("certificate.json", None) != live[-1].payload:
        last = next(one for one in found if one["seq"] == live[-1].seq)
        last["agrees"] = False
        last["differences"].append("certificate.json")


def _audit_of(log: LabelLog, event: Event) -> Event:
    name, _, number = event.op.rpartition("-")
    for audit in log.events("audit"):
        if name == "certificate" and str(audit.seq) == number and audit.seq < event.seq:
            return audit
    raise DataError(f"event {event.seq} belongs to no audit.")


def _operation(log: LabelLog, op: str, before: int) -> Event:
    for event in log.events("answers"):
        if event.op == op and event.seq < before:
            return event
    raise DataError(f"there is no event {op!r} before it.")
