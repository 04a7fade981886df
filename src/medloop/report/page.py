"""One self-contained page that a clinician can read from the top."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.dataset import Dataset
from medloop.errors import MedloopError
from medloop.evaluation import Judged
from medloop.labels import HUMAN, MODEL, Labels
from medloop.report import figures
from medloop.report.certified import certificate_state
from medloop.report.gallery import Picture, least_sure, most_contradicted, pictures
from medloop.report.provenance import provenance, settings
from medloop.report.template import write_page
from medloop.report.words import (
    SETS,
    change_words,
    count_words,
    leak_words,
    one_of,
    shortened,
)
from medloop.rounds import load_judged
from medloop.store.images import OK
from medloop.store.workspace import Workspace

Ints = NDArray[np.int64]

_PICTURES = 12
_QUARANTINED = 20
_FEW_PATIENTS = 30

#: Name in ``metrics.json``, name on the page, whether larger is better.
_MEASURES = (
    ("weighted_auc", "Weighted AUC", "higher"),
    ("accuracy", "Accuracy", "higher"),
    ("macro_precision", "Macro precision", "higher"),
    ("macro_recall", "Macro recall (sensitivity)", "higher"),
    ("macro_f1", "Macro F1", "higher"),
    ("calibration_error", "Calibration error", "lower"),
)


def write_report(workspace: Workspace, metrics: dict[str, Any]) -> None:
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
        The file cannot be written, or a round cannot be read.
    """
    if metrics["kind"] == "objects":
        from medloop.report.objects import write_object_report

        write_object_report(workspace, metrics)
        return
    if metrics["kind"] == "findings":
        from medloop.report.findings import write_finding_report

        write_finding_report(workspace, metrics)
        return
    write_page(workspace.path("report.html"), "page.html.jinja", _content(workspace, metrics))


def _content(workspace: Workspace, metrics: dict[str, Any]) -> dict[str, Any]:
    """Gather everything that the template says."""
    table = workspace.table()
    current = workspace.log.current(columns=[])
    number = metrics["round_in_use"]
    used = next(row for row in metrics["rounds"] if row["number"] == number)
    student = workspace.load_json(f"rounds/{number:02d}/student/student.json", {})
    quarantined = workspace.quarantined()
    quality = _quality(metrics)
    return {
        "name": shortened(workspace.folder.resolve().name, 80),
        "metrics": metrics,
        "used": used,
        "images": int((table["status"] == OK).sum()),
        "counts": _counts(workspace, table, current),
        "classes": one_of([shortened(name, 40) for name in metrics["classes"]]),
        "warnings": _warnings(metrics, student, quality),
        "certificate": certificate_state(
            workspace, int((current.source == MODEL).sum()), drawn=metrics["kind"] == "places"
        ),
        "quality": quality,
        "held_out_kind": _held_out_kind(workspace, number, table),
        "changes": _changes(metrics),
        "rounds": sorted(metrics["rounds"], key=lambda row: int(row["number"])),
        "figures": _figures(metrics, used, current),
        "gallery": _gallery(workspace, metrics, table, current),
        "places": _places(workspace, metrics, table),
        "quarantined": [
            (shortened(file, 160), shortened(reason, 300))
            for file, reason, _ in quarantined[:_QUARANTINED]
        ],
        "n_quarantined": len(quarantined),
        "settings": settings(workspace.config, student),
        "provenance": provenance(workspace, number),
    }


def _places(
    workspace: Workspace, metrics: dict[str, Any], table: dict[str, Any]
) -> dict[str, Any] | None:
    """Gather where classes show, for a recipe that says so."""
    if metrics["kind"] != "places":
        return None
    from medloop.report.places import place_section

    return place_section(workspace, metrics, table)


# -- what was done ------------------------------------------------------------------------------


