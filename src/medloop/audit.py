"""The audit: freeze the labels, draw some uniformly, and let the answers certify the whole."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.certify import audit_size, whole_set
from medloop.certify import draw_audit as draw
from medloop.certify import purity as certify_purity
from medloop.errors import DataError, StaleError, UsageError
from medloop.findings.audit import (
    asked_of,
    differing,
    machine_images,
    of_each_finding,
    read_audit_sheet,
    several_in,
    write_audit_sheet,
)
from medloop.labels import HUMAN, MODEL, Labels
from medloop.overlap import area
from medloop.read.parts import stack
from medloop.read.table import read_table
from medloop.recipes import IMPORT
from medloop.store.event import Event
from medloop.store.files import writing
from medloop.store.log import LabelLog
from medloop.store.view import read_columns, read_looks, winners
from medloop.store.workspace import Workspace


def draw_audit(
    path: Path, size: int, *, error_rate: float, confidence: float, purity: bool = False
) -> dict[str, Any]:
    """Freeze the machine's labels and write ``audit.csv``: ``file,label`` with empty labels.

    The draw is uniform without replacement, so the certificate needs nothing of the model. It may
    be repeated with other numbers as long as no answer was given.

    Parameters
    ----------
    path : Path
        Workspace.
    size : int
        Images for a person to check.
    error_rate, confidence : float
        What is to be certified; fixed here, before any answer is seen.
    purity : bool
        Certify the accepted labels alone.

    Returns
    -------
    dict
        ``file``, ``size``, ``pool``, ``sentence`` and the numbers above.

    Raises
    ------
    UsageError
        There is nothing to audit, labels are boxes or several an image, ``size`` does not fit, or
        answers were given already.
    """
    with Workspace.open(path) as workspace, workspace.locked():
        log = workspace.log
        if log.events("certificate", live=True):
            raise UsageError(
                f"{path} has been audited already: a second draw after answers were seen would "
                "need a certificate of its own confidence. See certificate.json."
            )
        _refuse_open(path, log.events("audit", live=True), log)
        several = several_in(workspace)
        pool = machine_labels(log)
        if several:
            pool = pool.of(machine_images(workspace))
        else:
            _refuse_places(path, pool)
        images = _drawn_from(pool, several)
        if len(images) == 0:
            raise UsageError(f"{path} holds no machine labels to audit.")
        if not 1 <= size <= len(images):
            raise UsageError(
                f"--audit must lie in [1, {len(images)}], the number of machine labels, got {size}."
            )
        seed = int(workspace.config.get("seed", 0))
        asked: dict[str, Any] = {
            "size": size,
            "error_rate": error_rate,
            "confidence": confidence,
            "purity": purity,
            "seed": seed,
            "round": int(pool.round.max(initial=0)),
        }
        if several:
            asked |= asked_of(workspace, images)
        # whole_set refuses numbers that no certificate can have, before a person does any work.
        least = audit_size(len(images), error_rate=error_rate, confidence=confidence)
        earlier = log.events("audit", live=True)
        if not earlier or earlier[-1].payload != asked:
            op = f"audit-{log.epoch}-{len(log.events('audit')) + 1}"
            log.append(op, "audit", labels=pool, payload=asked, round=asked["round"])
        chosen = images[draw(len(images), size, seed=seed)]
        files = _files(workspace)
        out = workspace.path("audit.csv")
        if several:
            write_audit_sheet(out, [files[int(image)] for image in chosen], asked["findings"])
        else:
            with writing(out, "w") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerow(("file", "label"))
                table.writerows((files[int(image)], "") for image in chosen)
    short = (
        ""
        if size >= least
        else (
            f" Even without an error {size} answers cannot certify {error_rate:.1%}: "
            f"at least {least} are needed."
        )
    )
    what = "machine labels were drawn: fill in the labels of"
    if several:
        what = "images were drawn: fill in 1 for a finding that is there and 0 for others in"
    sentence = (
        f"{size:,} of {len(images):,} {what} {out} and run "
        f"medloop certify {path} --answers FILE.{short}"
    )
    asked.pop("sure", None)
    return {"file": str(out), "pool": len(images), "least": least, "sentence": sentence, **asked}


def machine_labels(log: LabelLog) -> Labels:
    """Return the machine's current labels, to be frozen.

    ``LabelLog.current`` drops a column that one of the rounds lacks; frozen like that, the others
    would lose their boxes for good. Here such a row has zeros, or no mask. Probabilities stay only
    where all have them.

    Parameters
    ----------
    log : LabelLog

    Returns
    -------
    Labels
        In the order of the images; ``looked_at`` holds all images that anybody looked at.
    """
    parts = []
    with log.database.snapshot():
        looks = read_looks(log.database)
        kept, seen = winners(looks)
        for look in looks:
            rows = kept[look.seq] & ~look.human
            if rows.any():
                held = read_columns(log.database, look.seq)
                held.pop("looked_at", None)
                parts.append(Labels(**{name: values[rows] for name, values in held.items()}))
    if any(part.probs is None for part in parts):
        parts = [part.with_(probs=None) for part in parts]
    for name in ("box", "keypoints", "probs"):
        shapes = {getattr(p, name).shape[1:] for p in parts if getattr(p, name) is not None}
        if len(shapes) > 1:  # made for other points: they cannot stand in one table
            parts = [part.with_(**{name: None}) for part in parts]
    found = stack(parts)
    return found[np.argsort(found.image, kind="stable")].with_(looked_at=seen)


def answer_audit(path: Path, answers: Path) -> dict[str, Any]:
    """Log a person's answers and write ``certificate.json``.

    Raises
    ------
    UsageError
        No audit was drawn.
    DataError
        An answer is missing, belongs to no audited image, or names an unknown class.
    """
    from medloop.report.imported import write_import_report
    from medloop.report.page import write_report

    with Workspace.open(path) as workspace, workspace.locked():
        log = workspace.log
        drawn = log.events("audit", live=True)
        if not drawn:
            raise UsageError(f"no audit was drawn in {path}: run medloop certify {path} --audit N.")
        audit = drawn[-1]
        asked = audit.payload
        if asked.get("method"):
            raise UsageError(
                f"the audit of {path} may be stopped at any time: give its answers by "
                f"medloop answers {path} FILE"
            )
        pool = log.labels(audit.seq)
        several = "findings" in asked
        images = _drawn_from(pool, several)
        audited = images[draw(len(images), asked["size"], seed=asked["seed"])]
        if several:
            files = _files(workspace)
            drawn_files = {files[image]: image for image in audited.tolist()}
            given = read_audit_sheet(answers, drawn_files, asked["findings"])
        else:
            given = _answers(workspace, answers, audited)
        try:
            log.append(
                f"answers-{audit.seq}",
                "answers",
                labels=given,
                actor="reviewer",
                looked_by=HUMAN if several else MODEL,  # "nothing here" is a person's word too
            )
        except StaleError:
            raise UsageError(
                f"the audit of {path} has been answered already, with other labels."
            ) from None
        accepted, said = certified(audit, pool, given, leak=workspace.load_json("leak.json", None))
        log.append(
            f"certificate-{audit.seq}",
            "certificate",
            labels=accepted,
            payload=said,
            round=asked["round"],
        )
        workspace.save_json("certificate.json", said)
        metrics = workspace.load_json("metrics.json", None)
        if workspace.config.get("recipe") == IMPORT:
            write_import_report(workspace)
        elif metrics is not None:
            write_report(workspace, metrics)
        return said


def certified(
    audit: Event, pool: Labels, given: Labels, *, leak: dict[str, Any] | None
) -> tuple[Labels, dict[str, Any]]:
    """Turn the answers of a drawn audit into a certificate.

    Parameters
    ----------
    audit : Event
        The draw, with what was asked for.
    pool : Labels
        The labels that were frozen.
    given : Labels
        The person's answers, in the order of the draw.
    leak : dict, optional
        What ``leak.json`` holds, where a leak was allowed.

    Returns
    -------
    accepted : Labels
        The machine labels that the certificate vouches for.
    said : dict
        What ``certificate.json`` holds.

    Raises
    ------
    DataError
        The answers are not for the images that were drawn.
    """
    asked = audit.payload
    several = "findings" in asked
    images = _drawn_from(pool, several)
    audited = draw(len(images), asked["size"], seed=asked["seed"])
    answered = given.looked_at if several else given.image
    if not np.array_equal(answered, np.sort(images[audited]) if several else images[audited]):
        raise DataError("the answers are not for the images that the audit drew.")
    if several:
        each = differing(pool, given, images[audited], len(asked["findings"]))
        wrong, score = each.any(axis=1), np.array(asked["sure"])
    else:
        wrong, score = given.class_id != pool.class_id[audited], pool.score
    rule = certify_purity if asked["purity"] else whole_set
    certificate = rule(
        score,
        audited,
        wrong,
        error_rate=asked["error_rate"],
        confidence=asked["confidence"],
        seed=asked["seed"],
    )
    said = {**certificate.to_json(), "round": asked["round"]}
    if several:
        told, words = of_each_finding(
            each, len(images), asked["findings"], confidence=asked["confidence"]
        )
        said["findings"] = told
        said["sentence"] += f" An image is wrong where any of its findings is. {words}"
    return pool.of(images[certificate.accepted]), with_leak(said, leak)


def placed(labels: Labels) -> bool:
    """Tell whether labels say where things are: any box of a size, or points.

    Examples
    --------
    >>> boxes = ([[0, 0, 0, 0]], [[0, 0, 4, 4]])
    >>> [placed(Labels(image=[0], class_id=[0], box=box)) for box in boxes]
    [False, True]
    """
    if labels.box is not None and (area(labels.box) > 0).any():
        return True
    return labels.keypoints is not None


def _refuse_places(path: Path, pool: Labels) -> None:
    """Refuse what a table of one class an image cannot answer."""
    if placed(pool):
        raise UsageError(
            f"the machine labels of {path} say where things are, which a table of classes cannot "
            f"check: run medloop review {path}, or say --anytime and --loss."
        )
    if len(np.unique(pool.image)) < len(pool):
        raise UsageError(
            f"{path} holds several machine labels an image, which a table of one class each cannot "
            f"check: run medloop review {path}."
        )


def _drawn_from(pool: Labels, several: bool) -> NDArray[np.int64]:
    """Return the images that a frozen pool is of: whole ones, or one a label."""
    return pool.looked_at if several else pool.image


def with_leak(said: dict[str, Any], leak: dict[str, Any] | None) -> dict[str, Any]:
    """Add to a certificate that the split leaks, where that was allowed."""
    if not leak:
        return said
    words = " The split leaks, by --allow-leak: measured figures are too good."
    return {**said, "leak": leak, "sentence": said["sentence"] + words}


def accepted_images(workspace: Workspace) -> Labels:
    """Return the machine labels that a certificate vouches for; none where there is none."""
    events: list[Event] = workspace.log.events("certificate", live=True)
    return workspace.log.labels(events[-1].seq) if events else Labels.empty()


def _refuse_open(path: Path, drawn: list[Event], log: LabelLog) -> None:
    """Refuse a draw where an audit that may be stopped at any time has answers."""
    if not drawn or not drawn[-1].payload.get("method"):
        return
    if any(event.payload.get("audit") == drawn[-1].seq for event in log.events("answers")):
        raise UsageError(
            f"an audit of {path} that may be stopped at any time is open and has answers."
        )


def _answers(workspace: Workspace, path: Path, audited: NDArray[np.int64]) -> Labels:
    table = read_table(path)
    files = _files(workspace)
    classes = workspace.log.events("scan")[0].payload["classes"]
    code = {name: k for k, name in enumerate(classes)}
    asked = {files[int(image)]: int(image) for image in audited}
    answer: dict[int, int] = {}
    for line, file, label in zip(table.line, table.file, table.label, strict=True):
        if file not in asked:
            raise DataError(f"{path} line {line}: {file} is not in the audit.")
        if not label:
            continue
        if label not in code:
            raise DataError(
                f"{path} line {line}: unknown class {label!r}; classes are {', '.join(classes)}."
            )
        answer[asked[file]] = code[label]
    missing = [file for file, image in asked.items() if image not in answer]
    if missing:
        raise DataError(
            f"{path} answers {len(answer)} of {len(asked)} audited images; "
            f"{missing[0]} has no label."
        )
    return Labels(
        image=audited,
        class_id=np.array([answer[int(image)] for image in audited], np.int64),
        source=np.full(len(audited), HUMAN),
    )


def _files(workspace: Workspace) -> dict[int, str]:
    table = workspace.table()
    return dict(zip(table["id"].tolist(), table["file"].tolist(), strict=True))
