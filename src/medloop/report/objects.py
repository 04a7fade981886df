"""The page of a run that labelled objects: figures by round, and what was found where."""

from __future__ import annotations

from typing import Any

import numpy as np

from medloop.labels import HUMAN, MODEL, Labels
from medloop.report.boxes import centres, images_of, shapes, sizes
from medloop.report.certified import certificate_state
from medloop.report.drawing import BLUE, GREY, ORANGE, VERMILLION, drawing, svg
from medloop.report.gallery import thumbnail
from medloop.report.provenance import provenance, settings
from medloop.report.template import write_page
from medloop.report.words import (
    NOTHING_ADDED,
    OBJECT_FIGURES,
    SETS,
    leak_words,
    object_figures,
    shortened,
)
from medloop.store.images import OK
from medloop.store.workspace import Workspace

#: Pictures, and rounds of each, that a page shows.
_IMAGES, _ROUNDS = 6, 5


def write_object_report(workspace: Workspace, metrics: dict[str, Any]) -> None:
    """Write ``report.html``: one file that refers to nothing outside and runs no script.

    Parameters
    ----------
    workspace : Workspace
        With at least one round.
    metrics : dict
        What ``metrics.json`` holds.

    Raises
    ------
    WorkspaceError
        The file cannot be written.
    """
    write_page(workspace.path("report.html"), "objects.html.jinja", _content(workspace, metrics))


def _content(workspace: Workspace, metrics: dict[str, Any]) -> dict[str, Any]:
    log, table = workspace.log, workspace.table()
    number = metrics["round_in_use"]
    student = workspace.load_json(f"rounds/{number:02d}/student/student.json", {})
    given = log.labels(log.events("given")[0].seq)
    rounds = {event.round: log.labels(event.seq) for event in log.events("round", live=True)}
    current = log.current()
    size = np.column_stack([table["width"], table["height"]])
    quarantined = workspace.quarantined()
    machine = int((current.source == MODEL).sum())
    return {
        "name": shortened(workspace.folder.resolve().name, 80),
        "metrics": metrics,
        "images": int((table["status"] == OK).sum()),
        "person": int((current.source == HUMAN).sum()),
        "machine": machine,
        "sentences": [*([] if machine else [NOTHING_ADDED]), *_sentences(metrics)],
        "warnings": _warnings(metrics, student),
        "certificate": certificate_state(workspace, machine, drawn=True),
        "columns": [name for name, _ in OBJECT_FIGURES if _measured(metrics, name)],
        "digits": dict(OBJECT_FIGURES),
        "rounds": sorted(metrics["rounds"], key=lambda row: int(row["number"])),
        "figures": [
            figure
            for figure in (
                ("Objects by round", _labels(metrics)),
                ("Average precision by round", _precision(metrics)),
                ("Size of objects", sizes(current, size)),
                ("Where objects lie", centres(current, size)),
            )
            if figure[1]
        ],
        "pictures": _pictures(workspace, table, given, rounds),
        "shown_rounds": list(rounds)[-_ROUNDS:],
        "quarantined": [(shortened(f, 160), shortened(r, 300)) for f, r, _ in quarantined[:20]],
        "n_quarantined": len(quarantined),
        "settings": settings(workspace.config, student),
        "provenance": provenance(workspace, number),
    }


def _measured(metrics: dict[str, Any], name: str) -> bool:
    return any(
        row[part] and row[part]["mean"].get(name) is not None
        for row in metrics["rounds"]
        for part, _ in SETS
    )


