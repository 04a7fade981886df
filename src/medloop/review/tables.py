"""Review without a browser: tables to fill in, and tables that come back."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medloop.errors import DataError, did_you_mean
from medloop.findings.sheet import read_sheet
from medloop.read.annotations import kind_of
from medloop.read.table import read_table
from medloop.review.desk import Desk
from medloop.review.exchange import read_drawn
from medloop.review.reports import renew_report
from medloop.store.files import writing

HEADER = ("file", "label", "score", "probability_wrong", "reason")


def write_queue(
    path: Path, out: Path, *, limit: int | None = None, costs: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Write the labels that most need a look, the most valuable first.

    The columns are ``file``, ``label`` (current), ``score``, ``probability_wrong`` and
    ``reason``. Whoever corrects ``label`` gives the table to :func:`read_answers`.

    Returns
    -------
    dict
        ``rows``, ``out`` and ``sentence``.
    """
    with Desk(path) as desk:
        lines = desk.lines(limit, costs=costs)
        waiting = desk.home()["fix"]["waiting"]
    with writing(out, "w") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(HEADER)
        for line in lines:
            score = "" if line["score"] is None else f"{line['score']:.6g}"
            doubt = f"{line['probability_wrong']:.6g}"
            table.writerow((line["file"], line["class"] or "", score, doubt, line["reason"]))
    sentence = f"{len(lines):,} labels in {out}, the most doubtful first."
    if waiting:
        sentence += f" {waiting:,} more are kept for the audit until it is closed."
    return {"rows": len(lines), "out": str(out), "sentence": sentence}


def read_answers(path: Path, answers: Path, *, reviewer: str = "reviewer") -> dict[str, Any]:
    """Take a person's answers: a table ``file,label``, a Label Studio export or a COCO file.

    Rows of a table without a label are passed over; what drawn answers say, and of which images,
    tells :func:`medloop.review.exchange.read_drawn`.

    Returns
    -------
    dict
        As :meth:`Desk.answer_files`.

    Raises
    ------
    DataError
        A file or a class is unknown; nothing of the table is taken then.
    """
    with Desk(path, reviewer_default=reviewer) as desk:
        rows: Sequence[tuple[str, Any]]
        rows = read_drawn(answers, desk) if _is_json(answers) else _rows(answers, path, desk)
        if not rows:
            what = "no answer of a person" if _is_json(answers) else "no row with a label"
            raise DataError(f"{answers} has {what}.")
        text = json.dumps([reviewer, list(rows)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        # not the digest alone: what was answered otherwise in between counts again
        done = desk.answer_files(f"table-{digest}-{desk.head}", rows)
    said = [
        f"{done['audit']:,} answers for the audit, {done['fix']:,} for the queue, "
        f"{done['same']:,} known already."
    ]
    if done["sentence"]:
        said.append(done["sentence"])
    if done["may_stop"]:
        said.append(f"Close the audit with: medloop certify {path} --close")
    return {**done, "sentence": " ".join(said)}


def _is_json(path: Path) -> bool:
    return path.is_file() and kind_of(path) in ("coco", "label-studio")


def _rows(answers: Path, path: Path, desk: Desk) -> list[tuple[str, str]]:
    """Read a table, and name the line of what does not fit the workspace."""
    table = read_sheet(answers, desk.classes) if desk.several else read_table(answers)
    files = set(desk.files().values())
    rows = []
    for line, file, label in zip(table.line, table.file, table.label, strict=True):
        if file not in files:
            raise DataError(f"{answers} line {line}: {file} is not an image of {path}.")
        if label and not desk.several and label not in desk.classes:
            raise DataError(
                f"{answers} line {line}: unknown class {label!r}."
                f"{did_you_mean(label, desk.classes)}"
            )
        if label:
            rows.append((file, label))
    return rows


def list_audit(path: Path, limit: int | None, **terms: Any) -> dict[str, Any]:
    """Start an audit that may be stopped at any time, or go on, and write ``audit.csv``.

    The table holds ``file,label`` with empty labels, in the order that was drawn, for as many
    images as are expected to be needed (or ``limit``); where the audit is not blind, the machine's
    class stands in a third column ``machine``. Where images may hold several findings, each has a
    column in place of ``label``, for 1 where it is there and 0 where not.

    Parameters
    ----------
    path : Path
    limit : int, optional
    **terms
        As :meth:`Desk.start_audit`.
    """
    with Desk(path) as desk:
        state = desk.start_audit(**terms)
        count = max(1, state["more_checks"]) if limit is None else limit
        rows = desk.audit_files(count)
        out = desk.path / "audit.csv"
        with writing(out, "w") as stream:
            table = csv.writer(stream, lineterminator="\n")
            asked = desk.classes if desk.several else ["label"]
            empty = [""] * len(asked)
            table.writerow(("file", *asked) if state["blind"] else ("file", *asked, "machine"))
            table.writerows(
                (file, *empty) if state["blind"] else (file, *empty, words) for file, words in rows
            )
    sentence = (
        f"{state['sentence']} {len(rows):,} images are listed in {out}: fill in any number of "
        f"labels from the top and run medloop answers {path} {out}; you may stop at any time."
    )
    return {**state, "file": str(out), "listed": len(rows), "sentence": sentence}


def close_audit(path: Path, *, give_up: bool = False) -> dict[str, Any]:
    """Close the open audit, write ``certificate.json``, and the figures and the report anew."""
    with Desk(path) as desk:
        said = desk.finish_audit(give_up=give_up)
        renew_report(path)
    return said