def _counts(workspace: Workspace, table: dict[str, Any], current: Labels) -> dict[str, int]:
    log = workspace.log
    train = table["id"][table["split"] == "train"]
    given = log.labels(log.events("given")[0].seq)
    answers = [log.labels(event.seq).image for event in log.events("answers")]
    return {
        "model": int((current.source == MODEL).sum()),
        "person": int((current.source == HUMAN).sum()),
        "given": len(given),
        "taught": int(np.isin(given.image, train).sum()),
        "answered": len(np.unique(np.concatenate([np.empty(0, np.int64), *answers]))),
    }


def _warnings(
    metrics: dict[str, Any], student: dict[str, Any], quality: dict[str, Any]
) -> list[str]:
    said = []
    if metrics["leak"]:
        said.append(leak_words(metrics["leak"]))
    weights = str(student.get("weights", ""))
    if weights.startswith("random"):
        said.append(
            f"The network started from random weights: {shortened(weights, 200)}. "
            "With pretrained weights it would probably be better."
        )
    for part in quality["parts"]:
        if part["patients"] < _FEW_PATIENTS:
            said.append(
                f"The figures on {part['words']} rest on {count_words(part['patients'], 'patient')}"
                " only: they are rough, and so are their intervals."
            )
    return said


# -- how good -----------------------------------------------------------------------------------


def _quality(metrics: dict[str, Any]) -> dict[str, Any]:
    """Lay out the table: a part for each kind of label, with a column for each round."""
    rounds = {row["number"]: row for row in metrics["rounds"]}
    numbers = sorted({min(rounds), metrics["round_in_use"]})
    parts = []
    for name, words in SETS:
        measured = [(number, rounds[number][name]) for number in numbers if rounds[number][name]]
        if measured:
            last = measured[-1][1]
            parts.append(
                {
                    "name": name,
                    "words": words,
                    "n": last["n"],
                    "patients": last["patients"],
                    "measured": measured,
                    "last": last,
                }
            )
    columns = [(part, number, one) for part in parts for number, one in part["measured"]]
    rows = [
        (words, better, [_cell(one, key) for _, _, one in columns])
        for key, words, better in _MEASURES
    ]
    aucs = [
        (
            f"AUC of {shortened(name, 40)}",
            "higher",
            [
                {
                    "value": one["per_class"][k]["auc"],
                    "interval": one["per_class"][k]["auc_interval"],
                }
                for _, _, one in columns
            ],
        )
        for k, name in enumerate(metrics["classes"])
    ]
    return {"parts": parts, "numbers": [number for _, number, _ in columns], "rows": aucs + rows}


def _cell(measured: dict[str, Any], key: str) -> dict[str, Any]:
    return {"value": measured[key], "interval": measured.get(f"{key}_interval")}


def _held_out_kind(workspace: Workspace, number: int, table: dict[str, Any]) -> str:
    """Tell whether held-out labels are a split of their own, or parts left out in turn."""
    judged = load_judged(workspace, number, "held_out", Judged)
    if not len(judged):
        return "none"
    val = table["id"][table["split"] == "val"]
    return "val" if np.isin(judged.image, val).all() else "folds"


def _changes(metrics: dict[str, Any]) -> list[str]:
    if not metrics["comparison"]:
        return []
    first = min(row["number"] for row in metrics["rounds"])
    return change_words(metrics["comparison"], first=first, last=metrics["round_in_use"])


# -- figures ------------------------------------------------------------------------------------