def _sentences(metrics: dict[str, Any]) -> list[str]:
    said = []
    by_number = {row["number"]: row for row in metrics["rounds"]}
    for part, words in SETS:
        first, last = by_number[min(by_number)][part], by_number[metrics["round_in_use"]][part]
        if first and last:
            what = f"{last['objects']:,} objects of {last['patients']:,} patients"
            said.append(f"On {words} ({what}): {', '.join(object_figures(first, last))}.")
    compared = metrics["comparison"]
    if compared:
        low, high = compared["quality_interval"]
        said.append(
            f"The mean similarity of {compared['objects']:,} test objects with what was found "
            f"changed by {compared['quality_difference']:+.3f} [{low:+.3f}, {high:+.3f}] (95%, "
            "patient bootstrap)."
        )
    if metrics["stopped"]:
        said.append(metrics["stopped"]["sentence"])
    return said


def _warnings(metrics: dict[str, Any], student: dict[str, Any]) -> list[str]:
    said = [leak_words(metrics["leak"])] if metrics["leak"] else []
    weights = str(student.get("weights", ""))
    if "random" in weights:
        said.append(
            f"The network started from random weights: {shortened(weights, 200)}. "
            "With pretrained weights it would probably be better."
        )
    return said


# -- figures ------------------------------------------------------------------------------------


def _labels(metrics: dict[str, Any]) -> str:
    rows = sorted(metrics["rounds"], key=lambda row: int(row["number"]))
    number = [row["number"] for row in rows]
    person = [row["labels"]["person"] for row in rows]
    model = [row["labels"]["model"] for row in rows]
    with drawing() as (figure, axes):
        axes.bar(number, person, color=BLUE, width=0.6, label="a person's")
        axes.bar(number, model, bottom=person, color=ORANGE, width=0.6, label="the machine's")
        axes.set(xlabel="round", ylabel="objects for training", xticks=number)
        axes.legend(frameon=False, loc="lower left", ncols=2, bbox_to_anchor=(0, 1))
        told = "; ".join(
            f"round {n}: {p} and {m}" for n, p, m in zip(number, person, model, strict=True)
        )
        return svg(figure, "objects", f"Objects of a person and of the machine. {told}.")


def _precision(metrics: dict[str, Any]) -> str:
    rows = sorted(metrics["rounds"], key=lambda row: int(row["number"]))
    with drawing() as (figure, axes):
        drawn = False
        for (part, words), colour in zip(SETS, (GREY, VERMILLION), strict=True):
            for measure, dash in (("AP50", "-"), ("OKS AP50", ":")):
                points = [
                    (row["number"], row[part]["mean"][measure])
                    for row in rows
                    if row[part] and row[part]["mean"].get(measure) is not None
                ]
                if points:
                    name = f"{measure}, {words}"
                    axes.plot(
                        *zip(*points, strict=True), dash, color=colour, marker="o", label=name
                    )
                    drawn = True
        if not drawn:
            return ""
        axes.set(xlabel="round", ylabel="average precision", ylim=(0, 1.02))
        axes.set_xticks([row["number"] for row in rows])
        axes.legend(frameon=False, loc="lower right", fontsize=7)
        return svg(figure, "precision", "Average precision by round, on held-out and test images.")


# -- pictures -----------------------------------------------------------------------------------


def _pictures(
    workspace: Workspace, table: dict[str, Any], given: Labels, rounds: dict[int, Labels]
) -> list[dict[str, Any]]:
    """Draw the images that gained most, once a round."""
    if not rounds:
        return []
    last = rounds[max(rounds)]
    image, count = np.unique(last.image, return_counts=True)
    chosen = image[np.lexsort((image, -count))][:_IMAGES].tolist()
    dataset = images_of(workspace)
    drawn = []
    for one in chosen:
        picture = thumbnail(dataset, one)
        w, h = int(table["width"][one]), int(table["height"][one])
        drawn.append(
            {
                "file": shortened(str(table["file"][one]), 120),
                "data": picture,
                "width": w,
                "height": h,
                "rounds": [
                    {
                        "number": number,
                        "person": shapes(given.of([one]), w, h),
                        "machine": shapes(labels.of([one]), w, h),
                    }
                    for number, labels in list(rounds.items())[-_ROUNDS:]
                ],
            }
        )
    return drawn
