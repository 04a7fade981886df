"""What people do without a browser: ``certify``, ``queue`` and ``answers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medloop.cli.options import WS, Json
from medloop.errors import UsageError


def certify(
    workspace: WS,
    error_rate: Annotated[
        float, typer.Option(help="Share of wrong labels that may not be exceeded.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the statement.")] = 0.95,
    audit: Annotated[
        int | None, typer.Option(help="Draw this many images for a person to check.")
    ] = None,
    purity: Annotated[
        bool, typer.Option("--purity", help="Certify the accepted labels alone, not the whole set.")
    ] = False,
    answers: Annotated[
        Path | None, typer.Option(help="CSV: file,label with the person's answers.")
    ] = None,
    anytime: Annotated[
        bool,
        typer.Option("--anytime", help="Draw an audit that may be stopped after any answer."),
    ] = False,
    shown: Annotated[
        bool, typer.Option("--shown", help="With --anytime: show the machine's labels.")
    ] = False,
    loss: Annotated[
        str | None,
        typer.Option(help="With --anytime: iou or nme, when a box or keypoints are wrong."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="With --loss: IoU of at least, or NME of at most.")
    ] = None,
    close: Annotated[
        bool, typer.Option("--close", help="Close that audit and write the certificate.")
    ] = False,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="With --close: though the rate is not reached.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Recompute every certificate from the log.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw an audit, turn its answers into a certificate, or check a certificate."""
    drawing = audit is not None or anytime
    if sum((drawing, answers is not None, close, check)) != 1:
        raise UsageError(
            "certify needs one of --audit N or --anytime (draw), --answers FILE or --close "
            "(certify) and --check."
        )
    if not anytime and (shown or loss is not None or tolerance is not None):
        raise UsageError("--shown, --loss and --tolerance go with --anytime.")
    if give_up and not close:
        raise UsageError("--give-up goes with --close.")
    if anytime:
        if purity:
            raise UsageError("--purity needs a fixed audit: say --audit N without --anytime.")
        _draw_anytime(
            workspace,
            audit,
            as_json=as_json,
            error_rate=error_rate,
            confidence=confidence,
            blind=not shown,
            loss=loss,
            tolerance=tolerance,
        )
    elif audit is not None:
        _draw(workspace, audit, error_rate, confidence, purity=purity, as_json=as_json)
    elif check:
        _check(workspace, as_json=as_json)
    else:
        _certify(workspace, answers, give_up=give_up, as_json=as_json)


def queue(
    workspace: WS,
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    limit: Annotated[int | None, typer.Option(help="At most so many rows.")] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=COST", help="What an error on a class costs; else 1."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the labels that most need a person's look, as a table to correct."""
    from medloop.cli.show import result
    from medloop.review.tables import write_queue

    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1, got {limit}.")
    done = write_queue(workspace, out, limit=limit, costs=_costs(cost or []))
    result(done.pop("sentence"), done, as_json=as_json)


def answers(
    workspace: WS,
    table: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS", help="CSV: file,label; or JSON: a Label Studio export, or COCO."
        ),
    ],
    reviewer: Annotated[str, typer.Option(help="Who answered.")] = "reviewer",
    as_json: Json = False,
) -> None:
    """Take a person's labels from a file, for the audit as well as for the queue."""
    from medloop.cli.show import result
    from medloop.review.tables import read_answers

    done = read_answers(workspace, table, reviewer=reviewer)
    result(done["sentence"], done, as_json=as_json)


def _draw(
    workspace: Path,
    size: int,
    error_rate: float,
    confidence: float,
    *,
    purity: bool,
    as_json: bool,
) -> None:
    from medloop.audit import draw_audit
    from medloop.cli.show import result

    drawn = draw_audit(workspace, size, error_rate=error_rate, confidence=confidence, purity=purity)
    result(drawn.pop("sentence"), drawn, as_json=as_json)


def _draw_anytime(workspace: Path, limit: int | None, *, as_json: bool, **terms: Any) -> None:
    from medloop.cli.show import result
    from medloop.review.tables import list_audit

    if limit is not None and limit < 1:
        raise UsageError(f"--audit must be at least 1, got {limit}.")
    state = list_audit(workspace, limit, **terms)
    result(state["sentence"], state, as_json=as_json)


def _certify(workspace: Path, answers: Path | None, *, give_up: bool, as_json: bool) -> None:
    from medloop.audit import answer_audit
    from medloop.cli.show import result
    from medloop.review.tables import close_audit

    if answers is None:
        certificate = close_audit(workspace, give_up=give_up)
    else:
        certificate = answer_audit(workspace, answers)
    result(certificate["sentence"], certificate, as_json=as_json)
    if not certificate["holds"]:
        raise typer.Exit(4)


def _check(workspace: Path, *, as_json: bool) -> None:
    from medloop.cli.show import result
    from medloop.review.replay import check_certificates

    found = check_certificates(workspace)
    result(found["sentence"], found, as_json=as_json)
    if not found["agrees"]:
        raise typer.Exit(4)


def _costs(words: list[str]) -> dict[str, float] | None:
    costs = {}
    for word in words:
        name, _, value = word.rpartition("=")
        try:
            costs[name] = float(value)
        except ValueError:
            raise UsageError(f"--cost must be CLASS=COST, got {word!r}.") from None
        if not name:
            raise UsageError(f"--cost must be CLASS=COST, got {word!r}.")
    return costs or None