def _figures(
    metrics: dict[str, Any], used: dict[str, Any], current: Labels
) -> list[dict[str, Any]]:
    """Draw everything: groups of (title, caption, SVG), without what has nothing to show."""
    rounds, refused = metrics["rounds"], metrics["refused"]
    classes, k = metrics["classes"], len(metrics["classes"])
    machine = current.source == MODEL
    by_class = [np.bincount(current.class_id[rows], minlength=k) for rows in (~machine, machine)]
    bars = "Bars are 95% intervals."
    boxes = metrics["kind"] == "places"
    things = "Boxes" if boxes else "Labels"
    groups = [
        (
            "Round by round",
            [
                (
                    "Weighted AUC",
                    bars,
                    figures.curve(rounds, "weighted_auc", refused=refused, ylabel="weighted AUC"),
                ),
                (
                    "Accuracy",
                    bars,
                    figures.curve(rounds, "accuracy", refused=refused, ylabel="accuracy"),
                ),
                (
                    "Macro F1",
                    "Mean over the classes.",
                    figures.curve(rounds, "macro_f1", refused=refused, ylabel="macro F1"),
                ),
            ],
        )
    ]
    for name, words in reversed(SETS):
        if used[name]:
            groups.append(
                (
                    f"Round {used['number']} on {words}",
                    [
                        (
                            "Confusion matrix",
                            "Images; shades and percentages by row.",
                            figures.confusion(used[name], name=f"{name}-confusion"),
                        ),
                        (
                            "ROC of each class",
                            "Area under each curve with its 95% interval.",
                            figures.roc(used[name], name=f"{name}-roc"),
                        ),
                        (
                            "Calibration",
                            "On the line, probabilities are honest.",
                            figures.reliability(used[name], name=f"{name}-reliability"),
                        ),
                    ],
                )
            )
    groups.append(
        (
            "What is delivered",
            [
                (
                    f"{things} by class",
                    f"All current {things.lower()}.",
                    figures.by_class(classes, *by_class),
                ),
                (
                    f"Scores of the machine {things.lower()}",
                    "Low scores deserve a look first.",
                    figures.scores(current.score[machine], least=0.0 if boxes else 1 / max(k, 1)),
                ),
                (
                    "Work of the loop",
                    f"{things} of each round.",
                    figures.labels_by_round(rounds, refused=refused),
                ),
            ],
        )
    )
    made = [
        {
            "title": title,
            "figures": [
                {"title": one, "caption": caption, "svg": svg} for one, caption, svg in drawn if svg
            ],
        }
        for title, drawn in groups
    ]
    return [group for group in made if group["figures"]]


# -- images -------------------------------------------------------------------------------------


def _gallery(
    workspace: Workspace, metrics: dict[str, Any], table: dict[str, Any], current: Labels
) -> dict[str, Any]:
    names = [shortened(name, 40) for name in metrics["classes"]]
    machine = current[current.source == MODEL]
    # places are drawn with their boxes, in a section of their own
    unsure = machine[least_sure(machine, 0 if metrics["kind"] == "places" else _PICTURES)]
    judged = load_judged(workspace, metrics["round_in_use"], "held_out", Judged)
    rows = most_contradicted(judged, _PICTURES)
    dataset = _source(workspace)
    unsure_said = [
        [names[k], f"score {score:.3f}"]
        for k, score in zip(unsure.class_id.tolist(), unsure.score.tolist(), strict=True)
    ]
    contradicted_said = [
        [f"person: {names[truth]} {probs[truth]:.2f}", f"model: {names[top]} {probs[top]:.2f}"]
        for truth, top, probs in zip(
            judged.truth[rows].tolist(),
            judged.probs[rows].argmax(1).tolist(),
            judged.probs[rows].tolist(),
            strict=True,
        )
    ]
    made = [
        pictures(dataset, _files(table, images), images, said)
        for images, said in (
            (unsure.image, unsure_said),
            (judged.image[rows], contradicted_said),
        )
    ]
    shown: list[Picture] = [picture for group in made for picture in group]
    return {
        "unsure": made[0],
        "contradicted": made[1],
        "judged": len(judged),
        "missing": sum(not picture.data for picture in shown),
        "shown": len(shown),
    }


def _source(workspace: Workspace) -> Dataset | None:
    from medloop.intake import open_dataset

    try:
        return open_dataset(workspace)
    except (MedloopError, OSError):
        return None


def _files(table: dict[str, Any], images: Ints) -> list[str]:
    rows = np.searchsorted(table["id"], images)  # the table is in the order of the ids
    return [shortened(file, 120) for file in table["file"][rows]]
