"""The page of an evaluation: machine labels against a truth that the loop never saw."""

from __future__ import annotations

from typing import Any

from medloop.report import figures
from medloop.report.template import write_page
from medloop.report.words import shortened
from medloop.splits import boxplots
from medloop.store.workspace import Workspace

#: Name in ``evaluation.json``, name on the page.
_MEASURES = (
    ("accuracy", "Accuracy"),
    ("macro_f1", "Macro F1"),
    ("macro_precision", "Macro precision"),
    ("macro_recall", "Macro recall (sensitivity)"),
)
_PER_CLASS = ("precision", "recall", "f1")


def write_evaluation(workspace: Workspace, result: dict[str, Any], grid: str) -> None:
    """Write ``evaluation.html``: one file that refers to nothing outside and runs no script.

    Parameters
    ----------
    workspace : Workspace
    result : dict
        What ``evaluation.json`` holds.
    grid : str
        HTML of the errors, see :func:`medloop.splits.errors_grid`; empty for none.

    Raises
    ------
    WorkspaceError
        The file cannot be written.
    """
    content = _content(shortened(workspace.folder.resolve().name, 80), result, grid)
    write_page(workspace.path("evaluation.html"), "evaluation.html.jinja", content)


def _content(name: str, result: dict[str, Any], grid: str) -> dict[str, Any]:
    """Gather everything that the template says."""
    columns = list(result["rounds"])
    heads = [f"round {row['round']}" for row in columns]
    if columns[-1] == result["delivered"]:
        heads[-1] += ", delivered"
    else:
        columns, heads = [*columns, result["delivered"]], [*heads, "delivered"]
    drawn = [
        (
            f"Confusion matrix, {head}",
            figures.confusion(row, rows="truth", name=f"confusion-{i}"),
        )
        for i, (head, row) in enumerate(zip(heads, columns, strict=True))
        if i in (0, len(columns) - 1)
    ]
    if result["splits"]:
        drawn.append(("F1 on held-out images", boxplots(result["splits"], result["classes"])))
    return {
        "name": name,
        "result": result,
        "heads": heads,
        "rows": [(words, [_cell(column, key) for column in columns]) for key, words in _MEASURES],
        "by_class": [
            (row["class"], row["support"], [_cell(row, key) for key in _PER_CLASS])
            for row in result["delivered"]["per_class"]
        ],
        "figures": [(title, svg) for title, svg in drawn if svg],
        "grid": grid,
    }


def _cell(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {"value": row[key], "interval": row[f"{key}_interval"]}
