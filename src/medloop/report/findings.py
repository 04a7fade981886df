"""The page of a run whose images may hold several findings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medloop.errors import MedloopError
from medloop.findings.counts import count_images
from medloop.findings.evaluation import JudgedFindings, Presence
from medloop.findings.words import change_sentences, figure_sentences
from medloop.labels import HUMAN
from medloop.presence import sureness
from medloop.report import figures
from medloop.report.certified import certificate_state
from medloop.report.gallery import Picture, pictures
from medloop.report.provenance import provenance, settings
from medloop.report.template import write_page
from medloop.report.words import SETS, leak_words, shortened
from medloop.rounds import load_judged
from medloop.store.images import OK
from medloop.store.workspace import Workspace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PICTURES, _QUARANTINED, _LINES = 12, 20, 4

#: Name in ``metrics.json``, name on the page.
_MEASURES = (
    ("mean_auc", "Mean AUC of the findings"),
    ("macro_f1", "Macro F1"),
    ("whole", "Images with every finding right"),
)


def write_finding_report(workspace: Workspace, metrics: dict[str, Any]) -> None:
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
    page = workspace.path("report.html")
    write_page(page, "findings.html.jinja", _content(workspace, metrics))


def _content(workspace: Workspace, metrics: dict[str, Any]) -> dict[str, Any]:
    table = workspace.table()
    number = metrics["round_in_use"]
    rounds = sorted(metrics["rounds"], key=lambda row: int(row["number"]))
    used = next(row for row in rounds if row["number"] == number)
    first = min(row["number"] for row in rounds)
    student = workspace.load_json(f"rounds/{number:02d}/student/student.json", {})
    counts = count_images(workspace)
    quarantined = workspace.quarantined()
    return {
        "name": shortened(workspace.folder.resolve().name, 80),
        "metrics": metrics,
        "images": int((table["status"] == OK).sum()),
        "counts": counts,
        "findings": [shortened(name, 40) for name in metrics["classes"]],
        "sentences": figure_sentences(metrics),
        "changes": change_sentences(metrics["comparison"], first=first, last=number)
        if metrics["comparison"]
        else [],
        "leak": leak_words(metrics["leak"]) if metrics["leak"] else "",
        "certificate": certificate_state(workspace, counts["machine"]),
        "tables": _tables(rounds, first, number),
        "rounds": rounds,
        "figures": _figures(workspace, metrics, rounds, used),
        "gallery": _gallery(workspace, metrics, table),
        "quarantined": [
            (shortened(file, 160), shortened(reason, 300))
            for file, reason, _ in quarantined[:_QUARANTINED]
        ],
        "n_quarantined": len(quarantined),
        "settings": settings(workspace.config, student),
        "provenance": provenance(workspace, number),
    }


def _tables(rounds: list[dict[str, Any]], first: int, number: int) -> list[dict[str, Any]]:
    """Lay out one table for each kind of judging label, a column for the first round and now."""
    made = []
    for name, words in SETS:
        shown = [row for row in rounds if row["number"] in (first, number) and row[name]]
        if not shown:
            continue
        columns = [row[name] for row in shown]
        rows = [
            (said, [(one[key], one[f"{key}_interval"]) for one in columns])
            for key, said in _MEASURES
        ]
        for k, finding in enumerate(columns[-1]["classes"]):
            each = [one["per_class"][k] for one in columns]
            title = f"{shortened(finding, 40)} ({each[-1]['support']:,} images): "
            rows.append((f"{title}AUC", [(one["auc"], one["auc_interval"]) for one in each]))
            rows.append((f"{title}F1", [(one["f1"], None) for one in each]))
        made.append(
            {
                "words": words,
                "n": columns[-1]["n"],
                "patients": columns[-1]["patients"],
                "numbers": [row["number"] for row in shown],
                "rows": rows,
            }
        )
    return made


def _figures(
    workspace: Workspace,
    metrics: dict[str, Any],
    rounds: list[dict[str, Any]],
    used: dict[str, Any],
) -> list[tuple[str, str]]:
    refused, k = metrics["refused"], len(metrics["classes"])
    current = workspace.log.current(columns=[])
    person = current.source == HUMAN
    by_class = [np.bincount(current.class_id[rows], minlength=k) for rows in (person, ~person)]
    drawn = [
        (
            "Mean AUC by round",
            figures.curve(rounds, "mean_auc", refused=refused, ylabel="mean AUC of the findings"),
        ),
        (
            "Macro F1 by round",
            figures.curve(rounds, "macro_f1", refused=refused, ylabel="macro F1"),
        ),
    ]
    for name, words in reversed(SETS):
        if used[name]:
            title = f"ROC of each finding, round {used['number']} on {words}"
            drawn.append((title, figures.roc(used[name], name=f"{name}-roc")))
    drawn += [
        ("Images with each finding", figures.by_class(metrics["classes"], *by_class)),
        ("Scores of the machine's findings", figures.scores(current.score[~person], least=0.5)),
        ("Work of the loop", figures.labels_by_round(rounds, refused=refused)),
    ]
    return [(title, svg) for title, svg in drawn if svg]


def _gallery(
    workspace: Workspace, metrics: dict[str, Any], table: dict[str, Any]
) -> dict[str, list[Picture]]:
    """Show the images that the machine is least sure of, and those that it contradicts most."""
    from medloop.intake import open_dataset

    try:
        dataset = open_dataset(workspace)
    except (MedloopError, OSError):
        dataset = None
    names = [shortened(name, 40) for name in metrics["classes"]]
    number = metrics["round_in_use"]

    def files(images: Ints) -> list[str]:
        rows = np.searchsorted(table["id"], images)  # the table is in the order of the ids
        return [shortened(file, 120) for file in table["file"][rows]]

    made = load_judged(workspace, number, "delivered", Presence)
    sure = np.argsort(sureness(made.probs), kind="stable")[:_PICTURES]
    unsure = [_doubtful(names, probs) for probs in made.probs[sure]]
    judged = load_judged(workspace, number, "held_out", JudgedFindings)
    apart = abs(judged.truth - judged.probs)
    worst = apart.max(axis=1, initial=0.0)
    rows = np.argsort(-worst, kind="stable")[:_PICTURES]
    rows = rows[worst[rows] > 0.5]
    against = [
        [
            f"{names[k]}: person {'yes' if judged.truth[row, k] else 'no'}, model "
            f"{judged.probs[row, k]:.2f}"
            for k in np.argsort(-apart[row], kind="stable")[:_LINES].tolist()
            if apart[row, k] > 0.5
        ]
        for row in rows
    ]
    return {
        "unsure": pictures(dataset, files(made.image[sure]), made.image[sure], unsure),
        "against": pictures(dataset, files(judged.image[rows]), judged.image[rows], against),
    }


def _doubtful(names: list[str], probs: Floats) -> list[str]:
    """Name what is least sure of an image, with its probability."""
    order = np.argsort(abs(probs - 0.5), kind="stable")[:_LINES].tolist()
    return [f"{names[k]} {probs[k]:.2f}" for k in order]
