"""The page of an evaluation of several findings an image."""

from __future__ import annotations

from typing import Any

from medloop.report import figures
from medloop.report.template import write_page
from medloop.report.words import shortened
from medloop.splits import boxplots
from medloop.store.workspace import Workspace

#: Name in ``evaluation.json``, name on the page.
_MEASURES = (
    ("mean_auc", "Mean AUC of the findings"),
    ("macro_f1", "Macro F1"),
    ("whole", "Images with every finding right"),
)


def write_finding_evaluation(workspace: Workspace, result: dict[str, Any]) -> None:
    """Write ``evaluation.html``: one file that refers to nothing outside and runs no script.

    Parameters
    ----------
    workspace : Workspace
    result : dict
        What ``evaluation.json`` holds.

    Raises
    ------
    WorkspaceError
        The file cannot be written.
    """
    rounds = result["rounds"]
    heads = [f"round {row['round']}" for row in rounds]
    heads[-1] += ", delivered"
    drawn = []
    if result["splits"]:
        drawn.append(("F1 on held-out images", _boxes(result)))
    shown = [0, len(rounds) - 1] if len(rounds) > 1 else [0]
    drawn += [
        (f"ROC of each finding, {heads[i]}", figures.roc(rounds[i], name=f"roc-{i}")) for i in shown
    ]
    content = {
        "name": shortened(workspace.folder.resolve().name, 80),
        "result": result,
        "heads": heads,
        "rows": [
            (words, [(row[key], row[f"{key}_interval"]) for row in rounds])
            for key, words in _MEASURES
        ],
        "findings": [
            (
                name,
                rounds[-1]["per_class"][k]["support"],
                [row["per_class"][k] for row in (rounds[0], rounds[-1])],
            )
            for k, name in enumerate(result["classes"])
        ],
        "figures": [(title, svg) for title, svg in drawn if svg],
    }
    write_page(workspace.path("evaluation.html"), "finding_evaluation.html.jinja", content)


def _boxes(result: dict[str, Any]) -> str:
    """Draw the F1 of each finding that every split could judge."""
    tables = {who: result["splits"][who]["f1"] for who in ("teacher", "student")}
    known = [
        k
        for k in range(len(result["classes"]))
        if all(row[k] is not None for rows in tables.values() for row in rows)
    ]
    if not known:
        return ""
    held = {who: {"f1": [[row[k] for k in known] for row in rows]} for who, rows in tables.items()}
    return boxplots(held, [result["classes"][k] for k in known])
